"""Which weights stay: from magnitudes and a budget to masks. Pure functions, one per rule.

Every rule keeps the entries of largest score; of equal scores the earlier stay; a tensor keeps at least one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Masks = dict[str, Tensor]


def top(scores: Tensor, count: int) -> Tensor:
    """A mask (the shape of `scores`) of exactly the `count` largest scores, at least one; ties by position."""
    flat = scores.flatten()
    count = min(max(count, 1), flat.numel())
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    mask = flat > threshold
    ties = torch.nonzero(flat == threshold).flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask.view(scores.shape)


def by_layer(weights: Tensors, density: Mapping[str, float]) -> Masks:
    """In each tensor the share `density` of largest magnitude."""
    return {name: top(weight.abs(), round(density[name] * weight.numel())) for name, weight in weights.items()}


def by_quality(weights: Tensors, quality: Mapping[str, float]) -> Masks:
    """In each tensor what is not below ``quality * std(weight)`` (Han 2015)."""
    return {name: weight.abs() >= quality[name] * weight.std() for name, weight in weights.items()}


def _globally(weights: Tensors, score: Callable[[Tensor], Tensor], density: float) -> Masks:
    scores = {name: score(weight) for name, weight in weights.items()}
    mask = top(
        torch.cat([each.flatten() for each in scores.values()]), round(density * sum(map(torch.numel, scores.values())))
    )
    parts = mask.split([each.numel() for each in scores.values()])
    return {
        name: part.view(each.shape) if part.any() else top(each, 1)
        for (name, each), part in zip(scores.items(), parts, strict=True)
    }


def by_global(weights: Tensors, density: float) -> Masks:
    """The share `density` of largest magnitude over all tensors together."""
    return _globally(weights, torch.abs, density)


def lamp(weight: Tensor) -> Tensor:
    """LAMP: w_u^2 over the sum of w_v^2 of the tensor's weights that are not smaller (Lee 2021, arXiv 2010.07611)."""
    squares = weight.flatten().double().square()
    order = squares.argsort(stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / rest.clamp(min=torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def by_lamp(weights: Tensors, density: float) -> Masks:
    """The share `density` of largest LAMP score over all tensors together."""
    return _globally(weights, lamp, density)


def erk(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Erdos-Renyi-kernel densities whose mean over all weights is `density` (Evci 2020, arXiv 1911.11134).

    A tensor's density is proportional to the sum of its dimensions over their product; those that would be above one
    are dense, and the rest share what is left.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = left / max(sum(sum(shapes[name]) for name in rest), 1)
        raw = {name: scale * sum(shapes[name]) / sizes[name] for name in rest}
        above = {name for name, value in raw.items() if value > 1}
        if not above:
            return {name: 1.0 if name in dense else max(raw[name], 0.0) for name in shapes}
        dense |= above


def by_erk(weights: Tensors, density: float) -> Masks:
    """In each tensor its ERK share of largest magnitude."""
    return by_layer(weights, erk({name: tuple(weight.shape) for name, weight in weights.items()}, density))
