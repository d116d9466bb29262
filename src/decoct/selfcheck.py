"""Every cut is checked: the smaller model must do what the larger one does with the removed units at zero.

Both run on the example and on random inputs like it, in double precision; they agree to 1e-5 of the largest output, or
the groups at fault are left as they were, with the reason.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from decoct.apply import apply
from decoct.errors import PlanError
from decoct.graph.groups import Graph
from decoct.graph.removal import Removed, counters, cuts, masked
from decoct.plan import Attribute, Edit
from decoct.task import call, device_of, first_line, to_device

TOLERANCE = 1e-5
MOST_TRIALS = 12


def verified(
    model: nn.Module, example: Any, graph: Graph, removed: Removed, tolerance: float = TOLERANCE
) -> tuple[list[Edit], dict[str, str]]:
    """The edits of a removal that was seen to be right, and the groups left out of it with the reason.

    All groups together first; if that fails each by itself, and then as many together as agree.
    """
    removed = {name: units for name, units in removed.items() if len(units)}
    if not removed:
        return [], {}
    edits, reason = _tried(model, example, graph, removed, tolerance)
    if not reason:
        return edits, {}
    refused: dict[str, str] = {}
    right: dict[str, Any] = {}
    for name, units in removed.items():
        _, reason = _tried(model, example, graph, {name: units}, tolerance)
        if reason:
            refused[name] = reason
        else:
            right[name] = units
    if not right:
        return [], refused
    edits, reason = _tried(model, example, graph, right, tolerance)
    if not reason:
        return edits, refused
    together: dict[str, Any] = {}
    edits = []
    for name, units in right.items():
        more, reason = _tried(model, example, graph, {**together, name: units}, tolerance)
        if reason:
            refused[name] = f"with the others: {reason}"
        else:
            together[name], edits = units, more
    return edits, refused


def _tried(model: nn.Module, example: Any, graph: Graph, removed: Removed, tolerance: float) -> tuple[list[Edit], str]:
    """The edits, and "" where they are right or else what is wrong with them.

    Numbers of the model's own modules that may count what is removed are changed as well: all, none, or one of them,
    whichever is seen to be right.
    """
    try:
        edits = cuts(graph, removed)
    except PlanError as error:
        return [], str(error)
    found = list(dict.fromkeys(counters(model, graph, removed)))
    ways: list[list[Attribute]] = [found, *([[]] if found else []), *([each] for each in found if len(found) > 1)]
    said = ""
    reference = masked(model, graph, removed)
    for way in islice(ways, MOST_TRIALS):
        try:
            smaller = apply(model, [*edits, *way])
            gap = difference(reference, smaller, example)
        except PlanError as error:
            said = said or str(error)
            continue
        except Exception as error:  # noqa: BLE001, a forward may raise anything
            said = said or f"the smaller model does not run: {first_line(error)}"
            continue
        if gap <= tolerance:
            return [*edits, *way], ""
        said = said or f"the smaller model's outputs differ from the masked model's by {gap:.1e} of the largest"
    return edits, said


def difference(one: nn.Module, other: nn.Module, example: Any, repeats: int = 2) -> float:
    """The largest difference between two models' outputs as a share of the largest output, in double precision.

    They see the example and, `repeats` times, random inputs like it; whole numbers stay as they are. Of whole
    numbers that come out the share that differs counts.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [example, *(tree_map(lambda value: _like(value, generator), example) for _ in range(repeats))]
    worst = 0.0
    with torch.no_grad():
        try:
            pairs = [_outputs(model, inputs, double=True) for model in (one, other)]
        except Exception:  # noqa: BLE001, a forward that fixes a dtype runs in its own
            pairs = [_outputs(model, inputs, double=False) for model in (one, other)]
    for expected, found in zip(*pairs, strict=True):
        for a, b in zip(expected, found, strict=True):
            if a.shape != b.shape:
                raise PlanError(f"an output of {tuple(a.shape)} becomes one of {tuple(b.shape)}")
            gap = _gap(a, b) if a.numel() else 0.0
            worst = max(worst, gap) if gap == gap else float("inf")
    return worst


def _gap(a: Tensor, b: Tensor) -> float:
    if not (a.is_floating_point() or a.is_complex()):
        return float((a != b).double().mean())
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))


def _outputs(model: nn.Module, inputs: list[Any], double: bool) -> list[list[Tensor]]:
    model = deepcopy(model).eval()
    if double:
        model = model.double()
        inputs = tree_map(lambda value: value.double() if _is_real(value) else value, inputs)
    return [
        [leaf for leaf in tree_leaves(call(model, to_device(each, device_of(model)))) if isinstance(leaf, Tensor)]
        for each in inputs
    ]


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _like(value: Any, generator: torch.Generator) -> Any:
    return torch.randn(value.shape, generator=generator).to(value.dtype) if _is_real(value) else value
