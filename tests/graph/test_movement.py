"""Markers: where positions go in every kind of movement, by hand, and by two ways that must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from decoct.graph.movement import NOWHERE, VIEWS, Markers, Move
from decoct.graph.tape import record

NONE = NOWHERE
Function = Callable[..., Tensor]


class Doing(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Any:
        return self.function(*x)


def markers(function: Function, *shapes: tuple[int, ...], name: str = "", plain: tuple[int, ...] = ()) -> Markers:
    """Of the last operation of a function, or the last of a name, on inputs of these shapes."""
    tape = record(Doing(function), tuple(torch.randn(shape) for shape in shapes))
    op = [op for op in tape.ops if op.name == (f"aten.{name}" if name else tape.ops[-1].name)][-1]
    return Markers(op, tape.constants, frozenset(plain))


def along(move: Move | None) -> dict[int, list[int]]:
    """Where a dimension lies by itself: output dimension -> the source position at each place."""
    assert move is not None and not move.spread
    return {dim: index.tolist() for dim, index in move.along.items()}


def spread(move: Move | None) -> dict[int, list[list[int]]]:
    """Where it lies in part: output dimension -> the source positions at each place."""
    assert move is not None and not move.along
    return {
        dim: [pairs[pairs[:, 0] == place, 1].tolist() for place in range(pairs[:, 0].max() + 1)]
        for dim, pairs in move.spread.items()
    }


# One source, one output: (function, shape, {source dimension: where it lies})
BY_HAND: dict[str, tuple[Function, tuple[int, ...], dict[int, dict[int, list[int]]]]] = {
    "permute": (lambda x: x.permute(2, 0, 1), (2, 3, 4), {0: {1: [0, 1]}, 1: {2: [0, 1, 2]}, 2: {0: [0, 1, 2, 3]}}),
    "every second": (lambda x: x[:, 1::2], (2, 6), {0: {0: [0, 1]}, 1: {1: [1, 3, 5]}}),
    "the middle": (lambda x: x.narrow(1, 2, 3), (2, 6), {0: {0: [0, 1]}, 1: {1: [2, 3, 4]}}),
    "flip": (lambda x: x.flip(1), (2, 4), {0: {0: [0, 1]}, 1: {1: [3, 2, 1, 0]}}),
    "roll": (lambda x: x.roll(1, 1), (2, 4), {0: {0: [0, 1]}, 1: {1: [3, 0, 1, 2]}}),
    "pad": (
        lambda x: F.pad(x, (0, 0, 2, 1)), (2, 3, 4),
        {0: {0: [0, 1]}, 1: {1: [NONE, NONE, 0, 1, 2, NONE]}, 2: {2: [0, 1, 2, 3]}},
    ),
    "pad with ones": (lambda x: F.pad(x, (1, 0), value=1.0), (2, 3), {0: {0: [0, 1]}, 1: {1: [NONE, 0, 1, 2]}}),
    "crop": (lambda x: F.pad(x, (-1, 0)), (2, 3), {0: {0: [0, 1]}, 1: {1: [1, 2]}}),
    "repeat": (lambda x: x.repeat(1, 3), (2, 2), {0: {0: [0, 1]}, 1: {1: [0, 1, 0, 1, 0, 1]}}),
    "repeat each": (lambda x: x.repeat_interleave(2, 1), (2, 3), {0: {0: [0, 1]}, 1: {1: [0, 0, 1, 1, 2, 2]}}),
    "expand": (lambda x: x.expand(4, 3), (1, 3), {1: {1: [0, 1, 2]}}),
    "unsqueeze": (lambda x: x[:, None], (2, 3), {0: {0: [0, 1]}, 1: {2: [0, 1, 2]}}),
    "squeeze": (lambda x: x.squeeze(1), (2, 1, 3), {0: {0: [0, 1]}, 2: {1: [0, 1, 2]}}),
    "diagonal": (lambda x: x.diagonal(), (3, 3), {0: {0: [0, 1, 2]}, 1: {0: [0, 1, 2]}}),
    "listed": (lambda x: x[:, [2, 0, 0]], (2, 4), {0: {0: [0, 1]}, 1: {1: [2, 0, 0]}}),
    "pixels flattened": (lambda x: x.flatten(2), (2, 3, 2, 2), {0: {0: [0, 1]}, 1: {1: [0, 1, 2]}, 2: {2: [0, 0, 1, 1]},
                                                               3: {2: [0, 1, 0, 1]}}),
    "channels flattened": (lambda x: x.flatten(1), (2, 3, 2), {0: {0: [0, 1]}, 1: {1: [0, 0, 1, 1, 2, 2]},
                                                               2: {1: [0, 1, 0, 1, 0, 1]}}),
}  # fmt: skip


@pytest.mark.parametrize("what", BY_HAND)
def test_a_dimension_that_lies_along_one_other(what: str) -> None:
    function, shape, expected = BY_HAND[what]
    seen = markers(function, shape)
    assert {dim: along(seen.move(0, dim, 0)) for dim in expected} == expected


def test_branches_that_are_joined_lie_one_behind_the_other() -> None:
    seen = markers(lambda a, b: torch.cat([a, b], 1), (2, 2, 3), (2, 3, 3))
    assert along(seen.move(0, 1, 0)) == {1: [0, 1, NONE, NONE, NONE]}
    assert along(seen.move(1, 1, 0)) == {1: [NONE, NONE, 0, 1, 2]}
    assert along(seen.move(1, 0, 0)) == {0: [0, 1]} and along(seen.move(0, 2, 0)) == {2: [0, 1, 2]}
    assert seen.positions(0, 1, 0).tolist() == [True, True, False, False, False]
    assert seen.positions(1, 1, 0).tolist() == [False, False, True, True, True]
    assert seen.positions(1, 0, 0).tolist() == [True, True]


def test_a_branch_that_is_joined_twice_is_two_sources() -> None:
    seen = markers(lambda a, b: torch.cat([a, b, a], 1), (1, 2), (1, 1))
    assert [along(seen.move(source, 1, 0)) for source in range(3)] == [
        {1: [0, 1, NONE, NONE, NONE]}, {1: [NONE, NONE, 0, NONE, NONE]}, {1: [NONE, NONE, NONE, 0, 1]},
    ]  # fmt: skip


def test_joining_does_not_look_at_plain_dimensions() -> None:
    wide = ((2, 2, 30, 40), (2, 3, 30, 40))
    seen = markers(lambda a, b: torch.cat([a, b], 1), *wide, plain=(0, 2, 3))
    assert seen.sources == [(1, 2, 1, 1), (1, 3, 1, 1)] and seen.outputs == [(1, 5, 1, 1)]
    assert [seen.places[0].ravel().tolist()] == [[1, 2, 3, 4, 5]]
    assert along(seen.move(1, 1, 0)) == {1: [NONE, NONE, 0, 1, 2]}


def test_stacked_branches() -> None:
    seen = markers(lambda a, b: torch.stack([a, b], 1), (2, 3), (2, 3), name="stack")
    assert along(seen.move(1, 1, 0)) == {2: [0, 1, 2]}
    assert [seen.positions(source, 1, 0).tolist() for source in (0, 1)] == [[True, False], [False, True]]


def test_chunks_are_blocks() -> None:
    seen = markers(lambda x: x.chunk(2, 1)[0], (2, 6), name="split")
    assert [along(seen.move(0, 1, output)) for output in (0, 1)] == [{1: [0, 1, 2]}, {1: [3, 4, 5]}]
    uneven = markers(lambda x: x.split([1, 3], 1)[0], (2, 4), name="split_with_sizes")
    assert [along(uneven.move(0, 1, output)) for output in (0, 1)] == [{1: [0]}, {1: [1, 2, 3]}]


def test_a_dimension_parted_in_two_lies_in_both_in_part() -> None:
    seen = markers(lambda x: x.view(2, 3, 2), (2, 6))
    assert along(seen.move(0, 0, 0)) == {0: [0, 1]}
    assert spread(seen.move(0, 1, 0)) == {1: [[0, 1], [2, 3], [4, 5]], 2: [[0, 2, 4], [1, 3, 5]]}


def test_a_shuffle_of_channels_deals_them_out() -> None:
    """Written as view, transpose, view: of 6 channels in 2 groups the result reads 0, 3, 1, 4, 2, 5."""

    def parted(x: Tensor) -> Tensor:
        return x.view(1, 2, 3, 4)

    def dealt(x: Tensor) -> Tensor:
        return parted(x).transpose(1, 2)

    group_and_place = {1: [[0, 1, 2], [3, 4, 5]], 2: [[0, 3], [1, 4], [2, 5]]}
    assert spread(markers(parted, (1, 6, 4)).move(0, 1, 0)) == group_and_place
    assert along(markers(dealt, (1, 6, 4)).move(0, 1, 0)) == {2: [0, 1]}
    last = markers(lambda x: dealt(x).contiguous().view(1, 6, 4), (1, 6, 4))
    assert along(last.move(0, 1, 0)) == {1: [0, 0, 1, 1, 2, 2]} and along(last.move(0, 2, 0)) == {1: [0, 1] * 3}
    whole = markers(lambda x: F.channel_shuffle(x, 2), (1, 6, 2, 2), name="channel_shuffle")
    assert along(whole.move(0, 1, 0)) == {1: [0, 3, 1, 4, 2, 5]}


def test_pixel_shuffle_makes_one_channel_of_four_neighbours() -> None:
    seen = markers(lambda x: F.pixel_shuffle(x, 2), (1, 8, 2, 2), name="pixel_shuffle")
    assert spread(seen.move(0, 1, 0)) == {
        1: [[0, 1, 2, 3], [4, 5, 6, 7]],
        2: [[0, 1, 4, 5], [2, 3, 6, 7]] * 2,  # the row in a block of 2x2 tells half of which channel
        3: [[0, 2, 4, 6], [1, 3, 5, 7]] * 2,
    }
    assert along(seen.move(0, 2, 0)) == {2: [0, 0, 1, 1]} and along(seen.move(0, 3, 0)) == {3: [0, 0, 1, 1]}
    back = markers(lambda x: F.pixel_unshuffle(x, 2), (1, 2, 4, 4), name="pixel_unshuffle")
    assert along(back.move(0, 1, 0)) == {1: [0, 0, 0, 0, 1, 1, 1, 1]}


def test_windows_repeat_a_channel_nine_times() -> None:
    seen = markers(lambda x: F.unfold(x, 3, padding=1), (1, 2, 3, 3), name="im2col")
    assert along(seen.move(0, 1, 0)) == {1: [0] * 9 + [1] * 9}


def test_an_index_is_no_source() -> None:
    seen = markers(lambda x: x.index_select(1, torch.tensor([2, 0])), (2, 3))
    assert seen.sources == [(2, 3)]
    assert along(seen.move(0, 1, 0)) == {1: [2, 0]}


def test_what_does_not_arrive_is_nowhere() -> None:
    """All of a source is cut away."""
    seen = markers(lambda a, b: torch.cat([a, b[:, :0]], 1), (2, 2), (2, 3), name="cat")
    assert seen.move(1, 1, 0) is None
    assert seen.positions(1, 1, 0).tolist() == [False, False]


# -------------------------------------------------------------------------------------- the short cut by strides


VIEWED: dict[str, tuple[Function, tuple[int, ...]]] = {
    "permute": (lambda x: x.permute(2, 0, 1), (2, 3, 4)),
    "transpose": (lambda x: x.transpose(0, 1), (2, 3)),
    "t": (lambda x: x.t(), (3, 2)),
    "slice": (lambda x: x[:, 1:6:2], (2, 6)),
    "slice of one": (lambda x: x[:, 1:2], (2, 6)),
    "select": (lambda x: x[1], (3, 4, 2)),
    "select of a last one": (lambda x: x[..., 0], (3, 4)),
    "unsqueeze": (lambda x: x[:, None], (2, 3)),
    "squeeze": (lambda x: x.squeeze(1), (2, 1, 3)),
    "expand": (lambda x: x.expand(4, 2, 3), (1, 2, 3)),
    "expand in front": (lambda x: x.expand(4, 2, 3), (2, 3)),
    "view that parts": (lambda x: x.view(2, 3, 2), (2, 6)),
    "view that joins": (lambda x: x.view(2, -1), (2, 3, 2)),
    "view that mixes": (lambda x: x.view(3, 4), (2, 6)),
    "view to a row": (lambda x: x.view(-1), (2, 3)),
    "view of a single one": (lambda x: x.view(1, 4, 1), (4, 1)),
    "chunk": (lambda x: x.chunk(3, 1)[0], (2, 6)),
    "split": (lambda x: x.split([1, 4], 0)[0], (5, 2)),
    "unbind": (lambda x: x.unbind(1)[0], (2, 3, 4)),
    "diagonal": (lambda x: x.diagonal(), (3, 3)),
    "diagonal beside": (lambda x: x.diagonal(1, 0, 2), (3, 2, 4)),
    "windows": (lambda x: x.unfold(1, 3, 2), (2, 7)),
    "windows of one": (lambda x: x.unfold(1, 1, 1), (2, 3)),
    "detach": (lambda x: x.detach(), (2, 3)),
}


@pytest.mark.parametrize("what", VIEWED)
def test_the_short_cut_says_what_the_markers_say(what: str) -> None:
    function, shape = VIEWED[what]
    assert_agree(markers(function, shape))


@given(st.permutations([2, 3, 4]), st.permutations([0, 1, 2]), st.integers(0, 1), st.integers(1, 3), st.integers(0, 2))
def test_the_short_cut_says_what_the_markers_say_of_views_of_views(
    shape: list[int], order: list[int], start: int, step: int, joined: int
) -> None:
    def function(x: Tensor) -> Tensor:
        x = x.permute(order)[:, start::step]
        return x.contiguous().view(*[x.shape[:1], x.shape[:2], x.shape][joined], -1)

    tape = record(Doing(function), (torch.randn(shape),))
    for op in tape.ops:
        if op.name in VIEWS:
            assert_agree(Markers(op, tape.constants))


def assert_agree(seen: Markers) -> None:
    assert seen.op.name in VIEWS and len(seen.sources) == 1
    for output, shape in enumerate(seen.outputs):
        for dim in range(len(seen.sources[0])):
            short, full = seen._seen_in_strides(dim, output), seen._move(0, dim, output)
            if short is not None:
                assert along(short) == along(full)
        for dim in range(len(shape)):
            arrived = np.zeros(shape[dim], dtype=bool)
            arrived[seen.part(0, output)[0] // int(np.prod(shape[dim + 1 :])) % shape[dim]] = True
            assert seen.positions(0, dim, output).tolist() == arrived.tolist()


def test_the_short_cut_is_taken() -> None:
    """Channels of images too large for markers: no entry of them is made."""
    seen = markers(lambda x: x.permute(0, 2, 3, 1), (2, 64, 112, 112))
    assert along(seen.move(0, 1, 0)) == {3: list(range(64))}
    assert seen.positions(0, 3, 0).all()
    assert "places" not in vars(seen)
