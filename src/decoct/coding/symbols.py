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
    best: bytes | None = None
    for coder in reversed(TAGS):
        if coder in coders and (best is None or _may_win(coder, len(symbols), alphabet, best)):
            written = bytes([TAGS.index(coder)]) + CODERS[coder].encode(symbols, alphabet)
            best = written if best is None or len(written) <= len(best) else best
    assert best is not None, coders
    return best


def _may_win(coder: str, count: int, alphabet: int, best: bytes) -> bool:
    """Whether a coder can be as short as `best`. Huffman is not once ANS has learnt its model."""
    return count <= LONG if coder == "huffman" else fixed.size_bytes(count, alphabet) < len(best)


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
