"""Groups: the channels of a model that can be removed, each with everything that must go with it.

    groups(model, example) -> Graph(groups, frozen, work)

A *unit* is what one cut removes: one filter, one neuron, one head, one unit of a recurrent layer, with every row and
column that belongs to it in every tensor. Units that live in the same dimensions form a *group*. What is not understood
or cannot be cut is frozen and listed with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decoct.errors import RecipeError, nearest
from decoct.graph.flow import follow
from decoct.graph.labels import FIXED, KERNEL, Flow, Site
from decoct.graph.tape import Tape, record

MOST_TRIALS = 64


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one tensor that a group runs through.

    units: (size of the dimension,) the unit that each position belongs to, -1 for positions of no unit of the group.
    roles: what the dimension is to the operations: "out", "in", "scale", "shift"; none for statistics and the like.
    """

    tensor: str
    dim: int
    units: np.ndarray
    roles: frozenset[str]


@dataclass(frozen=True, eq=False)
class Group:
    """Units that can be removed one by one.

    name: the module whose output they are. size: how many units. members: every dimension that follows.
    counts: module attributes that count them, as (module, attribute, positions per unit); see `Graph.attributes`.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    counts: tuple[tuple[str, str, np.ndarray], ...] = ()

    def sum(self, score: Callable[[Member], Tensor], members: Iterable[Member]) -> Tensor:
        """Scores of positions added up by unit: `score(member)` gives one number per position of the dimension."""
        total = torch.zeros(self.size, dtype=torch.float64)
        for member in members:
            units = torch.from_numpy(member.units)
            held = units >= 0
            total.index_add_(0, units[held], score(member).detach().double().cpu()[held])
        return total

    def of(self, *roles: str, least_dims: int = 1, tensors: Mapping[str, Tensor] | None = None) -> list[Member]:
        """The members that have one of the roles."""
        return [
            member for member in self.members
            if member.roles & set(roles) and (tensors is None or tensors[member.tensor].dim() >= least_dims)
        ]  # fmt: skip


@dataclass(frozen=True)
class Frozen:
    """A dimension that cannot be cut, in whole or in part, and the first reason that was found."""

    tensor: str
    dim: int
    positions: int
    reason: str


@dataclass(frozen=True, eq=False)
class Work:
    """Multiply-accumulates of an operation, and for each dimension they are in proportion to, the units along it.

    axes: per dimension, pairs (group number, units): arrays over the positions, -1 where a position is in no group.
    """

    module: str
    macs: int
    axes: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """What can be removed from a model, what cannot, and what its operations cost."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    work: tuple[Work, ...]
    crossings: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def macs(self, removed: Mapping[str, Sequence[int] | np.ndarray] | None = None) -> int:
        """Multiply-accumulates of the example after units have been removed, by group name."""
        gone = [np.zeros(group.size, dtype=bool) for group in self.groups]
        places = {group.name: number for number, group in enumerate(self.groups)}
        for name, units in (removed or {}).items():
            gone[places[name]][np.asarray(units, dtype=np.int64)] = True
        offsets = np.cumsum([0, *(group.size for group in self.groups)])
        flat = np.concatenate([*gone, [False]]) if gone else np.array([False])
        total = 0.0
        for each in self.work:
            share = 1.0
            for numbers, units in each.axes:
                place = np.where(units >= 0, offsets[numbers] + units, len(flat) - 1)
                share *= 1 - flat[place].mean()
            total += each.macs * share
        return round(total)

    def matching(self, pattern: str, field: str) -> set[str]:
        """The names of the groups that a glob, or several joined by commas, matches.

        RecipeError, beginning with `field`, for one that matches none: frozen with a reason, or unknown.
        """
        names = [group.name for group in self.groups]
        found: set[str] = set()
        for glob in (each.strip() for each in pattern.split(",")):
            matched = {name for name in names if fnmatchcase(name, glob)}
            if not matched:
                why = next((each for each in self.frozen if fnmatchcase(each.tensor.rpartition(".")[0], glob)), None)
                said = (
                    f": {why.tensor} cannot be cut: {why.reason}"
                    if why
                    else f"{nearest(glob, names)}; there are {names}"
                )
                raise RecipeError(f"{field}: no group matches {glob!r}{said}")
            found |= matched
        return found

    def group(self, name: str) -> Group:
        """The group of a name; RecipeError, naming the nearest, where there is none."""
        names = [group.name for group in self.groups]
        if name not in names:
            raise RecipeError(f"no group is called {name!r}{nearest(name, names)}; 'decoct groups' lists them")
        return self.groups[names.index(name)]


def groups(model: nn.Module, example: Any) -> Graph:
    """Find what can be removed from `model`, from one forward on `example`.

    Where a dimension is parted in two (heads and their depth, groups and channels) only one of the two can be cut: the
    one that leaves most to remove. Raises TraceError where the model cannot be followed at all.
    """
    tape = record(model, example)
    choices: dict[Site, Any] = {}
    best = follow(tape, choices)
    worth = _worth(best)
    settled: set[Site] = set()
    trials = 0
    while (open_ := [site for site, options in best.sites.items() if site not in settled and len(options) > 1]) and (
        trials < MOST_TRIALS
    ):
        site = open_[0]
        settled.add(site)
        for option in best.sites[site]:
            if option == choices.get(site, best.sites[site][0]):
                continue
            trials += 1
            flow = follow(tape, {**choices, site: option})
            if (other := _worth(flow)) > worth:
                best, worth, choices = flow, other, {**choices, site: option}
    return _Builder(best, tape, model).graph()


def _worth(flow: Flow) -> tuple[int, int]:
    """What a flow leaves to remove: entries of weights that lie in free positions, then the number of free units."""
    root = components(flow.atoms, flow.edges)
    free = ~_frozen_roots(flow, root)
    for atoms in flow.doubtful:
        free[root[atoms]] = False
    entries = 0
    units: set[int] = set()
    shapes = {flow.tape.parameters[key]: flow.tape.shapes[key] for key in flow.tape.parameters}
    for (name, _), atoms in flow.axes.items():
        roots = root[atoms]
        held = free[roots]
        if len(np.unique(roots[held])) < 2:
            continue
        entries += int(held.sum()) * int(np.prod(shapes[name])) // len(atoms)
        units.update(roots[held].tolist())
    return entries, len(units)


def components(count: int, edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest atom of each atom's connected component, (count,)."""
    root = np.arange(count)
    if not edges:
        return root
    one = np.concatenate([np.broadcast_arrays(a, b)[0].ravel() for a, b in edges])
    other = np.concatenate([np.broadcast_arrays(a, b)[1].ravel() for a, b in edges])
    while True:
        a, b = root[one], root[other]
        apart = a != b
        if not apart.any():
            return root
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(jumped := root[root], root):
            root = jumped


def _frozen_roots(flow: Flow, root: np.ndarray) -> np.ndarray:
    frozen = np.zeros(flow.atoms, dtype=bool)
    frozen[root[FIXED]] = True
    for atoms, _ in flow.frozen:
        frozen[root[atoms]] = True
    return frozen


def _name(members: Sequence[Member]) -> str:
    """The module whose output the units are: that of the first member that makes them."""
    first = next((member for member in members if "out" in member.roles), members[0])
    return first.tensor.rpartition(".")[0] or first.tensor


class _Builder:
    """From a flow to groups."""

    def __init__(self, flow: Flow, tape: Tape, model: nn.Module) -> None:
        self.flow, self.tape, self.model = flow, tape, model
        self.root = components(flow.atoms, flow.edges)
        self.frozen = _frozen_roots(flow, self.root)
        self.unit = np.full(flow.atoms, -1)  # by root: number of the unit in its group
        self.owner = np.full(flow.atoms, -1)  # by root: number of the group

    def graph(self) -> Graph:
        """The groups, each under a name of its own, what is frozen, and the work."""
        parts = self._parts()
        for number, roots in enumerate(parts):
            self.owner[roots], self.unit[roots] = number, np.arange(len(roots))
        found = self._groups([len(roots) for roots in parts])
        names: dict[str, int] = {}
        named = []
        for group in found:
            names[group.name] = names.get(group.name, 0) + 1
            again = names[group.name]
            named.append(
                group if again == 1 else Group(f"{group.name}#{again}", group.size, group.members, group.counts)
            )
        crossings = {
            module: tuple(sorted({*map(self._length, found), *((-1, size) for size in self.flow.fixed[module])}))
            for module, found in self.flow.crossings.items()
        }
        return Graph(tuple(named), self._refusals(), self._work(), crossings)

    def _parts(self) -> list[np.ndarray]:
        """The roots of each group: free units that live in the same dimensions, in the order of the first of them."""
        axes: dict[int, list[int]] = {}
        for number, atoms in enumerate(self.flow.axes.values()):
            for root in np.unique(self.root[atoms]).tolist():
                if not self.frozen[root]:
                    axes.setdefault(root, []).append(number)
        by_axes: dict[tuple[int, ...], list[int]] = {}
        for root, numbers in axes.items():
            by_axes.setdefault(tuple(numbers), []).append(root)
        self.lonely = [roots for numbers, roots in by_axes.items() if len(roots) < 2]
        parts = [np.array(roots) for numbers, roots in by_axes.items() if len(roots) > 1]
        order = [min(numbers) for numbers, roots in by_axes.items() if len(roots) > 1]
        return [parts[place] for place in np.argsort(order, kind="stable")]

    def _groups(self, sizes: Sequence[int]) -> list[Group]:
        """The groups of these sizes, each with every dimension that it runs through."""
        members: list[list[Member]] = [[] for _ in sizes]
        for (name, dim), atoms in self.flow.axes.items():
            roles = frozenset(self.flow.roles.get((name, dim), ()))
            for number, units in self._by_group(atoms):
                members[number].append(Member(name, dim, units, roles))
        counts: list[list[tuple[str, str, np.ndarray]]] = [[] for _ in sizes]
        for module, attribute, labels in self.flow.groupings:
            if attribute not in vars(self.model.get_submodule(module)):  # it was an argument of a function
                continue
            for number, units in self._by_group(labels):
                counts[number].append((module, attribute, units))
        return [
            Group(_name(through), size, tuple(through), tuple(counted))
            for size, through, counted in zip(sizes, members, counts, strict=True)
        ]

    def _by_group(self, atoms: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The groups that these positions are in, and for each the unit that every position is, or -1."""
        owners, units = self.owner[self.root[atoms]], self.unit[self.root[atoms]]
        for number in np.unique(owners[owners >= 0]).tolist():
            yield number, np.where(owners == number, units, -1)

    def _refusals(self) -> tuple[Frozen, ...]:
        reasons: dict[int, str] = {}
        for atoms, reason in self.flow.frozen:
            for root in np.unique(self.root[atoms]).tolist():
                reasons.setdefault(root, reason)
        found = []
        for (name, dim), atoms in self.flow.axes.items():
            roots = self.root[atoms]
            held = self.owner[roots] < 0
            if not held.any() or len(atoms) < 2:
                continue
            first = next((reasons[root] for root in roots[held].tolist() if root in reasons), None)
            if first is None:
                first = "its positions can only be removed all together" if not self.frozen[roots[held][0]] else (
                    "it meets positions that cannot be removed")  # fmt: skip
            if first != KERNEL:
                found.append(Frozen(name, dim, int(held.sum()), first))
        return tuple(found)

    def _work(self) -> tuple[Work, ...]:
        return tuple(
            Work(each.module, each.macs, tuple((self.owner[self.root[axis]], np.where(
                self.owner[self.root[axis]] >= 0, self.unit[self.root[axis]], -1)) for axis in each.axes))
            for each in self.flow.work
        )  # fmt: skip

    def _length(self, labels: np.ndarray) -> tuple[int, int]:
        """The group, -1 where it is not one, and the length of a dimension."""
        owners = np.unique(self.owner[self.root[labels]])
        return int(owners[0]) if len(owners) == 1 else -1, len(labels)
