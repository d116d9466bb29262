"""What a data movement does to positions, learnt by moving markers: no operation's meaning is guessed from its name.

Each source tensor is replaced by one whose entries are their own places, the operation is run, and the places that come
out tell, for each output dimension, which positions of each source dimension lie there.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """The places that came out of one operation."""

    def __init__(self, op: Op, constants: dict[int, Tensor]) -> None:
        self.sources = [ref for ref in op.refs() if ref.key not in constants or _is_moved(ref, op)]
        self.outputs = [ref.shape for ref in op.outputs]
        self.moves: dict[tuple[int, int, int], Move | None] = {}
        offsets = np.cumsum([1, *(prod(ref.shape) for ref in self.sources)])
        marked = iter(
            torch.arange(offset, offset + prod(ref.shape), dtype=torch.float64).view(ref.shape)
            for offset, ref in zip(offsets.tolist(), self.sources, strict=False)
        )
        moved = {id(ref) for ref in self.sources}
        args, kwargs = tree_map_only(
            Ref, lambda ref: next(marked) if id(ref) in moved else constants[ref.key], (op.args, op.kwargs)
        )
        kwargs = {name: value for name, value in kwargs.items() if name not in ("dtype", "device", "pin_memory")}
        if op.name == "aten.constant_pad_nd":
            args = (args[0], args[1], 0.0)
        results = [leaf for leaf in tree_leaves(op.function(*args, **kwargs)) if isinstance(leaf, Tensor)]
        self.places = [result.numpy().astype(np.int64) for result in results]  # 0: put there by the operation itself
        self.offsets = offsets

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
            self.moves[key] = self._move(*key)
        return self.moves[key]

    def _move(self, source: int, dim: int, output: int) -> Move | None:
        where, entries = self.part(source, output)
        if not where.size:
            return None
        shape, out = self.sources[source].shape, self.outputs[output]
        size = shape[dim]
        index = entries // prod(shape[dim + 1 :]) % size
        along: dict[int, np.ndarray] = {}
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
        if not spread and (index == index[0]).all():
            along = {}
        return Move(along, spread)

    def positions(self, source: int, dim: int, output: int) -> np.ndarray:
        """At which positions of an output dimension there are entries of a source (bool)."""
        where, _ = self.part(source, output)
        out = self.outputs[output]
        found = np.zeros(out[dim], dtype=bool)
        found[where // prod(out[dim + 1 :]) % out[dim]] = True
        return found

    def missing(self, dim: int, output: int) -> np.ndarray:
        """At which positions of an output dimension there is nothing but what the operation itself put (bool)."""
        places = np.moveaxis(self.places[output], dim, 0).reshape(self.outputs[output][dim], -1)
        return ~(places > 0).any(1)


def _varies(seen: np.ndarray, counts: np.ndarray) -> bool:
    """Whether different positions hold different source positions (a lone position counts as varying)."""
    return bool(seen.any(0).sum() > 1) or seen.shape[0] == 1 or seen.shape[1] == 1


def _is_moved(ref: Ref, op: Op) -> bool:
    """Whether a constant is what is moved, and not an index to move by: the first tensor of an operation is."""
    refs: list[Any] = op.refs()
    return op.name in ("aten.cat", "aten.stack") or ref is refs[0]
