"""What a file keeps of one tensor, before any bits are written.

A :class:`Stored` is either *plain* (numbers), *shared* (codes into a codebook, Han 2016) or a *grid* (integers, a scale
per channel). Any of them may be sparse: then only the entries at `kept` are there and the others are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from decoct.errors import RecipeError, nearest

Kind = Literal["plain", "shared", "grid"]
POSITIONS = ("gaps", "bitmap", "neighbours")  # how the positions of kept entries can be said, where that may be chosen


@dataclass(frozen=True)
class Code:
    """Edit: how the file stores a tensor. Without one, the writer takes the smallest coding that it knows.

    `coder` names a module of `decoct.coding` ("huffman", "ans"); `parameters` are that coder's own.
    """

    tensor: str
    coder: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class Stored:
    """One tensor as the file keeps it: exactly what a reader gets back.

    shape, dtype: of the decoded tensor; dtype is numpy's name, or "bfloat16".
    kind: what `data` means.
    data: (kept entries,) in row-major order. plain: the numbers, in the dtype to be stored (float32, float16, uint16
        bits for bfloat16, any integer or bool); shared: codes into `table`; grid: integers.
    kept: (kept entries,) sorted flat positions, int64; None when every entry is kept. The other entries are zero.
    table: shared: the codebook (k,), float32 or float16; grid: the scale, (1,) or (shape[axis],).
    zero_point: grid: integers of the shape of `table`, or None for a symmetric grid: scale * (data - zero_point).
    axis: grid: the dimension that `table` runs along; None for one scale.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    data: np.ndarray
    kept: np.ndarray | None = None
    table: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    axis: int | None = None

    @property
    def size(self) -> int:
        """How many entries the decoded tensor has."""
        return prod(self.shape)


def chosen(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match a glob, or one of several joined by commas, in their order.

    Raises RecipeError for a glob that matches none.
    """
    names = list(names)
    found: set[str] = set()
    for part in (piece.strip() for piece in pattern.split(",")):
        matching = [name for name in names if fnmatchcase(name, part)]
        if not matching:
            there = ", ".join(names) or "none"
            raise RecipeError(f"no tensor matches {part!r}{nearest(part, names)}; there are: {there}")
        found.update(matching)
    return [name for name in names if name in found]


def checked(stored: Stored) -> Stored:
    """The same with contiguous flat arrays. RecipeError where its fields contradict each other."""
    data = np.ascontiguousarray(stored.data).ravel()
    kept = None if stored.kept is None else np.ascontiguousarray(stored.kept, np.int64).ravel()
    table = None if stored.table is None else np.ascontiguousarray(stored.table).ravel()
    zero = None if stored.zero_point is None else np.ascontiguousarray(stored.zero_point).ravel()
    _check_entries(stored, data, kept)
    if (table is None) != (stored.kind == "plain"):
        raise RecipeError(f"a {stored.kind} tensor {'needs a' if table is None else 'has no'} table")
    if stored.kind != "grid" and (zero is not None or stored.axis is not None):
        raise RecipeError(f"a {stored.kind} tensor has no axis and no zero points")
    if table is not None and stored.kind == "shared" and len(data) and not 0 <= data.min() <= data.max() < len(table):
        raise RecipeError(f"codes from {data.min()} to {data.max()} in a codebook of {len(table)}")
    if table is not None and stored.kind == "grid":
        count = 1 if stored.axis is None else stored.shape[stored.axis]
        if len(table) != count or (zero is not None and len(zero) != count):
            raise RecipeError(f"a grid of {count} channels with {len(table)} scales")
    return replace(stored, data=data, kept=kept, table=table, zero_point=zero)


def _check_entries(stored: Stored, data: np.ndarray, kept: np.ndarray | None) -> None:
    there = stored.size if kept is None else len(kept)
    if len(data) != there:
        raise RecipeError(f"{len(data)} values for {there} entries of a tensor of shape {stored.shape}")
    if kept is not None and len(kept) and (kept[0] < 0 or kept[-1] >= stored.size or (np.diff(kept) < 1).any()):
        raise RecipeError(f"kept positions are not sorted, not distinct, or not within {stored.size} entries")
    if stored.kind != "plain" and data.dtype.kind not in "iu":
        raise RecipeError(f"{stored.kind} data are integers, not {data.dtype}")
