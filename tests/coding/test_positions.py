"""Positions of kept entries: the paper's figure, every form, damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoct.coding import fixed, positions
from decoct.coding.reader import Reader
from decoct.errors import FormatError

CODERS = ("fixed", "huffman", "ans")
MASKS = st.tuples(st.integers(0, 12), st.integers(0, 60)).flatmap(
    lambda shape: st.tuples(
        st.just(shape), st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    )
)


def test_figure_2_of_han_2016() -> None:
    # 3.4 at 1, 0.9 at 4, 1.7 at 15, gaps of 3 bits: 15 lies 11 from 4, beyond 8, so a zero bridges the first 8
    written, filler = positions.encode_fillers(np.array([1, 4, 15]), 3, ["fixed"])
    assert filler.tolist() == [False, False, True, False]
    head = [positions.FILLERS, 3, 4, 0]
    assert list(written[:4]) == head
    assert fixed.decode(written[4:], 4, 8).tolist() == [1, 2, 7, 2]
    assert positions.decode_fillers(Reader(written), 16).tolist() == [1, 4, 12, 15]


@pytest.mark.parametrize(("gap", "fillers"), [(8, 0), (9, 1), (16, 1), (17, 2)])
def test_largest_gap_needs_no_filler(gap: int, fillers: int) -> None:
    written, filler = positions.encode_fillers(np.array([gap - 1]), 3, ["fixed"])
    assert filler.sum() == fillers
    assert positions.decode_fillers(Reader(written), gap)[-1] == gap - 1


@given(MASKS, st.sampled_from(["gaps", "bitmap", "neighbours"]))
def test_round_trip(mask: tuple[tuple[int, int], list[bool]], form: str) -> None:
    shape, kept = mask[0], np.flatnonzero(mask[1])
    written = positions.encode(kept, shape, [form], CODERS)
    assert positions.decode(Reader(written), shape).tolist() == kept.tolist()


@given(MASKS, st.integers(1, 8))
def test_fillers_round_trip(mask: tuple[tuple[int, int], list[bool]], bits: int) -> None:
    kept = np.flatnonzero(mask[1])
    written, filler = positions.encode_fillers(kept, bits, CODERS)
    assert positions.decode_fillers(Reader(written), len(mask[1]))[~filler].tolist() == kept.tolist()


@pytest.mark.parametrize("form", ["gaps", "bitmap", "neighbours"])
@pytest.mark.parametrize("shape", [(), (1,), (1000,), (20, 1, 5, 5), (3, 0, 2)])
def test_shapes_of_any_rank(form: str, shape: tuple[int, ...]) -> None:
    for density in (0, 0.03, 1):
        kept = np.flatnonzero(np.random.default_rng(0).random(int(np.prod(shape))) < density)
        written = positions.encode(kept, shape, [form], CODERS)
        assert positions.decode(Reader(written), shape).tolist() == kept.tolist()


def test_gaps_lie_near_the_entropy_of_the_mask() -> None:
    size = 1_000_000
    kept = np.flatnonzero(np.random.default_rng(0).random(size) < 0.08)
    share = len(kept) / size
    bits = -size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert 8 * len(positions.encode(kept, (1000, 1000), ["gaps"], ["ans"])) < 1.005 * bits


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "missing"),
        (b"\x09", "form 9"),
        (b"\x00\x00\x00\x00", "wide"),
        (b"\x00\x03\x65\x00", "at most 100"),
        (b"\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "no end"),
        (b"\x00\x03\x81\x00\x00", "more bytes"),
        (b"\x00\x08\x01\x00\xc8", "beyond the 100"),
        (b"\x01\x03\x01\x00\x00", "filler"),
        (b"\x02\x07", "coder 7"),
        (b"\x03\x00\x01\x02", "."),
        (b"\x03\x00\x01\x7f", "layout"),
        (b"\x03\xff\x01\x02", "layout"),
    ],
)
def test_damage_is_told(data: bytes, message: str) -> None:
    try:
        positions.decode(Reader(data), (10, 10))
    except FormatError as error:
        assert message in str(error) or message == "."
        assert str(error).startswith("chunk, byte ")
    else:
        assert message == "."
