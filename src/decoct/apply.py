"""The only code that writes a model: edits in, a changed copy out."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from decoct.errors import PlanError, nearest
from decoct.plan import Cast, Code, Draft, Edit, Set, Share, Zero, merge, tied


def extend(draft: Draft, edits: Iterable[Edit]) -> Draft:
    """The draft after `edits`: model rewritten, plan merged, every promise checked on the values.

    PlanError: an edit names no tensor, has another shape, or breaks a promise. The draft given is untouched.
    """
    edits = [_owned(draft, edit) for edit in edits]
    plan = merge(draft.plan, edits)
    touched = {name for edit in edits for name in (edit.tensors if isinstance(edit, Set) else [edit.tensor])}
    carried = [edit for edit in plan if isinstance(edit, Share) and edit.tensor in touched]
    model = apply(draft.model, [*edits, *carried])
    after = replace(draft, model=model, plan=plan)
    tensors = after.tensors()
    for edit in plan:
        if not isinstance(edit, Set) and edit.tensor in touched:
            _check(edit, tensors[edit.tensor])
    return after


def apply(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of `model` with the edits done in their order; the model given is untouched."""
    model = deepcopy(model)
    tensors = dict(model.state_dict(keep_vars=True))
    with torch.no_grad():
        for edit in edits:
            for name, values in _writes(edit, tensors):
                tensors[name].copy_(values)
    return model


def _writes(edit: Edit, tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    if isinstance(edit, Set):
        return [(name, _fitting(name, values, tensors)) for name, values in edit.tensors.items()]
    old = _fitting(edit.tensor, None, tensors)
    match edit:
        case Zero():
            mask = _fitting(edit.tensor, edit.mask, tensors)
            return [(edit.tensor, torch.where(mask, old, torch.zeros_like(old)))]
        case Share():
            return [(edit.tensor, _fitting(edit.tensor, edit.values(), tensors))]
        case Cast():
            return [(edit.tensor, edit.round(old))]
        case Code():
            return []
    raise PlanError(f"{edit!r} is not an edit")


def _fitting(name: str, values: Tensor | None, tensors: dict[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise PlanError(f"the model has no tensor {name!r}{nearest(name, tensors)}")
    if values is None:
        return tensors[name]
    if values.shape != tensors[name].shape:
        raise PlanError(f"{name} has the shape {tuple(tensors[name].shape)}; the edit brings {tuple(values.shape)}")
    return values.to(tensors[name].device)


def _check(edit: Zero | Share | Cast | Code, values: Tensor) -> None:
    """PlanError unless `values` keep the promise that the edit makes."""
    kept = True
    match edit:
        case Zero():
            kept = not values[~edit.mask.to(values.device)].any()
        case Share():
            kept = torch.equal(values, edit.values().to(values))
        case Cast():
            kept = torch.equal(values, edit.round(values))
    if not kept:
        raise PlanError(f"the values of {edit.tensor} break the {type(edit).__name__} that was promised for it")


def _owned(draft: Draft, edit: Edit) -> Edit:
    """The edit on the owner of a tied tensor, whichever of its names was used."""
    aliases = tied(draft.model)
    if isinstance(edit, Set):
        return Set({aliases.get(name, name): values for name, values in edit.tensors.items()})
    return replace(edit, tensor=aliases.get(edit.tensor, edit.tensor))


def between(before: Draft, after: Draft) -> list[Edit]:
    """The edits that lead from one draft to a later one of the same structure."""
    old, new = before.tensors(), after.tensors()
    shared = {edit.tensor for edit in after.plan if isinstance(edit, Share)}
    values = {name: new[name] for name in new if name not in shared and not torch.equal(new[name], old[name])}
    return [*([Set(values)] if values else []), *(edit for edit in after.plan if not isinstance(edit, Set))]
