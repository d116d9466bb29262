"""How channels flow through a tape: which positions of which tensors stand or fall together, and which cannot fall.

Every position of every dimension of a parameter or buffer is an *atom*. A dimension of any other tensor is labelled

    an array (size,) of atoms    what each position there belongs to; several may belong to one
    ANY                          a constant that is the same at every position, or a single position: it fits anything
    None                         positions that cannot be removed: of the data, of space, of time

Operations pass labels on and join them (an edge between two atoms: both or neither), or freeze them with a reason.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from decoct.graph.movement import MOVEMENTS, NOWHERE, Markers
from decoct.graph.tape import RECURRENT, Op, Ref, Tape


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY = _Any()
FIXED = 0
"""The atom of positions that cannot be removed."""

FIRM = "what cannot be cut: the input, space or time"
KERNEL = "it is a dimension of a kernel"
"""Why the height and width of a filter stay; too plain to be listed."""

Label = np.ndarray | _Any | None
Labels = list[Label]
Site = tuple[Any, ...]


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one operation and the dimensions that they are in proportion to."""

    module: str
    macs: int
    axes: tuple[np.ndarray, ...]


class Flow:
    """One pass over a tape.

    choices: at a site where only one of several dimensions can be cut, which; without a choice it is the first option.
    All sites that were met are in `sites` afterwards.
    """

    def __init__(self, tape: Tape, choices: Mapping[Site, Any]) -> None:
        self.tape, self.choices = tape, choices
        self.sites: dict[Site, list[Any]] = {}
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.frozen: list[tuple[np.ndarray, str]] = []
        self.axes: dict[tuple[str, int], np.ndarray] = {}
        self.starts: list[int] = []  # the first atom of each axis, in their order
        self.places: list[tuple[str, int]] = []  # the axes, in the same order
        self.roles: dict[tuple[str, int], set[str]] = {}
        self.groupings: list[tuple[str, str, np.ndarray]] = []  # module, attribute, what it counts
        self.work: list[Work] = []
        self.crossings: dict[str, list[np.ndarray]] = {}  # module -> labels that its own operations make
        self.doubtful: list[np.ndarray] = []  # the depth of attention: a model's code seldom lets it change
        self.labels: dict[int, Labels] = {}
        self.atoms = 1
        self.weights = set(tape.parameters)  # parameters, and what is only moved from one
        for op in tape.ops:
            self._pass(op)
        for ref in tape.outputs:
            self.freeze_all(ref, "it is the model's output")

    # ------------------------------------------------------------------------------------------------------- labels

    def of(self, ref: Ref) -> Labels:
        """The labels of a tensor."""
        if ref.key not in self.labels:
            self.labels[ref.key] = self._first(ref)
        return self.labels[ref.key]

    def _first(self, ref: Ref) -> Labels:
        if ref.key in self.tape.parameters:
            name = self.tape.parameters[ref.key]
            return [self._fresh(name, dim, size) for dim, size in enumerate(ref.shape)]
        if ref.key in self.tape.constants and ref.key not in self.tape.written:
            return self._constant(self.tape.constants[ref.key])
        return [None if size > 1 else ANY for size in ref.shape]

    def _fresh(self, name: str, dim: int, size: int) -> Label:
        atoms = self.new(size)
        self.axes[name, dim] = atoms
        self.starts.append(int(atoms[0]))
        self.places.append((name, dim))
        return atoms if size > 1 else ANY

    def new(self, size: int) -> np.ndarray:
        """Atoms that nobody has yet."""
        atoms = np.arange(self.atoms, self.atoms + size)
        self.atoms += size
        return atoms

    def _constant(self, value: torch.Tensor) -> Labels:
        labels: Labels = []
        for dim, size in enumerate(value.shape):
            same = size <= 1 or bool((value == value.narrow(dim, 0, 1)).all())
            labels.append(ANY if same else None)
        return labels

    def freeze(self, label: Label, reason: str) -> None:
        """These positions cannot be removed."""
        if isinstance(label, np.ndarray):
            self.frozen.append((label, reason))

    def freeze_all(self, ref: Ref, reason: str) -> None:
        """No position of a tensor can be removed."""
        for label in self.of(ref):
            self.freeze(label, reason)

    def join(self, labels: Sequence[Label], reason: str) -> Label:
        """The label of a dimension in which these meet position by position."""
        arrays = [label for label in labels if isinstance(label, np.ndarray)]
        if not arrays:
            return None if any(label is None for label in labels) else ANY
        if any(label is None for label in labels):
            for each in arrays:
                self.freeze(each, reason)
            return None
        for other in arrays[1:]:
            if other is not arrays[0]:
                self.edges.append((arrays[0], other))
        return arrays[0]

    def fold(self, label: np.ndarray, across: int) -> None:
        """Join the positions of a label that lie `across` apart: those that a cut must take from every part at once."""
        parts = label.reshape(-1, across)
        self.edges += [(parts[0], part) for part in parts[1:]]

    def role(self, label: Label, role: str) -> None:
        """Note what parameters' dimensions are to an operation: `out`, `in`, `scale` or `shift`."""
        if isinstance(label, np.ndarray) and label.size:
            place = bisect_right(self.starts, label[0]) - 1
            if place >= 0 and label[0] <= self.axes[self.places[place]][-1]:
                self.roles.setdefault(self.places[place], set()).add(role)

    def choose(self, site: Site, options: list[Any]) -> Any:
        """The option taken at a site."""
        self.sites.setdefault(site, options)
        return self.choices.get(site, options[0])

    # --------------------------------------------------------------------------------------------------- operations

    def _pass(self, op: Op) -> None:
        rule = RULES.get(op.name)
        if rule is None and op.name in MOVEMENTS:
            rule = Flow._moved
        if rule is None and (op.name in POINTWISE or op.name.rstrip("_") in POINTWISE or _is_pointwise(op)):
            rule = Flow._pointwise
        if rule is None and op.name.startswith(SPATIAL):
            rule = Flow._spatial
        (rule or Flow._unknown)(self, op)
        for ref in op.outputs:
            found = [label for label in self.of(ref) if isinstance(label, np.ndarray)]
            if found:
                for module in _with_parents(op.module):
                    self.crossings.setdefault(module, []).extend(found)

    def put(self, ref: Ref, labels: Labels) -> None:
        """Label a tensor; single positions fit anything, data written into constants is not one."""
        self.labels[ref.key] = [
            ANY if size == 1 and not isinstance(label, np.ndarray) else label
            for size, label in zip(ref.shape, labels, strict=True)
        ]

    def _unknown(self, op: Op) -> None:
        where = f" in {op.module}" if op.module else ""
        if all(ref.key in self.tape.constants for ref in op.outputs) and op.outputs:
            return
        for ref in op.refs():
            self.freeze_all(ref, f"{op.name}{where} is not understood")
        for ref in op.outputs:
            self.put(ref, [None] * len(ref.shape))

    def _pointwise(self, op: Op) -> None:
        refs = op.refs()
        out = op.outputs[0]
        if out.key in self.tape.constants and out.key not in self.tape.written:
            return
        result: Labels = []
        for back in range(len(out.shape), 0, -1):
            meeting = [self.of(ref)[-back] for ref in refs if len(ref.shape) >= back and ref.shape[-back] > 1]
            result.append(self.join(meeting, f"{op.name} joins it with {FIRM}") if meeting else ANY)
        if op.name == "aten.copy_":
            for old, new in zip(self.of(refs[0]), result, strict=True):
                if old is ANY:
                    self.freeze(new, "it is written into a part of another tensor")
        for ref in op.outputs:
            self.put(ref, list(result))

    def _spatial(self, op: Op) -> None:
        """Batch and channels pass; the dimensions of space cannot be cut."""
        source = op.refs()[0]
        labels = self.of(source)
        said = re.search(r"([123])d", op.name)
        kept = len(labels) - (int(said[1]) if said else max(len(labels) - 2, 0))
        for label in labels[kept:]:
            self.freeze(label, f"{op.name} in {op.module or 'the model'} slides over it")
        for ref in op.outputs:
            self.put(ref, [*labels[:kept], *[None] * (len(ref.shape) - kept)])

    # ---------------------------------------------------------------------------------------------------- movements

    def _moved(self, op: Op) -> None:
        refs = op.refs()
        indexed = any(ref.key not in self.tape.constants for ref in refs[1:]) and op.name in INDEXED
        if all(ref.key in self.tape.constants and ref.key not in self.tape.written for ref in op.outputs):
            return
        if indexed or not any(isinstance(label, np.ndarray) for ref in refs for label in self.of(ref)):
            if indexed:
                for ref in refs:
                    self.freeze_all(ref, f"{op.name} picks positions that depend on the data")
            for ref in op.outputs:
                self.put(ref, [None] * len(ref.shape))
            return
        if all(ref.key in self.weights for ref in refs):
            self.weights.update(ref.key for ref in op.outputs)
        plain = frozenset(self._plain_dims(op, refs))
        if plain not in op.maps:
            op.maps[plain] = Markers(op, self.tape.constants, plain)
        markers = op.maps[plain]
        for number, ref in enumerate(op.outputs):
            self.put(ref, self._arrived(op, markers, number))

    def _plain_dims(self, op: Op, refs: list[Ref]) -> Iterator[int]:
        """The dimensions of tensors that are joined that hold nothing to follow."""
        if op.name != "aten.cat" or any(len(ref.shape) != len(refs[0].shape) for ref in refs):
            return
        joined = op.argument("dim", 0) % len(refs[0].shape)
        for dim in range(len(refs[0].shape)):
            if dim != joined and not any(isinstance(self.of(ref)[dim], np.ndarray) for ref in refs):
                yield dim

    def _arrived(self, op: Op, markers: Markers, output: int) -> Labels:
        """The labels of one output of a movement."""
        coming: list[list[tuple[int, int, np.ndarray]]] = [[] for _ in markers.outputs[output]]
        sources = [ref for ref in op.refs() if id(ref) in markers.moved]
        for source, ref in enumerate(sources):
            for dim, label in enumerate(self.of(ref)):
                if isinstance(label, np.ndarray):
                    self._follow(op, markers, source, dim, output, label, coming)
        return [
            self._merged(op, markers, sources, output, dim, found) if found else None
            for dim, found in enumerate(coming)
        ]

    def _follow(
        self, op: Op, markers: Markers, source: int, dim: int, output: int, label: np.ndarray,
        coming: list[list[tuple[int, int, np.ndarray]]],
    ) -> None:  # fmt: skip
        """Where one labelled dimension of a source arrives."""
        move = markers.move(source, dim, output)
        if move is None:
            return
        if move.along:
            ((to, index),) = move.along.items()
            if not self._whole(label, index):
                self.freeze(label, f"{op.name} takes some of its positions by number")
            else:
                coming[to].append((source, dim, np.where(index == NOWHERE, FIXED, label[index])))
        elif move.spread:
            site = (op.name, markers.sources[source], markers.outputs[output], dim, "split")
            exact = [at for at, pairs in move.spread.items() if self._agrees(label, pairs)]
            to = exact[0] if exact else self.choose(site, list(move.spread))
            position, entry = move.spread[to].T
            if not self._all_covered(label, entry):
                self.freeze(label, f"{op.name} takes some of its positions by number")
                return
            start = np.flatnonzero(np.r_[True, position[1:] != position[:-1]])
            first = np.full(markers.outputs[output][to], FIXED)
            first[position[start]] = label[entry[start]]
            self.edges.append((first[position], label[entry]))
            coming[to].append((source, dim, first))
        elif label.size > 1:
            self.freeze(label, f"{op.name} picks one of its positions by number")

    @staticmethod
    def _agrees(label: np.ndarray, pairs: np.ndarray) -> bool:
        """Whether all that lies at one position of a dimension belongs together already: then that one can be cut."""
        position, entry = pairs.T
        atoms = label[entry]
        return bool((atoms[1:] == atoms[:-1])[position[1:] == position[:-1]].all())

    @staticmethod
    def _all_covered(label: np.ndarray, entry: np.ndarray) -> bool:
        return len(np.unique(entry)) == label.size

    def _whole(self, label: np.ndarray, index: np.ndarray) -> bool:
        """Whether a movement takes all positions of a label, or an equal part of it that a cut can respect.

        An equal block of positions (a chunk) or every n-th of them (a strided slice) goes with its like.
        """
        held = index[index != NOWHERE]
        if self._all_covered(label, held):
            return True
        size, count = label.size, held.size
        if count < 1 or size % count or (np.diff(held) < 1).any():
            return False
        if (np.diff(held) == 1).all() and held[0] % count == 0:  # a block
            self.fold(label, count)
            return True
        stride = size // count
        if (np.diff(held) == stride).all():
            blocks = label.reshape(count, stride)
            self.edges += [(blocks[:, 0], blocks[:, other]) for other in range(1, stride)]
            return True
        return False

    def _merged(
        self, op: Op, markers: Markers, sources: list[Ref], output: int, dim: int,
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
                at = self.choose(site, [each for each, _ in parts])
            for each, atoms in parts:
                if each != at:
                    self.freeze(atoms, f"{op.name} flattens it together with another dimension that can be cut")
            atoms = next(atoms for each, atoms in parts if each == at)
            there = markers.positions(source, dim, output)
            both = there & (result != -1)
            self.edges.append((result[both], atoms[both]))
            result = np.where(there & (result == -1), atoms, result)
        for source, ref in enumerate(sources):
            if source not in by_source and not all(label is ANY for label in self.of(ref)):
                there = markers.positions(source, dim, output)
                self.freeze(result[there & (result > 0)], f"{op.name} joins it with {FIRM}")
                result = np.where(there, self._firm(f"{op.name} puts beside it {FIRM}"), result)
        own = self._firm(f"{op.name} in {op.module or 'the model'} puts its own values beside it")
        return np.where(result == -1, own, result)

    def _firm(self, reason: str) -> np.ndarray:
        """An atom that cannot be removed."""
        atom = self.new(1)
        self.freeze(atom, reason)
        return atom

    # ------------------------------------------------------------------------------------------------- contractions

    def contract(self, one: Label, other: Label, op: Op) -> None:
        """Two dimensions that are multiplied and summed."""
        self.join([one, other], f"{op.name} sums it with {FIRM}")

    def _mm(self, op: Op) -> None:
        left, right = op.refs()[-2:]
        *batch, rows, inner = self.of(left)
        *other, inner_too, columns = self.of(right)
        self.contract(inner, inner_too, op)
        if left.key not in self.weights and right.key not in self.weights:
            self.doubtful += [label for label in (inner, columns) if isinstance(label, np.ndarray)]
        for ref, within, out in ((left, inner, rows), (right, inner_too, columns)):
            if ref.key in self.weights:
                self.role(within, "in")
                self.role(out, "out")
        result = [
            *(self.join(pair, f"{op.name} joins it with {FIRM}") for pair in zip(batch, other, strict=True)),
            rows,
            columns,
        ]
        if len(op.refs()) == 3:
            result = self._added(op, op.refs()[0], result, op.outputs[0])
        self._count(op, prod(left.shape) * right.shape[-1], [*batch, rows, inner, columns])
        self.put(op.outputs[0], result)

    def _linear(self, op: Op) -> None:
        inputs, weight, *bias = op.refs()
        *rows, inner = self.of(inputs)
        out, inner_too = self.of(weight)
        self.contract(inner, inner_too, op)
        self.role(inner_too, "in")
        self.role(out, "out")
        result: Labels = [*rows, out]
        if bias:
            result = self._added(op, bias[0], result, op.outputs[0])
        self._count(op, prod(inputs.shape) * weight.shape[0], [*rows, inner, out])
        self.put(op.outputs[0], result)

    def _added(self, op: Op, bias: Ref, result: Labels, out: Ref) -> Labels:
        labels = self.of(bias)
        joined = list(result)
        for back in range(1, len(labels) + 1):
            if bias.shape[-back] > 1:
                self.role(labels[-back], "shift")
                joined[-back] = self.join([result[-back], labels[-back]], f"{op.name} adds what cannot be cut")
        return joined

    def _mv(self, op: Op) -> None:
        left, right = op.refs()[-2:]
        self.contract(self.of(left)[-1], self.of(right)[0], op)
        self.put(op.outputs[0], self.of(left)[:-1])

    def _count(self, op: Op, macs: int, labels: Sequence[Label]) -> None:
        axes = tuple(label for label in labels if isinstance(label, np.ndarray))
        self.work.append(Work(op.module, macs, axes))

    def _convolution(self, op: Op) -> None:
        inputs, weight = op.argument("input"), op.argument("weight")
        bias, transposed, groups = op.argument("bias"), op.argument("transposed"), op.argument("groups")
        batch, channels, *space = self.of(inputs)
        first, second, *kernel = self.of(weight)
        for label in kernel:
            self.freeze(label, KERNEL)
        for label in space:
            self.freeze(label, f"{op.name} in {op.module or 'the model'} slides over it")
        out, inner = (second, first) if transposed else (first, second)
        result: Label
        if groups == 1:
            self.contract(channels, inner, op)
            result = out
        else:
            result = self._grouped(op, channels, weight, groups, bool(transposed))
        self.role(out, "out")
        self.role(inner, "in")
        labels: Labels = [batch, result, *[None] * len(space)]
        if isinstance(bias, Ref):
            self.role(self.of(bias)[0], "shift")
            labels[1] = self.join([result, self.of(bias)[0]], f"{op.name} adds what cannot be cut")
        places = prod(inputs.shape[2:] if transposed else op.outputs[0].shape[2:])
        self._count(op, prod(weight.shape) * places * inputs.shape[0], [batch, out, inner])
        self.put(op.outputs[0], labels)

    def _grouped(self, op: Op, channels: Label, weight: Ref, groups: int, transposed: bool) -> Label:
        """A grouped convolution: cut whole groups, or the same channels from every group.

        Its weight is (out, in / groups, ...), of a transposed one (in, out / groups, ...). Returns the label of what
        comes out.
        """
        first, second, *_ = self.of(weight)
        reason = f"{op.name} joins it with {FIRM}"
        if transposed:
            channels = self.join([channels, first], reason)
            result: Label = self.new(groups * weight.shape[1])
        else:
            result = first
        reads = op.argument("input").shape[1] // groups
        options = ["within", "groups"] if groups < reads else ["groups", "within"] if reads > 1 else ["groups"]
        if self.choose((op.name, weight.shape, groups, "grouped"), options) == "groups":
            self._whole_groups(op, [channels, result], groups)
            self.freeze(second, "only whole groups of it can be cut")
            return result
        for label in (channels, result):
            if isinstance(label, np.ndarray):
                self.fold(label, label.size // groups)
        inside = np.tile(self._array(second, weight.shape[1]), groups)
        self.join([inside, result if transposed else channels], reason)
        return result

    def _whole_groups(self, op: Op, sides: list[Label], groups: int) -> None:
        """Join the channels of each group, and the groups of all sides."""
        heads: list[Label] = []
        for label in sides:
            if isinstance(label, np.ndarray):
                parts = label.reshape(groups, -1)
                self.edges += [(parts[:, 0], parts[:, other]) for other in range(1, parts.shape[1])]
                label = np.ascontiguousarray(parts[:, 0])
            heads.append(label)
        head = self.join(heads, f"{op.name} joins it with {FIRM}")
        if isinstance(head, np.ndarray):
            self.groupings.append((op.module, "groups", head))

    def _array(self, label: Label, size: int) -> np.ndarray:
        return label if isinstance(label, np.ndarray) else np.full(size, FIXED)

    def _attention(self, op: Op) -> None:
        query, key, value = op.refs()[:3]
        (*heads, time, depth), (*kv, time_kv, depth_k), (*kv_too, time_v, depth_v) = map(self.of, (query, key, value))
        for label in (time, time_kv, time_v):
            self.freeze(label, f"{op.name} takes it for time")
        if op.argument("scale") is None:
            self.freeze(depth, f"{op.name} scales by it")
        self.contract(depth, depth_k, op)
        self.doubtful += [label for label in (depth, depth_v) if isinstance(label, np.ndarray)]
        result: Labels = []
        for place, (q, k, v) in enumerate(zip(heads, kv, kv_too, strict=True)):
            shared = self.join([k, v], f"attention joins it with {FIRM}")
            repeat = query.shape[place] // max(key.shape[place], 1)
            if repeat > 1 and isinstance(shared, np.ndarray):
                shared = np.repeat(shared, repeat)
            result.append(self.join([q, shared], f"attention joins it with {FIRM}"))
        self._count(op, 2 * prod(query.shape) * key.shape[-2], [*heads, depth_v])
        self.put(op.outputs[0], [*result, None, depth_v])
        for ref in op.outputs[1:]:
            self.put(ref, [None] * len(ref.shape))

    # ------------------------------------------------------------------------------------ normalisation, reduction

    def _batch_norm(self, op: Op) -> None:
        inputs, *vectors = [ref for ref in op.refs() if ref.shape != (0,)]
        batch, channels, *rest = self.of(inputs)
        statistics = bool(op.argument("training")) or op.argument("running_mean") is None
        labels = [self.of(ref)[0] for ref in vectors]
        for name, role in (("weight", "scale"), ("bias", "shift")):
            if isinstance(vector := op.argument(name), Ref):
                self.role(self.of(vector)[0], role)
        if statistics:
            for label in (batch, *rest):
                self.freeze(label, f"{op.name} normalises over it")
        channels = self.join([channels, *labels], f"{op.name} joins it with {FIRM}")
        self.put(op.outputs[0], [batch, channels, *rest])
        for ref in op.outputs[1:]:
            self.put(ref, [None] * len(ref.shape))

    def _layer_norm(self, op: Op) -> None:
        inputs, count = op.argument("input"), len(op.argument("normalized_shape"))
        labels = self.of(inputs)
        for label in labels[len(labels) - count :]:
            self.freeze(label, f"layer_norm in {op.module} normalises over it")
        for name in ("weight", "bias"):
            if isinstance(vector := op.argument(name), Ref):
                for one, other in zip(self.of(vector), labels[len(labels) - count :], strict=True):
                    self.join([one, other], "layer_norm normalises over it")
        self.put(op.outputs[0], [*labels[: len(labels) - count], *[None] * count])
        for ref in op.outputs[1:]:
            self.put(ref, [None] * len(ref.shape))

    def _group_norm(self, op: Op) -> None:
        inputs, groups = op.argument("input"), op.argument("group")
        batch, channels, *rest = self.of(inputs)
        for label in rest:
            self.freeze(label, f"group_norm in {op.module} normalises over it")
        vectors = [vector for name in ("weight", "bias") if isinstance(vector := op.argument(name), Ref)]
        channels = self.join(
            [channels, *(self.of(vector)[0] for vector in vectors)],
            f"group_norm joins it with {FIRM}",
        )
        if isinstance(channels, np.ndarray):
            if groups == 1:
                self.freeze(channels, f"group_norm in {op.module} normalises over it")
            else:
                parts = channels.reshape(groups, -1)
                self.edges += [(parts[:, 0], parts[:, other]) for other in range(1, parts.shape[1])]
                self.groupings.append((op.module, "num_groups", np.ascontiguousarray(parts[:, 0])))
        self.put(op.outputs[0], [batch, channels, *rest])
        for ref in op.outputs[1:]:
            self.put(ref, [None] * len(ref.shape))

    def _reduced(self, op: Op) -> None:
        """Sums end a dimension; every other reduction over it depends on how many positions there are."""
        source = op.refs()[0]
        labels = self.of(source)
        dims = op.argument("dim")
        dims = list(range(len(labels))) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        dims = [dim % max(len(labels), 1) for dim in dims]
        if op.name not in ("aten.sum", "aten.nansum"):
            for dim in dims:
                self.freeze(labels[dim], f"{op.name} in {op.module or 'the model'} reduces over it")
        for ref in op.outputs:
            kept = len(ref.shape) == len(labels)
            self.put(ref, [None if kept and dim in dims else label
                           for dim, label in enumerate(labels) if kept or dim not in dims])  # fmt: skip

    def _along(self, op: Op) -> None:
        """What depends on a whole dimension and gives it back: softmax, cumsum, sort."""
        labels = list(self.of(op.refs()[0]))
        dim = op.argument("dim", -1)
        dim = 0 if dim is None else dim
        if labels:
            self.freeze(labels[dim], f"{op.name} in {op.module or 'the model'} goes over it")
            labels[dim] = None
        for ref in op.outputs:
            self.put(ref, list(labels) if len(ref.shape) == len(labels) else [None] * len(ref.shape))

    def _glu(self, op: Op) -> None:
        labels = list(self.of(op.refs()[0]))
        dim = op.argument("dim", -1)
        if isinstance(label := labels[dim], np.ndarray):
            self.fold(label, label.size // 2)
            labels[dim] = label[: label.size // 2]
        self.put(op.outputs[0], labels)

    def _embedding(self, op: Op) -> None:
        weight, indices = op.argument("weight"), op.argument("indices")
        words, *rest = self.of(weight)
        self.freeze(words, "it is indexed by the data")
        self.freeze_all(indices, "it is an index")
        for label in rest:
            self.role(label, "out")
        self.put(op.outputs[0], [*[None] * len(indices.shape), *rest])

    def _made(self, op: Op) -> None:
        """A new tensor, filled with one value or not at all, in a shape that the code asks for."""
        for ref in op.outputs:
            self.put(ref, [None if ref.key in self.tape.written else ANY] * len(ref.shape))

    def _asked(self, op: Op) -> None:
        """A question about a tensor that makes none."""

    # ---------------------------------------------------------------------------------------------------- recurrent

    def _recurrent(self, op: Op) -> None:
        inputs, hidden, flat, _, layers, _, _, both, *_ = op.args
        if not isinstance(inputs, Ref) or not isinstance(flat, list | tuple):
            self._unknown(op)  # a packed sequence
            return
        gates = {"lstm": 4, "gru": 3}.get(op.name, 1)
        directions = 2 if both else 1
        per = len(flat) // (layers * directions)
        bias = per >= 4
        projected = per in (3, 5)
        cells = flat[0].shape[0] // gates
        units = self.new(cells)
        out = self.new(flat[1].shape[1]) if projected else units
        last = self.of(inputs)[-1]
        reason = f"{op.module or op.name} joins it with {FIRM}"
        for number in range(layers):
            for direction in range(directions):
                part = flat[(number * directions + direction) * per :][:per]
                rows = np.tile(units, gates)
                for ref in part[: 4 if bias else 2]:
                    self.join([self.of(ref)[0], rows], reason)
                self.role(self.of(part[0])[0], "out")
                self.role(self.of(part[1])[0], "out")
                self.contract(self.of(part[0])[1], last, op)
                self.contract(self.of(part[1])[1], out, op)
                self.role(self.of(part[0])[1], "in")
                self.role(self.of(part[1])[1], "in")
                if projected:
                    self.join([self.of(part[-1])[0], out], reason)
                    self.contract(self.of(part[-1])[1], units, op)
                    self.role(self.of(part[-1])[1], "in")
                    self.role(self.of(part[-1])[0], "out")
            last = np.concatenate([out] * directions)
        states = hidden if isinstance(hidden, list | tuple) else [hidden]
        for state, label in zip(states, (out, units), strict=False):
            self.join([self.of(state)[-1], label], reason)
        steps = prod(inputs.shape[:-1])
        for ref in flat:
            if len(ref.shape) == 2:
                self._count(op, prod(ref.shape) * steps, self.of(ref))
        lead = self.of(inputs)[:-1]
        self.put(op.outputs[0], [*lead, last])
        for ref, label in zip(op.outputs[1:], (out, units), strict=False):
            self.put(ref, [*[None] * (len(ref.shape) - 1), label])


def _with_parents(path: str) -> Iterator[str]:
    """A module's path and those of the modules that it is in.

    >>> list(_with_parents("layer1.0"))
    ['layer1.0', 'layer1', '']
    """
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


def _is_pointwise(op: Op) -> bool:
    return torch.Tag.pointwise in getattr(op.function, "tags", ())


def _named(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


POINTWISE = frozenset(
    _named(
        "hardswish hardsigmoid hardtanh relu6 prelu _prelu_kernel native_dropout copy fill dropout mish masked_fill "
        "where rrelu celu selu elu softplus leaky_relu threshold"
    )
)
"""Those that torch does not tag as such."""
SPATIAL = tuple(
    _named(
        "max_pool avg_pool adaptive_avg_pool adaptive_max_pool _adaptive_avg_pool upsample_ _upsample reflection_pad "
        "replication_pad grid_sampler fractional_max_pool lp_pool max_unpool"
    )
)
INDEXED = frozenset(_named("index index_select gather take_along_dim repeat_interleave"))

RULES: dict[str, Callable[[Flow, Op], None]] = {
    **dict.fromkeys(_named("mm addmm bmm baddbmm"), Flow._mm),
    **dict.fromkeys(_named("mv addmv dot"), Flow._mv),
    **dict.fromkeys(_named("linear"), Flow._linear),
    **dict.fromkeys(_named("convolution _convolution"), Flow._convolution),
    **dict.fromkeys(_named("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
                           "_batch_norm_with_update"), Flow._batch_norm),
    **dict.fromkeys(_named("native_layer_norm _fused_rms_norm"), Flow._layer_norm),
    **dict.fromkeys(_named("native_group_norm"), Flow._group_norm),
    **dict.fromkeys(_named("sum nansum mean amax amin max min median var std var_mean std_mean prod norm argmax argmin "
                           "linalg_vector_norm logsumexp any all"), Flow._reduced),
    **dict.fromkeys(_named("_softmax _log_softmax _safe_softmax cumsum cumprod logcumsumexp cummax cummin sort topk "
                           "argsort kthvalue"), Flow._along),
    **dict.fromkeys(_named("glu"), Flow._glu),
    **dict.fromkeys(_named("embedding"), Flow._embedding),
    **dict.fromkeys(_named("zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like full_like "
                           "empty_like empty_strided new_empty_strided scalar_tensor"), Flow._made),
    **dict.fromkeys(_named("_local_scalar_dense is_nonzero item equal sym_size _assert_async "
                                            "_assert_tensor_metadata"), Flow._asked),
    **dict.fromkeys(_named("_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
                           "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
                           "_scaled_dot_product_attention_math"), Flow._attention),
    **dict.fromkeys(RECURRENT, Flow._recurrent),
}  # fmt: skip
