"""Huffman codes: by hand, against a literal twin, and as streams."""

from __future__ import annotations

import heapq
from itertools import count as counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoct.coding import huffman
from decoct.errors import FormatError, RecipeError

STREAMS = st.integers(1, 40).flatmap(
    lambda alphabet: st.tuples(st.just(alphabet), st.lists(st.integers(0, alphabet - 1), max_size=300))
)


def tree_lengths(counts: list[int]) -> dict[int, int]:
    """Huffman's algorithm as it is taught: a heap of subtrees."""
    order = counter()
    heap = [(amount, next(order), (symbol,)) for symbol, amount in enumerate(counts) if amount]
    heapq.heapify(heap)
    found = {symbol: 0 for _, _, (symbol,) in heap}
    while len(heap) > 1:
        first, _, left = heapq.heappop(heap)
        second, _, right = heapq.heappop(heap)
        for symbol in left + right:
            found[symbol] += 1
        heapq.heappush(heap, (first + second, next(order), left + right))
    return found


def strings(lengths: np.ndarray) -> dict[str, int]:
    """The canonical code as text."""
    codes = huffman.canonical(lengths)
    return {f"{codes[symbol]:0{lengths[symbol]}b}": int(symbol) for symbol in np.flatnonzero(lengths)}


def decode_bit_by_bit(bits: str, count: int, book: dict[str, int]) -> list[int]:
    """The decoder that nobody should run."""
    found, string = [], ""
    for bit in bits:
        if len(found) == count:
            break
        string += bit
        if string in book:
            found.append(book[string])
            string = ""
    return found


def test_hand_worked_code() -> None:
    # a 5 times, b 2, c 1, d 1: c+d = 2, b+(cd) = 4, a+(bcd) = 9
    lengths = huffman.lengths(np.array([5, 2, 1, 1]))
    assert lengths.tolist() == [1, 2, 3, 3]
    assert strings(lengths) == {"0": 0, "10": 1, "110": 2, "111": 3}
    written = huffman.encode(np.array([0, 1, 0, 2, 3, 0, 0, 1, 0]), 4)
    # four nibbles of lengths, then 0 10 0 110 111 0 0 10 0 = 0100 1101 1100 100(0)
    assert written == bytes([4, 0, 0x12, 0x33, 0b01001101, 0b11001000])


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=60))
def test_lengths_are_those_of_the_heap(counts: list[int]) -> None:
    found, literal = huffman.lengths(np.array(counts)), tree_lengths(counts)
    if len(literal) > 1:
        cost = sum(counts[symbol] * length for symbol, length in literal.items())
        assert int(np.array(counts) @ found.astype(np.int64)) == cost
    else:
        assert not found.any()


def test_lengths_are_limited_and_still_the_best() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 24:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert max(tree_lengths(fibonacci).values()) == 23
    lengths = huffman.lengths(np.array(fibonacci)).astype(int)
    assert lengths.max() == huffman.LONGEST
    assert sum(2.0**-length for length in lengths) == 1
    assert sorted(lengths, reverse=True) == lengths.tolist()
    shallower = huffman.lengths(np.array(fibonacci[:12]))
    assert shallower.max() == 11


@given(STREAMS)
def test_round_trip_and_literal_decoder(stream: tuple[int, list[int]]) -> None:
    alphabet, symbols = stream
    written = huffman.encode(np.array(symbols, np.uint8), alphabet)
    assert huffman.decode(written, len(symbols), alphabet).tolist() == symbols
    lengths = huffman.lengths(np.bincount(np.array(symbols, int), minlength=alphabet))
    if lengths.any():
        bits = "".join(f"{byte:08b}" for byte in written[huffman.table_bytes(written, alphabet) :])
        assert decode_bit_by_bit(bits, len(symbols), strings(lengths)) == symbols


@pytest.mark.parametrize("rate", [0.02, 0.4, 0.9])
def test_long_streams_cross_segments(rate: float) -> None:
    symbols = np.minimum(np.random.default_rng(1).geometric(rate, 200_000) - 1, 999).astype(np.uint16)
    written = huffman.encode(symbols, 1000)
    assert (huffman.decode(written, len(symbols), 1000) == symbols).all()


def test_one_symbol_takes_no_bits() -> None:
    assert huffman.encode(np.zeros(1000, np.uint8), 1) == b""
    written = huffman.encode(np.full(1000, 5), 8)
    assert len(written) == huffman.table_bytes(written, 8)
    assert (huffman.decode(written, 1000, 8) == 5).all()


@pytest.mark.parametrize(
    ("data", "count", "alphabet", "message"),
    [
        (b"", 3, 4, "table"),
        (b"\x04\x00\x12", 3, 4, "table"),
        (b"\x04\x00\x11\x33\x00", 3, 4, "do not make a code"),
        (b"\x04\x00\x12\x33", 3, 3, "more than 3"),
        (b"\x04\x00\x12\x33", 3, 4, "end after 0 of 3"),
        (b"\x04\x00\x12\x33\x00\x00", 3, 4, "do not end"),
        (b"\x04\x00\x12\x33\x01", 3, 4, "do not end"),
        (b"\x00\x00", 3, 4, "without symbols"),
        (b"\x01\x00\x10\x00", 3, 4, "one symbol"),
        (b"\x00", 3, 1, "one symbol"),
    ],
)
def test_damage_is_told(data: bytes, count: int, alphabet: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        huffman.decode(data, count, alphabet)


class Draft:
    def tensors(self) -> dict[str, object]:
        return {"1.weight": None, "1.bias": None}


def test_method_plans_codes() -> None:
    planned = huffman.Huffman(tensors="*.weight", gap_bits=5).plan(Draft(), None)
    assert [(code.tensor, code.coder, dict(code.parameters)) for code in planned] == [
        ("1.weight", "huffman", {"gap_bits": 5})
    ]
    assert len(huffman.Huffman().plan(Draft(), None)) == 2
    with pytest.raises(RecipeError, match=r"1\.weight"):
        huffman.Huffman(tensors="1.weigth").plan(Draft(), None)
    with pytest.raises(RecipeError, match="gap_bits"):
        huffman.Huffman(gap_bits=13)
