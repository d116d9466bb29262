"""Integers of chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoct.coding.reader import Reader, varint, zigzag
from decoct.errors import FormatError


@given(st.integers(0, 2**63 - 1))
def test_varint_round_trip(value: int) -> None:
    reader = Reader(varint(value))
    assert reader.varint("it", 2**63 - 1) == value
    reader.end()


@given(st.integers(1 - 2**62, 2**62 - 1))
def test_zigzag_round_trip(value: int) -> None:
    assert Reader(varint(zigzag(value))).signed("it") == value


def test_places_are_those_of_the_chunk() -> None:
    part = Reader(bytes(8)).take(3, "a part")
    whole = Reader(bytes(8))
    whole.take(5, "a part")
    inner = whole.take(2, "another")
    inner.byte("it")
    with pytest.raises(FormatError, match="chunk, byte 6: 1 bytes too many"):
        inner.end()
    with pytest.raises(FormatError, match="chunk, byte 0: it takes 4 bytes, but 3 are left"):
        part.take(4, "it")
    with pytest.raises(FormatError, match=r"chunk, byte 1: no symbols"), Reader(bytes(4), 1).placing():
        raise FormatError("no symbols")
