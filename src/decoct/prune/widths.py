"""How many units each group loses: from scores and a budget to removals. Pure functions.

Every rule removes the units of lowest score; of equal scores the later go first. A group keeps at least the larger of
`minimum` units and the share `least` of them, and a number that is a multiple of `multiple` where one is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
from torch import Tensor

from decoct.errors import RecipeError

Scores = Mapping[str, Tensor]
Removal = dict[str, np.ndarray]
Cost = Callable[[Removal], float]


STEPS = 2000


@dataclass(frozen=True)
class Limits:
    """How far a group may be narrowed."""

    minimum: int = 1
    least: float = 0.0
    multiple: int = 1

    def kept(self, size: int, wanted: float) -> int:
        """The number of units to keep out of `size` where `wanted` would be right: rounded up to the multiple."""
        floor = max(self.minimum, ceil(self.least * size - 1e-9), 1)
        count = max(ceil(wanted - 1e-9), min(floor, size))
        count = -(-count // self.multiple) * self.multiple
        return min(count, size)


def lowest(scores: Tensor, count: int) -> np.ndarray:
    """The `count` units of lowest score, ascending by number."""
    order = np.lexsort((-np.arange(len(scores)), scores.numpy()))
    return np.sort(order[:count])


def by_ratio(scores: Scores, ratios: Mapping[str, float], limits: Limits) -> Removal:
    """From each group the share `ratios` of its units, rounded up, as Li 2017 must have done to save what it states."""
    return {
        name: lowest(each, len(each) - limits.kept(len(each), np.floor((1 - ratios[name]) * len(each) + 1e-9)))
        for name, each in scores.items()
    }


def globally(scores: Scores, count: int, limits: Limits) -> Removal:
    """The `count` units of lowest score over all groups, as far as the limits let them go."""
    names = list(scores)
    values = np.concatenate([scores[name].numpy() for name in names]) if names else np.zeros(0)
    owners = np.repeat(np.arange(len(names)), [len(scores[name]) for name in names])
    chosen = owners[np.lexsort((-np.arange(len(values)), values))[:count]]
    losses = np.bincount(chosen, minlength=len(names))
    return {
        name: lowest(scores[name], len(scores[name]) - limits.kept(len(scores[name]), len(scores[name]) - loss))
        for name, loss in zip(names, losses.tolist(), strict=True)
    }


def cheapest(scores: Scores, savings: Mapping[str, Mapping[int, float]], need: float, what: str) -> Removal:
    """The removal that loses the least score and saves at least `need`.

    savings: for each group, what each number of units that may be kept saves; groups add up. A group loses the sum of
    the scores that go. Found by a dynamic programme over what has been saved, in steps of need / 2000,
    rounded down. RecipeError where all together save less.
    """
    if need <= 0:
        return {name: lowest(scores[name], 0) for name in savings}
    most = sum(max(each.values()) for each in savings.values())
    if most < need:
        raise RecipeError(
            f"{what} cannot be reached: {most:,.4g} of the {need:,.4g} that must go can be saved; prune more groups, "
            "or lower minimum, least or multiple"
        )
    lost = np.full(STEPS + 1, np.inf)
    lost[0] = 0.0
    picks: list[tuple[list[int], np.ndarray, np.ndarray]] = []
    for name, options in savings.items():
        kept = sorted(options, reverse=True)
        below = np.concatenate([[0.0], np.cumsum(np.sort(scores[name].double().numpy()))])
        ways = [(max(options[count], 0.0) / need, below[len(scores[name]) - count]) for count in kept]
        lost, choice, origin = _extended(lost, ways)
        picks.append((kept, choice, origin))
    removal: Removal = {}
    at = int(np.flatnonzero(np.isfinite(lost)).max())
    for name, (kept, choice, origin) in zip(reversed(list(savings)), reversed(picks), strict=True):
        removal[name] = lowest(scores[name], len(scores[name]) - kept[choice[at]])
        at = origin[at]
    return removal


def _extended(lost: np.ndarray, ways: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One group more: the least loss at every step of saving, the way taken there, and the step that it came from.

    ways: (share of the need that is saved, loss) of each width of the group.
    """
    best, choice, origin = np.full(STEPS + 1, np.inf), np.zeros(STEPS + 1, int), np.zeros(STEPS + 1, int)
    for number, (saved, loss) in enumerate(ways):
        step = min(int(saved * STEPS), STEPS)
        value = np.full(STEPS + 1, np.inf)
        value[step:] = lost[: STEPS + 1 - step] + loss
        source = np.arange(STEPS + 1) - step
        source[STEPS] = STEPS - step + int(np.argmin(lost[STEPS - step :]))  # whatever saves more is the last step too
        value[STEPS] = lost[source[STEPS]] + loss
        better = value < best
        best[better], choice[better], origin[better] = value[better], number, source[better]
    return best, choice, origin


def least_that_fits(removals: Callable[[float], Removal], cost: Cost, budget: float, what: str) -> Removal:
    """The mildest of `removals(strength)`, strength in 0-1, whose cost is within the budget; found by halving.

    RecipeError where even the strongest costs more.
    """
    strongest = removals(1.0)
    if cost(strongest) > budget:
        raise RecipeError(
            f"{what} of {_number(budget)} cannot be reached: with everything removed that may be, "
            f"{_number(cost(strongest))} are left; prune more groups, or lower minimum, least or multiple"
        )
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if cost(removals(middle)) > budget:
            low = middle
        else:
            high = middle
    return removals(high)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
