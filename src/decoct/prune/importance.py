"""How much a unit matters: one short function per criterion, from a group to one score per unit.

l1              sum of the absolute weights of its filters        Li 2017, arXiv 1608.08710
l2              Euclidean norm of its filters                     He 2018, arXiv 1808.06866
batchnorm       absolute scale of its normalisation               Liu 2017, arXiv 1708.06519
taylor          squared sum of weight x gradient                  Molchanov 2019, arXiv 1906.10771
activation      mean square of what its consumers read of it      Hu 2016, arXiv 1607.03250, in energy
reconstruction  what its readers lose once they are refitted      He 2017, arXiv 1707.06168
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from decoct.errors import RecipeError, TaskError
from decoct.graph import Group, Member
from decoct.graph.tape import plain
from decoct.plan import Draft
from decoct.prune.reconstruct import covariances
from decoct.task import Task, call, device_of, to_device


@dataclass(frozen=True, eq=False)
class Evidence:
    """What scores are computed from.

    tensors: parameters and buffers by name, parametrized ones as their modules have them.
    gradients: per training batch, the gradient of every parameter (only for `taylor`).
    energy: mean square of each input position of a module, by its weight's name (only for `activation`).
    moments: covariance of a layer's input patches (fan-in, fan-in), by its weight's name (only for `reconstruction`).
    """

    tensors: Mapping[str, Tensor]
    gradients: list[Mapping[str, Tensor]] = field(default_factory=list)
    energy: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)


Importance = Callable[[Group, Evidence], Tensor]


def l1(group: Group, evidence: Evidence) -> Tensor:
    """Sum of absolute weights over all filters of a unit, (units,)."""
    return group.sum(
        lambda member: _along(evidence.tensors[member.tensor].abs(), member.dim), _filters(group, evidence)
    )


def l2(group: Group, evidence: Evidence) -> Tensor:
    """Euclidean norm of all filters of a unit, (units,)."""
    return group.sum(
        lambda member: _along(evidence.tensors[member.tensor].double().square(), member.dim), _filters(group, evidence)
    ).sqrt()


def batchnorm(group: Group, evidence: Evidence) -> Tensor:
    """Sum of absolute normalisation scales of a unit, (units,)."""
    scales = group.of("scale")
    if not scales:
        raise RecipeError(f"{group.name} has no BatchNorm: importance 'batchnorm' cannot rank it; use 'l1' or skip it")
    return group.sum(lambda member: evidence.tensors[member.tensor].abs(), scales)


def taylor(group: Group, evidence: Evidence) -> Tensor:
    """Mean over batches of the squared first-order change of the loss when a unit goes, (units,)."""
    members = [*_filters(group, evidence), *group.of("scale", "shift")]
    total = torch.zeros(group.size, dtype=torch.float64)
    for gradient in evidence.gradients:
        total += group.sum(
            lambda member, gradient=gradient: _along(  # type: ignore[misc]
                evidence.tensors[member.tensor].double() * gradient[member.tensor], member.dim
            ),
            [member for member in members if member.tensor in gradient],
        ).square()
    return total / max(len(evidence.gradients), 1)


def activation(group: Group, evidence: Evidence) -> Tensor:
    """Mean square of a unit's activation as its consumers read it, (units,)."""
    readers = _readers(group, evidence.energy)
    if not readers:
        raise RecipeError(f"{group.name}: nothing reads its activations that importance 'activation' can watch")
    return group.sum(lambda member: evidence.energy[member.tensor], readers[:1])


def reconstruction(group: Group, evidence: Evidence) -> Tensor:
    """What the outputs of a unit's readers lose when it goes, (units,), as shares of their variance.

    With the covariance H of a reader's inputs and its weights W, removing the columns u and fitting the others anew
    costs tr(W_u [(H^-1)_uu]^-1 W_u^T); then W and H^-1 are updated, and the next unit is chosen.
    """
    readers = _readers(group, evidence.moments)
    if not readers:
        raise RecipeError(f"{group.name}: no dense layer or plain convolution reads it; use importance 'l1'")
    states = [_Reader(member, evidence) for member in readers]
    left, scores, last = list(range(group.size)), torch.zeros(group.size, dtype=torch.float64), 0.0
    while left:
        costs = [sum(state.cost(unit) for state in states) for unit in left]
        place = min(range(len(left)), key=costs.__getitem__)
        last = max(last, float(costs[place]))
        scores[left[place]] = last
        unit = left.pop(place)
        for state in states:
            state.remove(unit)
    return scores


class _Reader:
    """A layer that reads a group, as units of the group go."""

    def __init__(self, member: Member, evidence: Evidence) -> None:
        weight = evidence.tensors[member.tensor].double()
        moments = evidence.moments[member.tensor]
        per = weight[0, 0].numel()
        units = torch.from_numpy(member.units).repeat_interleave(per)
        self.columns = {int(unit): torch.nonzero(units == unit).flatten() for unit in units.unique() if unit >= 0}
        self.weight = weight.flatten(1).clone()
        self.whole = float(((self.weight @ moments) * self.weight).sum()) or 1.0
        damping = 1e-4 * moments.diagonal().mean().clamp(min=1e-12)
        self.inverse = torch.linalg.inv(moments + damping * torch.eye(len(moments), dtype=torch.float64))

    def cost(self, unit: int) -> float:
        columns = self.columns.get(unit)
        if columns is None:
            return 0.0
        part = self.weight[:, columns]
        return float((torch.linalg.solve(self.inverse[columns[:, None], columns], part.T) * part.T).sum()) / self.whole

    def remove(self, unit: int) -> None:
        columns = self.columns.pop(unit, None)
        if columns is None:
            return
        rows = torch.linalg.solve(self.inverse[columns[:, None], columns], self.inverse[columns])
        self.weight -= self.weight[:, columns] @ rows
        self.inverse -= self.inverse[:, columns] @ rows
        self.weight[:, columns] = 0


IMPORTANCES: dict[str, Importance] = {
    each.__name__: each for each in (l1, l2, batchnorm, taylor, activation, reconstruction)
}
NEED_DATA = ("taylor", "activation", "reconstruction")


def gather(draft: Draft, task: Task, importance: str, batches: int) -> Evidence:
    """What an importance needs to know of a draft; `batches` of training data where it needs any."""
    model = plain(draft.model)
    tensors = {name: each.detach() for name, each in [*model.named_parameters(), *model.named_buffers()]}
    if importance == "taylor":
        return Evidence(tensors, gradients=list(_gradients(model, task, batches)))
    if importance == "reconstruction":
        return Evidence(tensors, moments=covariances(model, task, batches))
    if importance == "activation":
        return Evidence(tensors, energy=_energy(model, task, batches))
    return Evidence(tensors)


def _filters(group: Group, evidence: Evidence) -> list[Member]:
    """The members that make a unit: rows of weights."""
    return group.of("out", least_dims=2, tensors=evidence.tensors) or group.of("out") or list(group.members)


def _readers(group: Group, seen: Mapping[str, Tensor]) -> list[Member]:
    """The layers that read a group and were watched; their inputs lie along dimension 1 of their weights."""
    return [member for member in group.of("in") if member.tensor in seen and member.dim == 1]


def _along(values: Tensor, dim: int) -> Tensor:
    """Values added up over all dimensions but one."""
    return values.sum([other for other in range(values.dim()) if other != dim]) if values.dim() > 1 else values


def _gradients(model: nn.Module, task: Task, batches: int) -> Iterable[Mapping[str, Tensor]]:
    for batch in _first(task, batches):
        inputs, target = task.split(to_device(batch, device_of(model)))
        model.zero_grad()
        task.loss(call(model, inputs), target).backward()
        yield {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def _energy(model: nn.Module, task: Task, batches: int) -> dict[str, Tensor]:
    """Mean squares of what each layer reads; of a layer in groups, of the like channels of all groups together."""
    sums: dict[str, Tensor] = {}
    hooks = []

    def watch(name: str, channels_last: bool, groups: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            values = inputs[0].detach().double()
            values = values if channels_last else values.movedim(1, -1)
            energy = values.square().flatten(0, -2).mean(0).unflatten(0, (groups, -1)).sum(0)
            sums[name] = sums.get(name, 0) + energy / batches

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            groups: int = getattr(module, "groups", 1)
            hook = watch(f"{name}.weight" if name else "weight", isinstance(module, nn.Linear), groups)
            hooks.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        for batch in _first(task, batches):
            call(model, task.split(to_device(batch, device_of(model)))[0])
    for each in hooks:
        each.remove()
    return sums


def _first(task: Task, batches: int) -> list[Any]:
    found = list(islice(task.batches("train"), batches))
    if not found:
        raise TaskError("the train loader is empty: it yields no batch")
    return found
