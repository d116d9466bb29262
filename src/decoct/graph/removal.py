"""A removal: which units go, as edits that cut them out and as a model in which they are zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from decoct.graph.groups import Graph
from decoct.graph.tape import plain
from decoct.plan import Attribute, Edit, Keep

Removed = Mapping[str, Sequence[int] | np.ndarray]
"""Units to remove, by the name of their group."""


def cuts(graph: Graph, removed: Removed) -> list[Edit]:
    """The edits that cut units out, the numbers of grouped layers included."""
    kept = {place: np.flatnonzero(~gone) for place, gone in positions(graph, removed).items()}
    sizes = {(member.tensor, member.dim): len(member.units) for group in graph.groups for member in group.members}
    edits: list[Edit] = [
        Keep(tensor, dim, torch.from_numpy(index), sizes[tensor, dim]) for (tensor, dim), index in kept.items()
    ]
    for name, units in removed.items():
        for module, attribute, labels in graph.group(name).counts:
            edits.append(Attribute(module, attribute, int((~np.isin(labels, units)).sum())))
    return edits


def positions(graph: Graph, removed: Removed) -> dict[tuple[str, int], np.ndarray]:
    """Which positions of which (tensor, dimension) go: bool arrays, of those dimensions that lose any."""
    gone: dict[tuple[str, int], np.ndarray] = {}
    for name, units in removed.items():
        for member in graph.group(name).members:
            there = np.isin(member.units, units)
            if there.any():
                place = (member.tensor, member.dim)
                gone[place] = gone[place] | there if place in gone else there
    return gone


def masked(model: nn.Module, graph: Graph, removed: Removed) -> nn.Module:
    """A copy of the model in which everything of the removed units is zero: what the smaller model must agree with."""
    model = plain(deepcopy(model))
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for (name, dim), gone in positions(graph, removed).items():
            if tensors[name].is_floating_point():
                tensors[name].index_fill_(dim, torch.from_numpy(np.flatnonzero(gone)).to(tensors[name].device), 0)
    return model


def counters(model: nn.Module, graph: Graph, removed: Removed) -> Iterator[tuple[Attribute, bool]]:
    """Whole numbers of the model's own modules that may count what is removed: equal to a length that a cut changes.

    With each, whether it may as well count something that stays. What it counts is found by running the smaller model.
    """
    numbers = {graph.groups.index(graph.group(name)): len(units) for name, units in removed.items()}
    for path, lengths in graph.crossings.items():
        module: Any = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn"):
            continue
        staying = {length for number, length in lengths if number not in numbers}
        for number, length in lengths:
            if number not in numbers or length % graph.groups[number].size:
                continue
            size = graph.groups[number].size
            for name, value in vars(module).items():
                if type(value) is int and value == length:
                    yield Attribute(path, name, length // size * (size - numbers[number])), length in staying
