"""The only code that writes a model: edits in, a changed copy out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from decoct.errors import PlanError, nearest
from decoct.plan import BINDING, Attribute, Cast, Code, Draft, Edit, Keep, Set, Share, Structure, Zero, merge, tied
from decoct.surgery import reshape


def extend(draft: Draft, edits: Iterable[Edit]) -> Draft:
    """The draft after `edits`: model rewritten, plan merged, every promise checked on the values.

    PlanError: an edit names no tensor, has another shape, or breaks a promise. The draft given is untouched.
    """
    aliases = tied(draft.model)
    edits = [_owned(edit, aliases) for edit in edits]
    plan = merge(draft.plan, edits)
    touched = {name for edit in edits for name in _names(edit)}
    carried = [edit for edit in plan if isinstance(edit, Share) and edit.tensor in touched]
    model = apply(draft.model, [*edits, *carried])
    remade = _remade(edits, model)
    touched |= {name for edit in remade for name in edit.tensors}
    after = replace(draft, model=model, plan=merge(plan, remade))
    tensors = after.tensors()
    for edit in after.plan:
        if isinstance(edit, BINDING) and edit.tensor in touched:
            _check(edit, tensors[edit.tensor])
    return after


def apply(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of `model` with the edits done in their order; the model given is untouched."""
    model = deepcopy(model)
    for shapes, run in groupby(edits, lambda edit: isinstance(edit, Structure)):
        if shapes:
            reshape(model, run)  # type: ignore[arg-type]
            continue
        tensors = dict(model.state_dict(keep_vars=True))
        with torch.no_grad():
            for edit in run:
                for name, values in _writes(edit, tensors):
                    tensors[name].copy_(values)
    return model


def _names(edit: Edit) -> Iterable[str]:
    """The tensors that an edit is about."""
    if isinstance(edit, Attribute):
        return []
    return edit.tensors if isinstance(edit, Set) else [edit.tensor]


def _remade(edits: Iterable[Edit], model: nn.Module) -> list[Set]:
    """The values that cut parametrized tensors are made of from now on."""
    roots = {edit.tensor for edit in edits if isinstance(edit, Keep)}
    state = model.state_dict()
    values = {
        name: state[name].clone()
        for path, _, leaf in (root.rpartition(".") for root in roots if root not in state)
        for name in state
        if name.startswith(f"{path}.parametrizations.{leaf}.".removeprefix("."))
    }
    return [Set(values)] if values else []


def _writes(edit: Edit, tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    if isinstance(edit, Set):
        return [(name, _fitting(name, values, tensors)) for name, values in edit.tensors.items()]
    assert not isinstance(edit, Attribute)  # which is of the structure
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
            kept = edit.mask.shape == values.shape and not values[~edit.mask.to(values.device)].any()
        case Share():
            kept = torch.equal(values, edit.values().to(values))
        case Cast():
            kept = torch.equal(values, edit.round(values))
    if not kept:
        raise PlanError(f"the values of {edit.tensor} break the {type(edit).__name__} that was promised for it")


def _owned(edit: Edit, aliases: Mapping[str, str]) -> Edit:
    """The edit on the owner of a tied tensor, whichever of its names was used."""
    if isinstance(edit, Set):
        return Set({aliases.get(name, name): values for name, values in edit.tensors.items()})
    if isinstance(edit, Attribute):
        return edit
    return replace(edit, tensor=aliases.get(edit.tensor, edit.tensor))


def between(before: Draft, after: Draft) -> list[Edit]:
    """The edits that lead from one draft to a later one."""
    structure = _since(before.structure(), after.structure())
    old, new = before.tensors(), after.tensors()
    for edit in structure:
        if isinstance(edit, Keep) and edit.tensor in old:
            old[edit.tensor] = edit.of(old[edit.tensor])
    shared = {edit.tensor for edit in after.plan if isinstance(edit, Share)}
    values = {name: new[name] for name in new if name not in shared and not torch.equal(new[name], old[name])}
    return [*structure, *([Set(values)] if values else []), *(edit for edit in after.plan if isinstance(edit, BINDING))]


def _since(earlier: Iterable[Structure], later: Iterable[Structure]) -> list[Structure]:
    """What changed shapes after `earlier` had, counted from where it left off."""
    done = {(edit.tensor, edit.dim): edit.index for edit in earlier if isinstance(edit, Keep)}
    set_before = [edit for edit in earlier if isinstance(edit, Attribute)]
    found: list[Structure] = []
    for edit in later:
        if isinstance(edit, Attribute):
            found += [edit] if edit not in set_before else []
            continue
        held = done.get((edit.tensor, edit.dim), torch.arange(edit.size))
        if len(edit.index) < len(held):
            found.append(replace(edit, index=torch.searchsorted(held, edit.index), size=len(held)))
    return found
