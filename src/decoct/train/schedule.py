"""How the learning rate moves over a training."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "linear", "cosine", "step", "onecycle")


def factor(schedule: str, done: float, warmup: float = 0.0) -> float:
    """The factor on the learning rate when a share `done` (0-1) of the training is over.

    constant: 1. linear: 1 to 0. cosine: half a cosine from 1 to 0. step: 1, from a half 0.1, from three quarters 0.01.
    onecycle: up in a line for the first 0.3, then half a cosine to 0 (Smith 2018, arXiv 1803.09820).
    warmup: share of the training over which the factor first rises from 0 in a line.

    >>> [round(factor("cosine", done), 2) for done in (0, 0.5, 1)]
    [1.0, 0.5, 0.0]
    """
    if schedule == "onecycle":
        warmup = max(warmup, 0.3)
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    left = 1 - (done - warmup) / (1 - warmup) if warmup < 1 else 1.0
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return left
        case "step":
            return 1.0 if left > 0.5 else 0.1 if left > 0.25 else 0.01
    return 0.5 * (1 - math.cos(math.pi * left))
