"""What can be cut from a model and what cannot, as plain values: what `decoct groups` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from decoct.events import emit
from decoct.graph import Graph, Group, groups
from decoct.graph.tape import plain
from decoct.selfcheck import verified

RIGHT = "ok"
"""What stands for a group of which half was cut and the smaller model was seen to be right."""


@dataclass(frozen=True)
class Cuttable:
    """A group of units that can go one by one.

    macs_share: multiply-accumulates that all its units take, as a share of the model's.
    tensors: every dimension that a cut goes through, as (tensor, dimension).
    check: "ok", or why cutting half of the units was not right; None where it was not tried.
    """

    name: str
    units: int
    macs_share: float
    tensors: tuple[tuple[str, int], ...]
    check: str | None = None


@dataclass(frozen=True)
class Refusal:
    """A dimension of a tensor that stays as it is, in whole or in part. positions: how many of it stay."""

    tensor: str
    shape: tuple[int, ...]
    dim: int
    positions: int
    reason: str

    @property
    def layer(self) -> str:
        """The module that the tensor belongs to, or the tensor itself where that is the model."""
        return self.tensor.rpartition(".")[0] or self.tensor


@dataclass(frozen=True)
class Survey:
    """A model's groups, what stays as it is, and its multiply-accumulates on the example."""

    macs: int
    groups: tuple[Cuttable, ...]
    frozen: tuple[Refusal, ...]

    def refusals(self) -> list[Refusal]:
        """One for each layer, dimension and reason.

        Vectors, such as those of a BatchNorm, only where no matrix stays for the same reason: they go with it.
        """
        matrices = {(each.reason, each.positions) for each in self.frozen if len(each.shape) > 1}
        found: dict[tuple[str, int, str], Refusal] = {}
        for each in self.frozen:
            if len(each.shape) > 1 or (each.reason, each.positions) not in matrices:
                found.setdefault((each.layer, each.dim, each.reason), each)
        return list(found.values())


def survey(model: nn.Module, example: Any, verify: bool = False) -> Survey:
    """Find the groups of a model; `verify` tries each: half of its units cut must be what half of them at zero is.

    Raises TraceError where the model cannot be followed.
    """
    graph = groups(model, example)
    whole = graph.macs()
    checks = dict(_checks(model, example, graph)) if verify else {}
    named = plain(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in [*named.named_parameters(), *named.named_buffers()]}
    return Survey(
        whole,
        tuple(
            Cuttable(
                group.name,
                group.size,
                1 - graph.macs({group.name: range(group.size)}) / max(whole, 1),
                tuple((member.tensor, member.dim) for member in group.members),
                checks.get(group.name),
            )
            for group in graph.groups
        ),
        tuple(
            Refusal(each.tensor, shapes[each.tensor], each.dim, each.positions, each.reason) for each in graph.frozen
        ),
    )


def _checks(model: nn.Module, example: Any, graph: Graph) -> Iterable[tuple[str, str]]:
    for done, group in enumerate(graph.groups, start=1):
        _, refused = verified(model, example, graph, {group.name: _half(group)})
        yield group.name, refused.get(group.name, RIGHT)
        emit("progress", what="trying groups", done=done, total=len(graph.groups))


def _half(group: Group) -> np.ndarray:
    """Half of the units, drawn by chance: a regular choice could fall on both of what an error mixes up."""
    return np.sort(np.random.default_rng(0).permutation(group.size)[: group.size // 2])
