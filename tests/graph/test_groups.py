"""Groups: whole graphs written out by hand, what they cost, and every network of decoct."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from decoct import measure, models
from decoct.apply import apply
from decoct.errors import RecipeError
from decoct.graph import Graph, Group, groups
from decoct.graph import flow as flows
from decoct.graph.groups import components
from decoct.graph.labels import Flow
from decoct.graph.movement import Markers
from decoct.models.resnet import Block
from decoct.plan import Attribute
from decoct.selfcheck import verified

INPUT = "aten.convolution sums it with what cannot be cut: the input, space or time"
OUTPUT = "it is the model's output"
NORM = {"weight": "scale", "bias": "shift", "running_mean": "", "running_var": ""}


def sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def outline(group: Group) -> dict[tuple[str, int], tuple[list[int], str]]:
    """The members of a group: (tensor, dimension) -> units, roles."""
    return {(each.tensor, each.dim): (each.units.tolist(), " ".join(sorted(each.roles))) for each in group.members}


def norm(name: str, units: list[int]) -> dict[tuple[str, int], tuple[list[int], str]]:
    return {(f"{name}.{leaf}", 0): (units, role) for leaf, role in NORM.items()}


def frozen(graph: Graph) -> dict[tuple[str, int], tuple[int, str]]:
    return {(each.tensor, each.dim): (each.positions, each.reason) for each in graph.frozen}


def halved(graph: Graph) -> dict[str, np.ndarray]:
    """Every second unit of every group."""
    return {group.name: np.arange(0, group.size, 2) for group in graph.groups}


# ------------------------------------------------------------------------------------------------------ by hand


def test_a_chain_of_layers() -> None:
    model = sequence(
        conv1=nn.Conv2d(3, 4, 3, padding=1, bias=False), bn=nn.BatchNorm2d(4), relu=nn.ReLU(),
        conv2=nn.Conv2d(4, 2, 3, padding=1), flatten=nn.Flatten(), fc=nn.Linear(8, 3),
    )  # fmt: skip
    graph = groups(model, torch.randn(1, 3, 2, 2))
    assert [(group.name, group.size, group.counts) for group in graph.groups] == [("conv1", 4, ()), ("conv2", 2, ())]
    every = [0, 1, 2, 3]
    assert outline(graph.groups[0]) == {
        ("conv1.weight", 0): (every, "out"), **norm("bn", every), ("conv2.weight", 1): (every, "in"),
    }  # fmt: skip
    assert outline(graph.groups[1]) == {
        ("conv2.weight", 0): ([0, 1], "out"),
        ("conv2.bias", 0): ([0, 1], "shift"),
        ("fc.weight", 1): ([0, 0, 0, 0, 1, 1, 1, 1], "in"),  # four pixels a channel
    }
    assert frozen(graph) == {
        ("conv1.weight", 1): (3, INPUT), ("fc.weight", 0): (3, OUTPUT), ("fc.bias", 0): (3, OUTPUT),
    }  # fmt: skip
    assert [(work.module, work.macs) for work in graph.work] == [
        ("conv1", 3 * 4 * 9 * 4), ("conv2", 4 * 2 * 9 * 4), ("fc", 8 * 3),
    ]  # fmt: skip
    assert graph.macs() == 744
    assert graph.macs({"conv1": [0, 2], "conv2": [1]}) == 432 // 2 + 288 // 4 + 24 // 2


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner, self.bn = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.outer, self.head = nn.Conv2d(6, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.outer(self.bn(self.inner(x)).relu())
        return self.head(x.mean((2, 3)))


def test_a_sum_ties_what_is_added() -> None:
    graph = groups(Residual(), torch.randn(1, 3, 4, 4))
    tied, inside = [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]
    assert {group.name: outline(group) for group in graph.groups} == {
        "stem": {
            ("stem.weight", 0): (tied, "out"), ("stem.bias", 0): (tied, "shift"),
            ("outer.weight", 0): (tied, "out"), ("outer.bias", 0): (tied, "shift"),
            ("inner.weight", 1): (tied, "in"), ("head.weight", 1): (tied, "in"),
        },
        "inner": {
            ("inner.weight", 0): (inside, "out"), **norm("bn", inside), ("outer.weight", 1): (inside, "in"),
        },
    }  # fmt: skip


def test_a_depthwise_convolution_is_tied_on_both_sides_and_its_groups_are_counted() -> None:
    model = sequence(first=nn.Conv2d(3, 4, 1), depth=nn.Conv2d(4, 8, 3, groups=4, bias=False), last=nn.Conv2d(8, 2, 1))
    (group,) = groups(model, torch.randn(1, 3, 4, 4)).groups
    assert outline(group) == {
        ("first.weight", 0): ([0, 1, 2, 3], "out"), ("first.bias", 0): ([0, 1, 2, 3], "shift"),
        ("depth.weight", 0): ([0, 0, 1, 1, 2, 2, 3, 3], "out"), ("last.weight", 1): ([0, 0, 1, 1, 2, 2, 3, 3], "in"),
    }  # fmt: skip
    assert [(module, name, units.tolist()) for module, name, units in group.counts] == [
        ("depth", "groups", [0, 1, 2, 3])
    ]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_grouped_convolution_loses_the_same_channel_of_every_group(shuffled: bool) -> None:
    """Of two groups of four channels 0 goes with 4; dealt out in turn they lie side by side."""
    model = sequence(
        grouped=nn.Conv2d(8, 8, 1, groups=2), shuffle=nn.ChannelShuffle(2) if shuffled else nn.Identity(),
        last=nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    (group,) = groups(model, torch.randn(1, 8, 2, 2)).groups
    assert outline(group) == {
        ("grouped.weight", 0): ([0, 1, 2, 3, 0, 1, 2, 3], "out"),
        ("grouped.bias", 0): ([0, 1, 2, 3, 0, 1, 2, 3], "shift"),
        ("last.weight", 1): ([0, 0, 1, 1, 2, 2, 3, 3] if shuffled else [0, 1, 2, 3, 0, 1, 2, 3], "in"),
    }


class OptionA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 1, bias=False), Block(4, 8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def test_a_padded_shortcut_ties_the_middle_and_freezes_what_meets_the_padding() -> None:
    """Two channels of zeros before, two after: channel c of the stem is channel c + 2 of the block."""
    graph = groups(OptionA(), torch.randn(1, 3, 4, 4))
    inner, middle = list(range(8)), [-1, -1, 0, 1, 2, 3, -1, -1]
    assert {group.name: outline(group) for group in graph.groups} == {
        "stem": {
            ("stem.weight", 0): ([0, 1, 2, 3], "out"), ("block.conv1.weight", 1): ([0, 1, 2, 3], "in"),
            ("block.conv2.weight", 0): (middle, "out"), **norm("block.bn2", middle), ("head.weight", 1): (middle, "in"),
        },
        "block.conv1": {
            ("block.conv1.weight", 0): (inner, "out"), **norm("block.bn1", inner),
            ("block.conv2.weight", 1): (inner, "in"),
        },
    }  # fmt: skip
    padding = "aten.constant_pad_nd in block.shortcut puts its own values beside it"
    held = [("block.conv2.weight", 0), *((f"block.bn2.{leaf}", 0) for leaf in NORM), ("head.weight", 1)]
    assert frozen(graph) == {
        ("stem.weight", 1): (3, INPUT), ("head.weight", 0): (2, OUTPUT), ("head.bias", 0): (2, OUTPUT),
        **dict.fromkeys(held, (4, padding)),
    }  # fmt: skip


def test_sixteen_channels_run_through_resnet_20() -> None:
    """They are the middle of the 32 of the second stage, and of the 64 of the third."""
    graph = groups(models.resnet_20(), torch.randn(1, 3, 32, 32))
    assert {group.name: group.size for group in graph.groups} == {
        "conv1": 16,
        **{f"layer{stage}.{block}.conv1": 8 * 2**stage for stage in (1, 2, 3) for block in (0, 1, 2)},
    }
    tied = outline(graph.group("conv1"))
    for stage, width, first in ((1, 16, 0), (2, 32, 8), (3, 64, 24)):
        for block in (0, 1, 2):
            units, role = tied[f"layer{stage}.{block}.conv2.weight", 0]
            assert role == "out" and len(units) == width
            assert units == [*[-1] * first, *range(16), *[-1] * (width - 16 - first)]
    reasons = frozen(graph)
    assert reasons["layer2.2.bn2.bias", 0] == (16, reason("layer2.0"))
    assert reasons["layer3.0.conv1.weight", 1] == (16, reason("layer2.0"))
    assert reasons["layer3.1.conv2.weight", 0] == reasons["linear.weight", 1] == (48, reason("layer3.0"))
    assert {why for _, why in reasons.values()} == {INPUT, OUTPUT, reason("layer2.0"), reason("layer3.0")}


def reason(block: str) -> str:
    return f"aten.constant_pad_nd in {block}.shortcut puts its own values beside it"


def test_heads_go_as_a_whole_and_their_number_follows() -> None:
    model = models.vit_small(dim=12, depth=2, heads=3, patch=16).eval()
    example = torch.randn(2, 3, 32, 32)
    graph = groups(model, example)
    assert [(group.name, group.size) for group in graph.groups] == [
        (f"blocks.{block}.{name}", size) for block in (0, 1) for name, size in (("attention.query", 3), ("mlp.0", 48))
    ]
    units = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert outline(graph.groups[2]) == {
        **{(f"blocks.1.attention.{name}.weight", 0): (units, "out") for name in ("query", "key", "value")},
        **{(f"blocks.1.attention.{name}.bias", 0): (units, "shift") for name in ("query", "key", "value")},
        ("blocks.1.attention.out.weight", 1): (units, "in"),
    }
    edits, refused = verified(model, example, graph, {"blocks.1.attention.query": [0, 2]})
    assert not refused
    assert [edit for edit in edits if isinstance(edit, Attribute)] == [Attribute("blocks.1.attention", "heads", 1)]
    after = apply(model, edits)
    assert (after.blocks[1].attention.heads, after.blocks[0].attention.heads, model.blocks[1].attention.heads) == (
        1, 3, 3,
    )  # fmt: skip
    assert after.blocks[1].attention.head_dim == 4
    assert torch.equal(after.blocks[1].attention.key.weight, model.blocks[1].attention.key.weight[4:8])
    with torch.no_grad():
        model.blocks[1].attention.out.weight.view(12, 3, 4)[:, [0, 2]] = 0
        torch.testing.assert_close(after(example), model(example), rtol=1e-4, atol=1e-5)


def test_a_unit_of_an_lstm_is_a_row_of_every_gate_and_a_column() -> None:
    model = models.lstm_classifier(classes=2, features=3, hidden=4, layers=2)
    graph = groups(model, torch.randn(1, 5, 3))
    (group,) = graph.groups
    units, gates = [0, 1, 2, 3], [0, 1, 2, 3] * 4
    assert (group.name, group.size) == ("rnn", 4)
    assert outline(group) == {
        **{(f"rnn.weight_{part}_l{layer}", 0): (gates, "out") for part in ("ih", "hh") for layer in (0, 1)},
        **{(f"rnn.bias_{part}_l{layer}", 0): (gates, "") for part in ("ih", "hh") for layer in (0, 1)},
        **{(f"rnn.weight_{part}", 1): (units, "in") for part in ("hh_l0", "hh_l1", "ih_l1")},
        ("fc.weight", 1): (units, "in"),
    }
    assert frozen(graph)["rnn.weight_ih_l0", 1] == (3, "lstm sums it with what cannot be cut: the input, space or time")


class Halves(nn.Module):
    """The first half of a layer meets another than the second does."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.a, self.b, self.last = nn.Linear(3, 6), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.all(x) + torch.cat([self.a(x), self.b(x)], 1))


def test_two_groups_of_one_layer_are_told_apart() -> None:
    graph = groups(Halves(), torch.randn(2, 3))
    assert [(group.name, group.size) for group in graph.groups] == [("all", 3), ("all#2", 3)]
    first, second = map(outline, graph.groups)
    assert first["all.weight", 0] == ([0, 1, 2, -1, -1, -1], "out") and ("a.weight", 0) in first
    assert second["all.weight", 0] == ([-1, -1, -1, 0, 1, 2], "out") and ("b.weight", 0) in second
    assert graph.macs({"all": [0], "all#2": [0, 1]}) == 2 * (3 * 3 + 3 * 3 + 3 * 2)


# ---------------------------------------------------------------------------------------------------------------- names


def test_a_glob_that_matches_nothing_is_explained() -> None:
    graph = groups(Residual(), torch.randn(1, 3, 4, 4))
    assert graph.matching("*", "groups") == {"stem", "inner"}
    assert graph.matching("st*, inner", "groups") == {"stem", "inner"}
    for pattern, message in (
        ("stm", r"^skip: no group matches 'stm'; did you mean 'stem'\?; there are \['stem', 'inner'\]$"),
        ("stem, x*", r"^skip: no group matches 'x\*'; there are \['stem', 'inner'\]$"),
        ("head", r"^skip: no group matches 'head': head.weight cannot be cut: it is the model's output$"),
        ("", r"^skip: no group matches ''"),
    ):
        with pytest.raises(RecipeError, match=message):
            graph.matching(pattern, "skip")
    with pytest.raises(RecipeError, match="no group is called 'iner'; did you mean 'inner'"):
        graph.group("iner")


# --------------------------------------------------------------------------------------------- the networks of decoct

FREE = {
    "alexnet": (7, 2736),
    "densenet_40": (39, 1212),
    "densenet_121": (120, 10240),
    "gru_classifier": (1, 128),
    "lenet_5": (3, 570),
    "lenet_300_100": (2, 400),
    "lenet_digits": (3, 270),
    "lstm_classifier": (1, 128),
    "mobilenet_v1": (14, 5984),
    "mobilenet_v2": (25, 9128),
    "resnet_20": (10, 352),
    "resnet_32": (16, 576),
    "resnet_44": (22, 800),
    "resnet_56": (28, 1024),
    "resnet_110": (55, 2032),
    "se_resnet_20": (16, 370),
    "shufflenet_v1": (1, 8),  # restrictive: three groups, shuffles and pooled shortcuts leave one eighth at a time
    "shufflenet_v2": (19, 3165),
    "vgg_16": (14, 4736),
    "vit_small": (8, 1552),
}
"""Groups, and units in all of them, of the networks as they are made."""
DEEPER = ("resnet_32", "resnet_44", "resnet_56", "resnet_110")  # which only repeat a block of resnet_20


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network, and an example of the shape that its docstring names; small where any size will do."""
    torch.manual_seed(0)
    factory = getattr(models, name)
    said = re.search(r"Input \(batch, ([\w, ]+)\)", factory.__doc__)
    assert said
    sizes = [5 if size == "time" else min(int(size), 32) if name == "densenet_121" else int(size)
             for size in said[1].split(", ")]  # fmt: skip
    return factory(), torch.randn(1, *sizes)


def test_no_network_is_forgotten() -> None:
    assert set(FREE) == set(models.__all__)


@pytest.mark.parametrize("name", [name for name in FREE if name not in DEEPER])
def test_the_networks_can_be_pruned_and_cost_what_is_said(name: str) -> None:
    model, example = made(name)
    graph = groups(model, example)
    assert (len(graph.groups), sum(group.size for group in graph.groups)) == FREE[name]
    reasons = "|".join([
        "the input, space or time", OUTPUT, r"constant_pad_nd in layer[23]\.0\.shortcut", "layer_norm in blocks",
        "removed all together",
    ])  # fmt: skip
    assert [each for each in graph.frozen if not re.search(reasons, each.reason)] == []
    removed = halved(graph)
    edits, refused = verified(model, example, graph, removed)
    assert refused == {}
    smaller = apply(model, edits)
    assert graph.macs() == measure.macs(model, example)[""]
    assert graph.macs(removed) == measure.macs(smaller, example)[""] < 0.55 * graph.macs()


# ------------------------------------------------------------------------------------------------------ how it is found


@given(st.integers(1, 30), st.data())
def test_components_are_those_of_a_plain_union_find(count: int, data: st.DataObject) -> None:
    place = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.lists(st.tuples(place, place), max_size=6), max_size=6))
    edges = [(np.array([a for a, _ in part], int), np.array([b for _, b in part], int)) for part in pairs]
    star = data.draw(st.lists(place, max_size=4))
    if star:  # one atom against many
        edges.append((np.array(star[:1]), np.array(star)))
    parent = list(range(count))

    def find(atom: int) -> int:
        while parent[atom] != atom:
            atom = parent[atom]
        return atom

    for one, other in [*(pair for part in pairs for pair in part), *((star[0], each) for each in star)]:
        low, high = sorted((find(one), find(other)))
        parent[high] = low
    assert components(count, edges).tolist() == [find(atom) for atom in range(count)]


def test_a_long_chain_is_one_component() -> None:
    """Told in the worst order."""
    chain = np.arange(5000)
    assert not components(5000, [(chain[:-1][::-1], chain[1:][::-1])]).any()


class Dense(nn.Module):
    """Layers that each read all before them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4 + 2 * number), nn.Conv2d(4 + 2 * number, 2, 3, padding=1))
            for number in range(depth)
        )
        self.head = nn.Conv2d(4 + 2 * depth, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x)


class Shuffled(nn.Module):
    """Grouped convolutions, each of which could be cut in two ways."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(8, 8, 1, groups=2), nn.ChannelShuffle(2)) for _ in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("kind", "shape"), [(Dense, (1, 3, 4, 4)), (Shuffled, (1, 8, 4, 4))])
def test_work_grows_in_a_line_with_depth(kind: Any, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes over the tape stay as many; operations looked at, and markers moved, are some more for each layer."""
    calls: dict[str, int] = {}

    def counted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    counted(flows, "rule_of")
    counted(Flow, "freeze_all")
    counted(Markers, "_run")
    counted(Markers, "_move")
    counts = []
    for depth in (6, 12, 18):
        calls.clear()
        graph = groups(kind(depth), torch.randn(shape))
        assert len(graph.groups) == (depth + 1 if kind is Dense else depth - 1)
        counts.append(dict(calls))
    for name in counts[0]:
        first, second, third = (count[name] for count in counts)
        assert third - second == second - first, f"{name}: {first}, {second}, {third}"
        assert second <= 2 * first
