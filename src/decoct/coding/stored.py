"""What a file keeps of one tensor, before any bits are written.

A :class:`Stored` is either *plain* (numbers), *shared* (codes into a codebook, Han 2016) or a *grid* (integers, a scale
per channel). Any of them may be sparse: then only the entries at `kept` are there and the others are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from decoct.errors import RecipeError, nearest

Kind = Literal["plain", "shared", "grid"]


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
    data: (kept entries,) in row-major order. plain: the numbers, in the dtype to be stored (float32, float16, uint16 bits
        for bfloat16, any integer or bool); shared: codes into `table`; grid: integers.
    kept: (kept entries,) sorted flat positions, int64; None when every entry is kept. The other entries are zero.
    table: shared: the codebook (k,), float32 or float16; grid: the scale, (1,) or (shape[axis],).
    zero_point: grid: integers of the shape of `table`, or None for a symmetric grid. value = scale * (data - zero_point).
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
    """The names that match a glob, or one of several joined by commas, in their order; RecipeError for a glob with none."""
    names = list(names)
    found: set[str] = set()
    for part in (piece.strip() for piece in pattern.split(",")):
        matching = [name for name in names if fnmatchcase(name, part)]
        if not matching:
            there = ", ".join(names) or "none"
            raise RecipeError(f"no tensor matches {part!r}{nearest(part, names)}; there are: {there}")
        found.update(matching)
    return [name for name in names if name in found]
