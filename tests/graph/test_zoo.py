"""Every small graph of `zoo`: no cut is silently wrong, what is dead can go, and what stays has a reason.

All checks are made here anew, in double precision, from the edits alone: what they drop is zeroed in one model and cut
out of another.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

from decoct.apply import apply
from decoct.errors import TraceError
from decoct.graph import Graph, groups
from decoct.plan import Edit, Keep
from decoct.selfcheck import verified
from decoct.task import call

# Planted channels that are not removable yet, and a word of the reason; "" where the dimension can be cut, but in
# another way than the planted one. A case that leaves these lists is progress; one that joins them is an ability lost.
NEVER_OFFERED = {
    "shortcut_padding": "puts its own values beside it",
    "constant_made": "cannot be cut",
    "constant_from_width": "cannot be cut",
    "chunk_uneven": "by number",
    "split_uneven": "by number",
    "slice_front": "",  # channels 1 and 5 go together
    "narrow": "by number",
    "fancy_index": "by number",
    "expand": "cannot be cut",
    "resnext_groups": "",  # one channel of every group goes
    "bilinear_pooling": "another dimension that can be cut",
    "bilinear_layer": "not understood",
    "similarity": "norm",
    "view_rows": "",  # the same place of every row goes
    "attention_values": "",  # a head goes
    "multihead_attention": "cannot be cut",
}
REFUSED = {
    "index_select": "does not run",
    "roll": "differ",
    "slice_assign": "differ",
    "view_literal": "does not run",
    "attention_fused": "does not run",
    "attention_sdpa": "does not run",
    "grouped_query_expand": "does not run",
    "lstm_cell": "does not run",
    "spectral": "parametrized by _SpectralNorm",
}

ALSO_REFUSED = {"slice_front", "view_rows", "attention_values", "multihead_attention"}
"""Where half of every group is refused, though nothing planted is."""

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
cases = pytest.mark.parametrize("case", zoo.CASES, ids=[case.name for case in zoo.CASES])
planted = pytest.mark.parametrize("case", [case for case in zoo.CASES if case.plant], ids=lambda case: case.name)
unplanted = pytest.mark.parametrize("case", [case for case in zoo.CASES if not case.plant], ids=lambda case: case.name)


def test_the_lists_name_cases_that_are_planted() -> None:
    names = {case.name for case in zoo.CASES if case.plant}
    assert set(NEVER_OFFERED) | set(REFUSED) | ALSO_REFUSED <= names
    assert not set(NEVER_OFFERED) & set(REFUSED) and len(zoo.CASES) == 144


@cases
def test_what_is_cut_is_what_was_masked(case: zoo.Case) -> None:
    """Half of the units of every group, drawn by lot."""
    model, example = case.build(), case.example()
    before = everything(model)
    try:
        graph = groups(model, example)
    except TraceError:
        assert case.name == "control_flow"
        return
    draw = np.random.default_rng(0)
    removed = {
        group.name: np.sort(draw.permutation(group.size)[: max(group.size // 2, 1)]) for group in graph.groups
    }  # fmt: skip
    edits, refused = verified(model, example, graph, removed)
    smaller = apply(model, edits)
    assert_same(before, everything(model))
    assert all(refused.values()), "a refusal has a reason"
    assert set(refused) <= set(removed)
    assert bool(refused) == (case.name in ALSO_REFUSED | set(REFUSED)), refused
    assert_cut(graph, edits, {name: len(units) for name, units in removed.items() if name not in refused})
    assert gap(masked(case.build(), edits), smaller, example) < 1e-6  # weights that are computed are made in float


@planted
def test_what_is_dead_can_go(case: zoo.Case) -> None:
    model, example = case.build(), case.example()
    assert case.plant is not None
    tensor, dim, positions = case.plant(model)
    before = everything(model)
    graph = groups(model, example)
    removed = within(graph, tensor, dim, positions)
    if case.name in NEVER_OFFERED:
        assert not removed, f"{case.name} can be cut now: take it off the list"
        reasons = [each.reason for each in graph.frozen if (each.tensor, each.dim) == (tensor, dim)]
        assert [NEVER_OFFERED[case.name] in reason for reason in reasons] == [True] * bool(NEVER_OFFERED[case.name])
        return
    assert removed, f"{case.name} could be cut before"
    edits, refused = verified(model, example, graph, removed)
    assert_same(before, everything(model))
    if case.name in REFUSED:
        assert refused, f"{case.name} can be cut now: take it off the list"
        assert set(refused) == set(removed) and not edits
        assert all(REFUSED[case.name] in reason for reason in refused.values())
        return
    assert not refused
    gone = {place for edit in edits if isinstance(edit, Keep) and (edit.tensor, edit.dim) == (tensor, dim)
            for place in set(range(edit.size)) - set(edit.index.tolist())}  # fmt: skip
    assert gone == set(positions), "all that is planted goes, and nothing else of this dimension"
    smaller = apply(model, edits)
    assert_same(before, everything(model))
    assert gap(model, smaller, example) < 1e-6
    assert weight(smaller) < weight(model)


@unplanted
def test_what_cannot_go_says_why(case: zoo.Case) -> None:
    model, example = case.build(), case.example()
    if case.name == "control_flow":
        with pytest.raises(TraceError, match=r"data-dependent control flow in the model: .*torch\.where"):
            groups(model, example)
        return
    graph = groups(model, example)
    assert not any(member.tensor.startswith("conv1.") and member.dim == 0 for group in graph.groups
                   for member in group.members)  # fmt: skip
    (frozen,) = [each for each in graph.frozen if (each.tensor, each.dim) == ("conv1.weight", 0)]
    assert frozen.positions == model.conv1.out_channels  # type: ignore[union-attr]
    assert re.search(case.refused, frozen.reason, re.IGNORECASE)


# ------------------------------------------------------------------------------------------- judged without the library


def within(graph: Graph, tensor: str, dim: int, positions: list[int]) -> dict[str, list[int]]:
    """The units, by group, whose positions in one dimension are all among these."""
    found: dict[str, list[int]] = {}
    for group in graph.groups:
        for member in group.members:
            if (member.tensor, member.dim) == (tensor, dim):
                units = set(member.units.tolist()) - {-1}
                stay = {int(unit) for place, unit in enumerate(member.units) if place not in positions}
                if units - stay:
                    found[group.name] = sorted(units - stay)
    return found


def masked(model: nn.Module, edits: list[Edit]) -> nn.Module:
    """The model, made over, with zeros at every position that an edit drops."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for edit in edits:
        if isinstance(edit, Keep) and tensors[edit.tensor].is_floating_point():
            gone = [place for place in range(edit.size) if place not in edit.index.tolist()]
            with torch.no_grad():
                tensors[edit.tensor].index_fill_(edit.dim, torch.tensor(gone, dtype=torch.int64), 0.0)
    return model


def assert_cut(graph: Graph, edits: list[Edit], lost: dict[str, int]) -> None:
    """Every dimension of a group that is cut loses the positions of so many units, and no other is touched."""
    expected = {}
    for name, count in lost.items():
        for member in graph.group(name).members:
            held = int((member.units >= 0).sum())
            place = (member.tensor, member.dim)
            expected[place] = expected.get(place, len(member.units)) - held // graph.group(name).size * count
    assert {(edit.tensor, edit.dim): len(edit.index) for edit in edits if isinstance(edit, Keep)} == expected


def gap(one: nn.Module, other: nn.Module, example: Any) -> float:
    """The largest difference of the outputs as a share of the largest, on the example and on a second like it."""
    worst = 0.0
    for inputs in (example, second(example)):
        inputs = tree_map(lambda value: value.double() if value.is_floating_point() else value, inputs)
        with torch.no_grad():
            pairs = zip(*(tree_leaves(call(model.double(), inputs)) for model in (one, other)), strict=True)
            for a, b in pairs:
                assert a.shape == b.shape
                worst = max(worst, float((a - b).abs().max() / a.abs().max()))
    return worst


def second(example: Any) -> Any:
    """Other numbers in the shape of the example; whole numbers as they are."""
    draw = torch.Generator().manual_seed(5)
    return tree_map(
        lambda value: torch.randn(value.shape, generator=draw) if value.is_floating_point() else value, example
    )


def weight(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def everything(model: nn.Module) -> dict[str, Any]:
    """All tensors, and all that modules note beside them, by name."""
    tensors = {name: each.detach().clone() for name, each in [*model.named_parameters(), *model.named_buffers()]}
    numbers = {
        f"{path}.{key}": value for path, module in model.named_modules() for key, value in vars(module).items()
        if isinstance(value, int | float | tuple | str)
    }  # fmt: skip
    return tensors | numbers | {"type": [type(module) for module in model.modules()]}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name], name
