"""How much the score suffers when one tensor alone is pruned: the scan by which Han 2015 sets thresholds per layer."""

from __future__ import annotations

from decoct.apply import extend
from decoct.events import emit
from decoct.plan import Draft, Zero
from decoct.prune.budgets import by_layer
from decoct.task import Task, evaluate

DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)


def sensitivity(
    draft: Draft, task: Task, tensors: str = "*", densities: tuple[float, ...] = DENSITIES
) -> dict[str, list[float]]:
    """The validation score for every tensor at every density, that tensor alone pruned by magnitude, no retraining.

    Emits one "sensitivity" event per tensor, which the report plots.
    """
    curves: dict[str, list[float]] = {}
    weights = draft.weights(tensors)
    for done, (name, weight) in enumerate(weights.items(), start=1):
        curves[name] = []
        for density in densities:
            mask = by_layer({name: weight}, {name: density})[name]
            held = draft.mask(name)
            pruned = extend(draft, [Zero(name, mask if held is None else mask & held)])
            curves[name].append(evaluate(pruned.model, task))
        emit("sensitivity", tensor=name, density=list(densities), score=curves[name])
        emit("progress", what="sensitivity", done=done, total=len(weights))
    return curves
