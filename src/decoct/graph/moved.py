"""Labels through data movements: what markers have shown, put to use.

A dimension that goes whole into another keeps its labels. One that is parted in two can be cut along only one of them;
so can one that two were flattened into. Equal blocks and strides of it are cut alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from decoct.graph.labels import ANY, FIRM, FIXED, Flow, Label, Labels
from decoct.graph.movement import NOWHERE, Markers
from decoct.graph.tape import Op, Ref

INDEXED = frozenset(
    f"aten.{name}" for name in ("index", "index_select", "gather", "take_along_dim", "repeat_interleave")
)


def moved(flow: Flow, op: Op) -> None:
    """The rule of every data movement."""
    refs = op.refs()
    indexed = any(ref.key not in flow.tape.constants for ref in refs[1:]) and op.name in INDEXED
    if all(ref.key in flow.tape.constants and ref.key not in flow.tape.written for ref in op.outputs):
        return
    if indexed or not any(isinstance(label, np.ndarray) for ref in refs for label in flow.of(ref)):
        if indexed:
            for ref in refs:
                flow.freeze_all(ref, f"{op.name} picks positions that depend on the data")
        for ref in op.outputs:
            flow.put(ref, [None] * len(ref.shape))
        return
    if all(ref.key in flow.weights for ref in refs):
        flow.weights.update(ref.key for ref in op.outputs)
    plain = frozenset(_plain_dims(flow, op, refs))
    if plain not in op.maps:
        op.maps[plain] = Markers(op, flow.tape.constants, plain)
    markers = op.maps[plain]
    for number, ref in enumerate(op.outputs):
        flow.put(ref, _arrived(flow, op, markers, number) if prod(ref.shape) else [None] * len(ref.shape))


def _plain_dims(flow: Flow, op: Op, refs: list[Ref]) -> Iterator[int]:
    """The dimensions of tensors that are joined that hold nothing to follow."""
    if op.name != "aten.cat" or any(len(ref.shape) != len(refs[0].shape) for ref in refs):
        return
    joined = op.argument("dim", 0) % len(refs[0].shape)
    for dim in range(len(refs[0].shape)):
        if dim != joined and not any(isinstance(flow.of(ref)[dim], np.ndarray) for ref in refs):
            yield dim


def _arrived(flow: Flow, op: Op, markers: Markers, output: int) -> Labels:
    """The labels of one output of a movement."""
    coming: list[list[tuple[int, int, np.ndarray]]] = [[] for _ in markers.outputs[output]]
    sources = [ref for ref in op.refs() if id(ref) in markers.moved]
    for source, ref in enumerate(sources):
        for dim, label in enumerate(flow.of(ref)):
            if isinstance(label, np.ndarray):
                _follow(flow, op, markers, source, dim, output, label, coming)
    return [
        _merged(flow, op, markers, sources, output, dim, found) if found else None for dim, found in enumerate(coming)
    ]


def _follow(flow: Flow, op: Op, markers: Markers, source: int, dim: int, output: int, label: np.ndarray,
    coming: list[list[tuple[int, int, np.ndarray]]],
) -> None:  # fmt: skip
    """Where one labelled dimension of a source arrives."""
    move = markers.move(source, dim, output)
    if move is None:
        return
    if move.along:
        ((to, index),) = move.along.items()
        if not _whole(flow, label, index):
            flow.freeze(label, f"{op.name} takes some of its positions by number")
        else:
            coming[to].append((source, dim, np.where(index == NOWHERE, FIXED, label[index])))
    elif move.spread:
        site = (op.name, markers.sources[source], markers.outputs[output], dim, "split")
        exact = [at for at, pairs in move.spread.items() if _agrees(label, pairs)]
        to = exact[0] if exact else flow.choose(site, list(move.spread))
        position, entry = move.spread[to].T
        if not _all_covered(label, entry):
            flow.freeze(label, f"{op.name} takes some of its positions by number")
            return
        start = np.flatnonzero(np.r_[True, position[1:] != position[:-1]])
        first = np.full(markers.outputs[output][to], FIXED)
        first[position[start]] = label[entry[start]]
        flow.edges.append((first[position], label[entry]))
        coming[to].append((source, dim, first))
    elif label.size > 1:
        flow.freeze(label, f"{op.name} picks one of its positions by number")


def _agrees(label: np.ndarray, pairs: np.ndarray) -> bool:
    """Whether all that lies at one position of a dimension belongs together already: then that one can be cut."""
    position, entry = pairs.T
    atoms = label[entry]
    return bool((atoms[1:] == atoms[:-1])[position[1:] == position[:-1]].all())


def _all_covered(label: np.ndarray, entry: np.ndarray) -> bool:
    return len(np.unique(entry)) == label.size


def _whole(flow: Flow, label: np.ndarray, index: np.ndarray) -> bool:
    """Whether a movement takes all positions of a label, or an equal part of it that a cut can respect.

    An equal block of positions (a chunk) or every n-th of them (a strided slice) goes with its like.
    """
    held = index[index != NOWHERE]
    if _all_covered(label, held):
        return True
    size, count = label.size, held.size
    if count < 1 or size % count or (np.diff(held) < 1).any():
        return False
    if (np.diff(held) == 1).all() and held[0] % count == 0:  # a block
        flow.fold(label, count)
        return True
    stride = size // count
    if (np.diff(held) == stride).all():
        blocks = label.reshape(count, stride)
        flow.edges += [(blocks[:, 0], blocks[:, other]) for other in range(1, stride)]
        return True
    return False


def _merged(flow: Flow, op: Op, markers: Markers, sources: list[Ref], output: int, dim: int,
    found: list[tuple[int, int, np.ndarray]],
) -> Label:  # fmt: skip
    """One label for an output dimension out of all that arrives there: (source, its dimension, atoms)."""
    size = markers.outputs[output][dim]
    by_source: dict[int, list[tuple[int, np.ndarray]]] = {}
    for source, at, atoms in found:
        by_source.setdefault(source, []).append((at, atoms))
    result = np.full(size, -1)
    for source, parts in by_source.items():
        at = parts[0][0]
        if len(parts) > 1:  # several dimensions of one source were flattened into this one
            site = (op.name, markers.sources[source], markers.outputs[output], dim, "merge")
            at = flow.choose(site, [each for each, _ in parts])
        for each, atoms in parts:
            if each != at:
                flow.freeze(atoms, f"{op.name} flattens it together with another dimension that can be cut")
        atoms = next(atoms for each, atoms in parts if each == at)
        there = markers.positions(source, dim, output)
        both = there & (result != -1)
        flow.edges.append((result[both], atoms[both]))
        result = np.where(there & (result == -1), atoms, result)
    for source, ref in enumerate(sources):
        if source not in by_source and not all(label is ANY for label in flow.of(ref)):
            there = markers.positions(source, dim, output)
            flow.freeze(result[there & (result > 0)], f"{op.name} joins it with {FIRM}")
            result = np.where(there, flow.firm(f"{op.name} puts beside it {FIRM}"), result)
    own = flow.firm(f"{op.name} in {op.module or 'the model'} puts its own values beside it")
    return np.where(result == -1, own, result)
