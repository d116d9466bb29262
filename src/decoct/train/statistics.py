"""BatchNorm statistics, estimated anew: after a change of weights the old ones describe activations that are gone."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from decoct.plan import Cast, Draft, Edit, Set
from decoct.task import Task, call, device_of, to_device


def reestimate(draft: Draft, task: Task, batches: int) -> list[Edit]:
    """A Set of running means and variances: their averages over the first `batches` of training data.

    Nothing for a model without BatchNorm, or for 0 batches; a BatchNorm that does not run keeps what it has.
    """
    model = deepcopy(draft.model).eval()
    norms = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    if not norms or batches < 1:
        return []
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    with torch.no_grad():
        for batch in islice(task.batches("train"), batches):
            call(model, task.split(to_device(batch, device_of(model)))[0])
    values = {}
    for path, norm in norms.items():
        for leaf in ("running_mean", "running_var") if norm.num_batches_tracked else ():
            name = f"{path}.{leaf}".removeprefix(".")
            cast = draft.promises(name).get(Cast)
            found = getattr(norm, leaf).clone()
            values[name] = found if cast is None else cast.round(found)
    return [Set(values)] if values else []
