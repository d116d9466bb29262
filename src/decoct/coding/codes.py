"""Codes: symbols that stand for numbers of a known sign, at known places of a tensor.

a coder of `symbols.TAGS`    one after the other, what they stand for does not matter
neighbours                   the sign by the signs of the entries near by, then the code (decoct.coding.neighbours)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoct.coding import neighbours, symbols
from decoct.coding.reader import Reader

NEIGHBOURS = len(symbols.TAGS)
FORMS = (*symbols.TAGS, "neighbours")


def encode(
    codes: np.ndarray,
    negative: np.ndarray,
    kept: np.ndarray | None,
    shape: Sequence[int],
    coders: Sequence[str],
    near: bool,
) -> bytes:
    """Write codes (kept,) of 0 .. alphabet-1 in the smallest form.

    negative: (alphabet,) whether a code stands for a negative number. near: whether to try the model of neighbours.
    """
    written = symbols.encode(codes, len(negative), coders)
    found = neighbours.best_values(codes, negative, kept, shape) if near and len(codes) else None
    return min(written, bytes([NEIGHBOURS]) + found, key=len) if found is not None else written


def decode(
    reader: Reader, negative: np.ndarray, kept: np.ndarray | None, shape: Sequence[int], count: int
) -> np.ndarray:
    """Read `count` codes back from all that is left of `reader`."""
    if is_near(reader):
        reader.byte("the form of the codes")
        return neighbours.decode_values(reader, negative, kept, shape)
    return symbols.decode(reader, count, len(negative))


def is_near(reader: Reader) -> bool:
    """Whether the codes that begin here are coded by their neighbours."""
    return reader.data[reader.at : reader.at + 1] == bytes([NEIGHBOURS])
