"""What a data movement does to positions, learnt by moving markers: no operation's meaning is guessed from its name.

Each source tensor is replaced by one whose entries are their own places, the operation is run, and the places that come
out tell, for each output dimension, which positions of each source dimension lie there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from decoct.graph.tape import Op, Ref

NOWHERE = -1

MOVEMENTS = frozenset(
    f"aten.{name}"
    for name in (
        "alias", "cat", "channel_shuffle", "clone", "col2im", "constant_pad_nd", "contiguous", "detach",
        "diagonal", "expand", "expand_as", "flatten", "flip", "gather", "im2col", "index", "index_select", "lift_fresh",
        "movedim", "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "repeat_interleave", "reshape",
        "roll", "rot90", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "t", "take_along_dim",
        "transpose", "unbind", "unfold", "unsqueeze", "view", "view_as", "_reshape_alias", "_to_copy", "_unsafe_view",
        "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk", "swapaxes", "swapdims", "unflatten",
    )
)  # fmt: skip


VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        "alias", "detach", "expand", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
        "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view", "diagonal", "unfold",
    )
)  # fmt: skip
"""Those that may leave all entries where they are; whether one does is seen, see `Markers._seen_in_strides`."""


@dataclass(frozen=True)
class Move:
    """How the positions of one source dimension lie in one output tensor.

    along: output dimension -> for each position there the one source position in it (or NOWHERE), where the source
        position is told by that dimension alone.
    spread: output dimension -> pairs (position, source position) for dimensions that tell it only in part.
    """

    along: dict[int, np.ndarray]
    spread: dict[int, np.ndarray]


class Markers:
    """The places that come out of one operation.

    plain: dimensions of all sources that hold nothing to follow; joining tensors (cat) does not look at their size, so
        one position stands for all of them.
    """

    def __init__(self, op: Op, constants: dict[int, Tensor], plain: frozenset[int] = frozenset()) -> None:
        self.op, self.constants = op, constants
        refs = [ref for ref in op.refs() if ref.key not in constants or _is_moved(ref, op)]
        self.moved = {id(ref) for ref in refs}
        self.sources = [tuple(1 if dim in plain else size for dim, size in enumerate(ref.shape)) for ref in refs]
        self.outputs = [tuple(1 if dim in plain else size for dim, size in enumerate(ref.shape)) for ref in op.outputs]
        self.moves: dict[tuple[int, int, int], Move | None] = {}
        self.offsets = np.cumsum([1, *map(prod, self.sources)])

    @cached_property
    def places(self) -> list[np.ndarray]:
        """Per output, the number of the entry that lies at each place, counted from 1 through all sources.

        0 is what the operation itself put there.
        """
        marked = [
            torch.arange(start, start + prod(shape), dtype=torch.float64).view(shape)
            for start, shape in zip(self.offsets.tolist(), self.sources, strict=False)
        ]
        return [result.numpy().astype(np.int64) for result in self._run(marked)]

    def _run(self, marked: list[Tensor]) -> list[Tensor]:
        """The operation on markers in place of the sources."""
        coming = iter(marked)
        args, kwargs = tree_map_only(
            Ref,
            lambda ref: next(coming) if id(ref) in self.moved else self.constants[ref.key],
            (self.op.args, self.op.kwargs),
        )
        kwargs = {name: value for name, value in kwargs.items() if name not in ("dtype", "device", "pin_memory")}
        if self.op.name == "aten.constant_pad_nd":
            args = (args[0], args[1], 0.0)
        return [leaf for leaf in tree_leaves(self.op.function(*args, **kwargs)) if isinstance(leaf, Tensor)]

    def part(self, source: int, output: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in an output (flat) entries of a source lie, and which entries (flat) they are."""
        places = self.places[output].ravel()
        first, last = self.offsets[source], self.offsets[source + 1]
        where = np.flatnonzero((places >= first) & (places < last))
        return where, places[where] - first

    def move(self, source: int, dim: int, output: int) -> Move | None:
        """How a source dimension lies in an output; None where nothing of the source is there."""
        key = (source, dim, output)
        if key not in self.moves:
            self.moves[key] = self._seen_in_strides(dim, output) or self._move(*key)
        return self.moves[key]

    def _seen_in_strides(self, dim: int, output: int) -> Move | None:
        """The same for an operation that only looks at its one source differently; None where it does more.

        A marker that takes no room but along one dimension goes through it: where the output has a stride, it lies.
        """
        if len(self.sources) != 1 or self.op.name not in VIEWS:
            return None
        (shape,) = self.sources
        line = torch.arange(shape[dim], dtype=torch.float64)
        spread = line.view([-1 if each == dim else 1 for each in range(len(shape))]).expand(shape)
        try:
            result = self._run([spread])[output]
        except RuntimeError:  # a view that needs its entries side by side
            return None
        strided = [each for each in range(result.dim()) if result.stride(each) and result.shape[each] > 1]
        if len(strided) != 1 or result.untyped_storage().data_ptr() != line.untyped_storage().data_ptr():
            return None
        index = result[tuple(slice(None) if each == strided[0] else 0 for each in range(result.dim()))]
        return Move({strided[0]: index.numpy().astype(np.int64)}, {})

    def _move(self, source: int, dim: int, output: int) -> Move | None:
        where, entries = self.part(source, output)
        if not where.size:
            return None
        shape, out = self.sources[source], self.outputs[output]
        size = shape[dim]
        index = entries // prod(shape[dim + 1 :]) % size
        spread: dict[int, np.ndarray] = {}
        for each in sorted(range(len(out)), key=lambda each: each != dim):
            position = where // prod(out[each + 1 :]) % out[each]
            seen = np.zeros((out[each], size), dtype=bool)
            seen[position, index] = True
            counts = seen.sum(1)
            if counts.max() <= 1 and (counts > 0).sum() >= 1 and _varies(seen, counts):
                return Move({each: np.where(counts > 0, seen.argmax(1), NOWHERE)}, {})
            present = seen[counts > 0]
            if not (present == present[0]).all():
                spread[each] = np.argwhere(seen)
        return Move({}, spread)

    def positions(self, source: int, dim: int, output: int) -> np.ndarray:
        """At which positions of an output dimension there are entries of a source (bool)."""
        out = self.outputs[output]
        if len(self.sources) == 1 and self.op.name in VIEWS and all(out):
            return np.ones(out[dim], dtype=bool)  # to look at a tensor differently puts nothing beside it
        where, _ = self.part(source, output)
        found = np.zeros(out[dim], dtype=bool)
        found[where // prod(out[dim + 1 :]) % out[dim]] = True
        return found


def _varies(seen: np.ndarray, counts: np.ndarray) -> bool:
    """Whether different positions hold different source positions (a lone position counts as varying)."""
    return bool(seen.any(0).sum() > 1) or seen.shape[0] == 1 or seen.shape[1] == 1


def _is_moved(ref: Ref, op: Op) -> bool:
    """Whether a constant is what is moved, and not an index to move by: the first tensor of an operation is."""
    refs: list[Any] = op.refs()
    return op.name in ("aten.cat", "aten.stack") or ref is refs[0]
