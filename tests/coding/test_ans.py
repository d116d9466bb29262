"""Streams by asymmetric numeral systems: round trips, distance from the entropy, damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoct.coding import ans
from decoct.errors import FormatError, RecipeError


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / len(symbols))).sum()) / 8


@given(
    st.integers(1, 300).flatmap(
        lambda alphabet: st.tuples(st.just(alphabet), st.lists(st.integers(0, alphabet - 1), max_size=300))
    )
)
def test_round_trip(stream: tuple[int, list[int]]) -> None:
    alphabet, symbols = stream
    written = ans.encode(np.array(symbols, np.uint16), alphabet)
    assert ans.decode(written, len(symbols), alphabet).tolist() == symbols


@pytest.mark.parametrize(("alphabet", "spread"), [(32, 5.0), (32, 100.0), (256, 20.0)])
def test_within_half_a_percent_of_the_entropy(alphabet: int, spread: float) -> None:
    chances = np.exp(-np.abs(np.arange(alphabet) - alphabet / 2) / spread)
    symbols = np.random.default_rng(0).choice(alphabet, 120_000, p=chances / chances.sum())
    assert len(ans.encode(symbols, alphabet)) < 1.005 * entropy_bytes(symbols)


def test_few_symbols_take_few_bytes() -> None:
    assert ans.encode(np.zeros(10**6, np.uint8), 1) == b""
    assert len(ans.encode(np.zeros(0, np.uint8), 32)) == 0
    assert len(ans.encode(np.zeros(10_000, np.uint8), 32)) < 30
    assert len(ans.encode(np.arange(10, dtype=np.uint8), 32)) <= 10


def test_blocks_cover_everything_and_grow() -> None:
    for count in (0, 1, 8, 9, 1000, 12_345):
        covered = [place for start, stop in ans.blocks(count) for place in range(start, stop)]
        assert covered == list(range(count))
    assert len(list(ans.blocks(10**8))) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda data: data + b"\x01", "goes on"), (lambda data: data + b"\0", "zero byte")],
)
def test_damage_is_told(change: object, message: str) -> None:
    symbols = np.random.default_rng(0).integers(0, 32, 1000)
    data = ans.encode(symbols, 32)
    with pytest.raises(FormatError, match=message):
        ans.decode(change(data), 1000, 32)  # type: ignore[operator]
    with pytest.raises(FormatError, match="goes on"):
        ans.decode(data, 990, 32)


def test_large_alphabets_name_their_model() -> None:
    with pytest.raises(FormatError, match="begin with"):
        ans.decode(b"\x07", 0, 256)
    with pytest.raises(FormatError, match="begin with"):
        ans.decode(b"", 0, 256)


def test_method_checks_its_fields() -> None:
    with pytest.raises(RecipeError, match="did you mean 'neighbours'"):
        ans.Ans(positions="neighbors")
