"""How channels flow through a tape: which positions of which tensors stand or fall together, and which cannot fall.

Every position of every dimension of a parameter or buffer is an *atom*. A dimension of any other tensor is labelled

    an array (size,) of atoms    what each position there belongs to; several may belong to one
    ANY                          a constant that is the same at every position, or a single position: it fits anything
    None                         positions that cannot be removed: of the data, of space, of time

Operations pass labels on and join them (an edge between two atoms: both or neither), or freeze them with a reason.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from decoct.graph.tape import Op, Ref, Tape


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
        self.fixed: dict[str, set[int]] = {}  # module -> lengths of what cannot be cut that its own operations make
        self.doubtful: list[np.ndarray] = []  # the depth of attention: a model's code seldom lets it change
        self.labels: dict[int, Labels] = {}
        self.atoms = 1
        self.weights = set(tape.parameters)  # parameters, and what is only moved from one

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

    def put(self, ref: Ref, labels: Labels) -> None:
        """Label a tensor; single positions fit anything, data written into constants is not one."""
        self.labels[ref.key] = [
            ANY if size == 1 and not isinstance(label, np.ndarray) else label
            for size, label in zip(ref.shape, labels, strict=True)
        ]

    def contract(self, one: Label, other: Label, op: Op) -> None:
        """Two dimensions that are multiplied and summed."""
        self.join([one, other], f"{op.name} sums it with {FIRM}")

    def count(self, op: Op, macs: int, labels: Sequence[Label]) -> None:
        """Note what an operation costs, and the dimensions that this is in proportion to."""
        axes = tuple(label for label in labels if isinstance(label, np.ndarray))
        self.work.append(Work(op.module, macs, axes))

    def firm(self, reason: str) -> np.ndarray:
        """An atom that cannot be removed."""
        atom = self.new(1)
        self.freeze(atom, reason)
        return atom
