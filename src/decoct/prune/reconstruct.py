"""What the readers of removed channels can make up for, before any training.

absorbed   a reader with a bias takes over the mean of what it no longer sees: b + sum_i W_i E[x_i]. For a channel
           that is constant this is exact, but for borders padded with zeros.
fitted     a reader's weights are fitted by least squares, so that it gives on the channels that are left what it
           gave on all of them: min || Y - W X' ||^2, layer by layer, each on the inputs that it will really have.
           Yihui He, Xiangyu Zhang, Jian Sun: Channel Pruning for Accelerating Very Deep Neural Networks.
           ICCV 2017, arXiv 1707.06168.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decoct.events import emit
from decoct.graph.tape import plain
from decoct.plan import Cast, Draft, Edit, Set, Share, Zero
from decoct.task import Task, call, device_of, to_device

Positions = Mapping[tuple[str, int], np.ndarray]
ROWS = 4096
"""Input patches of a batch that a fit looks at, at the most."""
DAMPING = 1e-3
"""Pull towards the weights as they are, in shares of the mean square of an input."""


def absorbed(before: Draft, after: Draft, task: Task, gone: Positions, batches: int) -> list[Edit]:
    """A Set of the biases of the layers that lost inputs; nothing for layers without a bias."""
    old = plain(before.model)
    names = [name for name, layer in _readers(old, gone).items() if layer.bias is not None]
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, layer: nn.Module, inputs: Tensor, _: Tensor) -> None:
        _add(sums, name, _channel_means(layer, inputs))
        counts[name] = counts.get(name, 0) + 1

    with _Watching(old, names, see):
        _run([old], task, batches)
    values = {}
    tensors = after.tensors()
    for name in names:
        layer: Any = old.get_submodule(name)
        lost = torch.from_numpy(np.flatnonzero(gone[f"{name}.weight", 1]))
        shift = layer.weight.detach().flatten(2).sum(2) if layer.weight.dim() > 2 else layer.weight.detach()
        shift = shift[:, lost].double() @ (sums[name] / counts[name])[lost]
        if (rows := gone.get((f"{name}.weight", 0))) is not None:
            shift = shift[torch.from_numpy(np.flatnonzero(~rows))]
        if f"{name}.bias" in tensors:
            values[f"{name}.bias"] = tensors[f"{name}.bias"] + shift.to(tensors[f"{name}.bias"])
    return _kept(after, values)


def fitted(before: Draft, after: Draft, task: Task, gone: Positions, batches: int) -> list[Edit]:
    """A Set of the weights (and biases) of the layers that lost inputs.

    A missing bias is left to the BatchNorm statistics that are estimated afterwards. Entries that were promised to be
    zero stay so, though the fit does not know of it; shared weights are left as they are.
    """
    old, new = plain(before.model), deepcopy(after.model).eval()
    values: dict[str, Tensor] = {}
    tensors = after.tensors()
    readers = [
        name for name in _readers(old, gone)
        if f"{name}.weight" in tensors and Share not in after.promises(f"{name}.weight")
    ]  # fmt: skip
    for done, name in enumerate(readers, start=1):
        layer: Any = new.get_submodule(name)
        rows = gone.get((f"{name}.weight", 0))
        kept = slice(None) if rows is None else torch.from_numpy(np.flatnonzero(~rows))
        weight, intercept = _least_squares(old, new, name, kept, task, batches)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(intercept)
        for leaf in ("weight", "bias") if layer.bias is not None else ("weight",):
            values[f"{name}.{leaf}"] = getattr(layer, leaf).detach().clone()
        emit("progress", what="fitting", done=done, total=len(readers))
    return _kept(after, values)


def _kept(draft: Draft, values: dict[str, Tensor]) -> list[Edit]:
    """A Set of values as the promises of the draft allow them; shared tensors have their codebooks and are left out."""
    allowed = {}
    for name, value in values.items():
        promises = draft.promises(name)
        if Share in promises:
            continue
        if Zero in promises:
            value = value * promises[Zero].mask.to(value.device)
        allowed[name] = promises[Cast].round(value) if Cast in promises else value
    return [Set(allowed)] if allowed else []


def _least_squares(
    old: nn.Module, new: nn.Module, name: str, kept: Any, task: Task, batches: int
) -> tuple[Tensor, Tensor]:
    """The weight and intercept of a layer of `new` that come nearest to the outputs of its like in `old`."""
    layer: Any = new.get_submodule(name)
    wanted: list[Tensor] = []
    moments: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(0)

    def see(_: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        wanted.append(outputs)
        raise _EnoughError

    def meet(_: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        rows, target = _patches(module, inputs), _rows(module, wanted.pop())  # (rows, fan-in), (rows, out)
        some = torch.randperm(len(rows), generator=draw)[:ROWS]
        x = _with_one(rows[some].double())
        _add(moments, "xx", x.T @ x)
        _add(moments, "xy", x.T @ target[some][:, kept].double())
        raise _EnoughError

    with _Watching(old, [name], see), _Watching(new, [name], meet):
        _run([old, new], task, batches)
    start = torch.zeros_like(moments["xy"])
    start[:-1] = layer.weight.detach().flatten(1).T
    if layer.bias is not None:
        start[-1] = layer.bias.detach()
    matrix = moments["xx"].clone()
    matrix.diagonal().add_(DAMPING * matrix.diagonal()[:-1].mean())
    error = moments["xy"] - moments["xx"] @ start
    free = slice(None) if layer.bias is not None or _normalised(new) else slice(-1)  # the intercept, if anything is it
    solution = start.clone()
    solution[free] += torch.linalg.solve(matrix[free, free], error[free])
    return solution[:-1].T.reshape(layer.weight.shape).to(layer.weight), solution[-1].to(layer.weight)


def covariances(model: nn.Module, task: Task, batches: int) -> dict[str, Tensor]:
    """The covariance of what each output of a layer is computed from, (fan-in, fan-in), by the name of its weight."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    draw = torch.Generator().manual_seed(0)

    def see(name: str, layer: nn.Module, inputs: Tensor, _: Tensor) -> None:
        rows = _patches(layer, inputs)
        x = rows[torch.randperm(len(rows), generator=draw)[:ROWS]].double()
        counts[name] = counts.get(name, 0) + len(x)
        _add(sums, name, _with_one(x).T @ x)

    with _Watching(model, list(_plain_layers(model)), see):
        _run([model], task, batches)
    found = {}
    for name, total in sums.items():
        mean = total[-1] / counts[name]
        found[f"{name}.weight"] = total[:-1] / counts[name] - mean[:, None] * mean
    return found


def _plain_layers(model: nn.Module) -> dict[str, Any]:
    """Dense layers and convolutions without groups, by name."""
    return {
        name: layer for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }  # fmt: skip


def _readers(model: nn.Module, gone: Positions) -> dict[str, Any]:
    """The dense layers and plain convolutions that lose inputs, by name, in the order of the network."""
    lost = {tensor.removesuffix(".weight") for tensor, dim in gone if dim == 1 and tensor.endswith(".weight")}
    return {name: layer for name, layer in _plain_layers(model).items() if name in lost}


def _patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What each output of a layer is computed from, (rows, fan-in)."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    size: Any = layer.kernel_size
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    unfolded = F.unfold(padded, size, layer.dilation, 0, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """What goes into or comes out of a layer as (rows, channels)."""
    return (values if isinstance(layer, nn.Linear) else values.movedim(1, -1)).flatten(0, -2)


def _channel_means(layer: nn.Module, inputs: Tensor) -> Tensor:
    return _rows(layer, inputs).double().mean(0)


def _with_one(rows: Tensor) -> Tensor:
    """Rows with a last column of ones, for the intercept."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def _normalised(model: nn.Module) -> bool:
    """Whether there are BatchNorm statistics to take up a shift."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def _add(sums: dict[str, Tensor], name: str, values: Tensor) -> None:
    sums[name] = sums[name] + values if name in sums else values


class _Watching:
    """Within the block, `seen(name, layer, inputs, outputs)` is called whenever one of the layers runs."""

    def __init__(
        self, model: nn.Module, names: list[str], seen: Callable[[str, nn.Module, Tensor, Tensor], None]
    ) -> None:
        self.hooks = [
            (model.get_submodule(name), lambda layer, inputs, outputs, name=name: seen(name, layer, inputs[0], outputs))
            for name in names
        ]

    def __enter__(self) -> None:
        self.handles = [layer.register_forward_hook(hook) for layer, hook in self.hooks]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


class _EnoughError(Exception):
    """What was to be seen in a forward has been seen."""


def _run(models: list[nn.Module], task: Task, batches: int) -> int:
    """Run models, one after the other, on each of the first training batches; how many there were."""
    count = 0
    with torch.no_grad():
        for batch in islice(task.batches("train"), batches):
            inputs = task.split(to_device(batch, device_of(models[0])))[0]
            for model in models:
                with suppress(_EnoughError):
                    call(model, inputs)
            count += 1
    return count
