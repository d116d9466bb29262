"""Every cut is checked: the smaller model must do what the larger one does with the removed units at zero.

Both run on the example and on random inputs like it, in double precision; they agree to 1e-5 of the largest output, or
the groups at fault are left as they were, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
MOST_TRIALS = 24


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

    Numbers of the model's own modules that may count what is removed are changed as well, all, none, or some of them:
    whichever is seen to be right, with the model's own weights and with large random ones.
    """
    try:
        edits = cuts(graph, removed)
    except PlanError as error:
        return [], str(error)
    found: dict[Attribute, bool] = {}
    for each, doubtful in counters(model, graph, removed):
        found[each] = found.get(each, False) or doubtful
    said = ""
    reference = masked(model, graph, removed)
    loud = _loud(model, example)
    for way in islice(_ways(found), MOST_TRIALS):
        try:
            smaller = apply(model, [*edits, *way])
            gap = difference(reference, smaller, example)
            if gap <= tolerance and loud is not None:
                gap = difference(masked(loud, graph, removed), apply(loud, [*edits, *way]), example, repeats=0)
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


def _ways(found: dict[Attribute, bool]) -> Iterator[list[Attribute]]:
    """Those that count nothing else, all, none, the first with more of one name, all but those of one name.

    Layers that are alike but for a number in their path go together.
    """
    sure = [each for each, doubtful in found.items() if not doubtful]
    kinds: dict[tuple[str, str], list[Attribute]] = {}
    for each in found:
        kinds.setdefault((re.sub(r"\d+", "", each.module), each.name), []).append(each)
    seen: list[list[Attribute]] = []
    for way in (
        sure, list(found), [],
        *([each for each in found if each in sure or each in kind] for kind in kinds.values()),
        *([each for each in found if each not in kind] for kind in kinds.values()),
    ):  # fmt: skip
        if way not in seen:
            seen.append(way)
            yield way


def _loud(model: nn.Module, example: Any) -> nn.Module | None:
    """The model with random weights, large enough that nothing in it is negligible; None if it fails.

    Attention over small weights is nearly the same at every position, however its heads are parted.
    """
    model = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() > 1 and tensor.is_floating_point():
                fan_in = max(tensor[0].numel(), 1)
                tensor.copy_(torch.randn(tensor.shape, generator=generator).to(tensor) * 1.5 / fan_in**0.5)
    try:
        return model if difference(model, model, example, repeats=0) == 0 else None
    except Exception:  # noqa: BLE001, a forward may raise anything
        return None


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
