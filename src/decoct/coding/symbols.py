"""A stream of symbols in the coder that suits it: one byte names the coder, the rest is its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoct.coding import ans, fixed, huffman
from decoct.coding.reader import Reader

CODERS = {"fixed": fixed, "huffman": huffman, "ans": ans}
LARGEST_ALPHABET = 4096
LONG = 1 << 16
TAGS = tuple(CODERS)


def encode(symbols: np.ndarray, alphabet: int, coders: Sequence[str]) -> bytes:
    """Write symbols (n,) of 0 .. alphabet-1 with whichever of `coders` takes the fewest bytes."""
    if len(symbols) > LONG and "ans" in coders:
        coders = [coder for coder in coders if coder != "huffman"]  # cannot win: the model of ANS is learnt by then
    written = (bytes([TAGS.index(coder)]) + CODERS[coder].encode(symbols, alphabet) for coder in coders)
    return min(written, key=len)


def decode(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """Read `count` symbols from all that is left of `reader`."""
    coder = CODERS[tag(reader)]
    with reader.placing():
        return coder.decode(reader.rest(), count, alphabet)


def tag(reader: Reader) -> str:
    """The name of the coder of the stream that begins here."""
    number = reader.byte("the coder of a stream")
    if number >= len(TAGS):
        reader.fail(f"coder {number} is unknown; there are {', '.join(TAGS)}")
    return TAGS[number]


def look(reader: Reader, alphabet: int) -> tuple[str, int]:
    """The coder of the stream that is left of `reader`, and how many of its bytes are a table; nothing is decoded."""
    coder = tag(reader)
    with reader.placing():
        return coder, huffman.table_bytes(reader.rest(), alphabet) if coder == "huffman" else 0
