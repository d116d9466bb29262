"""Weight pruning by magnitude.

Song Han, Jeff Pool, John Tran, William J. Dally: Learning both Weights and Connections for Efficient Neural Networks.
NIPS 2015, arXiv 1506.02626.

A trained network loses its smallest weights, layer by layer; the survivors are trained on *from their trained values*;
this is repeated with a higher threshold. A weight is removed when

    |w| < s_l * std(W_l)          (by = "quality": s_l is the quality parameter of layer l)

Differs: the number of survivors may be set instead of the threshold: by "layer" (a density per tensor), "global" (one
magnitude threshold for all), "erk" (Evci 2020) or "lamp" (Lee 2021); and weights may be removed gradually within one
training, the density falling by the cubic rule of Zhu and Gupta 2017 (arXiv 1710.01878):

    d_t = d + (d_0 - d) (1 - t)^3

Biases are not pruned. Optimizer state of removed weights goes with them.

Result: lenet-300-100 and lenet-5 on MNIST, `decoct compress recipes/lenet-5-pruned.toml`; see docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decoct.apply import between, extend
from decoct.errors import RecipeError
from decoct.method import per_tensor
from decoct.plan import Draft, Edit, Share, Zero
from decoct.prune import budgets
from decoct.prune.sensitivity import sensitivity
from decoct.task import Task
from decoct.train.finetune import Finetune
from decoct.train.loop import Remask, check_choice, train

RULES = ("layer", "global", "erk", "lamp", "quality")


@dataclass(frozen=True)
class Magnitude:
    """Remove the weights of smallest magnitude.

    density: share of the weights that stay, in (0, 1]; for by = "layer" also by glob, as {"fc3*" = 0.3, "*" = 0.05}.
    by: layer, global, erk, lamp, or quality.
    quality: the factor s on the standard deviation, for by = "quality"; also by glob.
    tensors: glob of the tensors that may be pruned; several are joined by commas.
    rounds: prune and retrain this many times; the density falls geometrically, the quality rises in a line.
    retrain: the training after each round, or the one during which weights are removed if `gradual`; None for none.
    gradual: remove weights step by step within one training.
    every, begin, until: when gradual, steps between removals, and the shares of the training where they begin and end.
    scan: first measure the score's sensitivity to each tensor, for the report.
    """

    density: float | Mapping[str, float] = 0.1
    by: str = "layer"
    quality: float | Mapping[str, float] = 1.0
    tensors: str = "*"
    rounds: int = 1
    retrain: Finetune | None = None
    gradual: bool = False
    every: int = 50
    begin: float = 0.1
    until: float = 0.6
    scan: bool = False

    def __post_init__(self) -> None:
        check_choice("by", self.by, RULES)
        densities = self.density.values() if isinstance(self.density, Mapping) else [self.density]
        qualities = self.quality.values() if isinstance(self.quality, Mapping) else [self.quality]
        if not all(0 < density <= 1 for density in densities):
            raise RecipeError(f"density is the share of weights kept, above 0 and at most 1, not {self.density}")
        if not all(quality > 0 for quality in qualities):
            raise RecipeError(f"quality is above 0, not {self.quality}")
        if isinstance(self.density, Mapping) and self.by != "layer":
            raise RecipeError(f"a density by glob goes with by = 'layer'; by = {self.by!r} takes one number")
        if self.rounds < 1 or self.every < 1 or not 0 <= self.begin < self.until < 1:
            raise RecipeError("rounds and every are at least 1; 0 <= begin < until < 1")
        if self.gradual and (self.retrain is None or self.by == "quality"):
            raise RecipeError("gradual pruning needs a [step.retrain] to happen in, and a density, not a quality")

    def check(self, draft: Draft) -> None:
        """RecipeError for a glob that matches no tensor, or a tensor that no glob matches."""
        self.masks(draft)

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Zero edits for every pruned tensor, with the survivors' retrained values."""
        if self.scan:
            sensitivity(draft, task, self.tensors)
        return self._gradually(draft, task) if self.gradual else self._in_rounds(draft, task)

    def masks(self, draft: Draft, share: float = 1.0) -> dict[str, Tensor]:
        """The masks after a `share` (0-1) of the way: what the rule keeps, of what earlier pruning left."""
        weights = draft.weights(self.tensors)
        return _held(draft, self._rule(weights, lambda density: density**share, share))

    def _rule(self, weights: Mapping[str, Tensor], fall: Any, share: float = 1.0) -> dict[str, Tensor]:
        if self.by == "quality":
            quality = per_tensor(self.quality, weights, "quality")
            return budgets.by_quality(weights, {name: share * value for name, value in quality.items()})
        if self.by == "layer":
            density = per_tensor(self.density, weights, "density")
            return budgets.by_layer(weights, {name: fall(value) for name, value in density.items()})
        rule = {"global": budgets.by_global, "erk": budgets.by_erk, "lamp": budgets.by_lamp}[self.by]
        return rule(weights, fall(self.density))

    def _in_rounds(self, draft: Draft, task: Task) -> list[Edit]:
        now = draft
        for number in range(1, self.rounds + 1):
            masks = self.masks(now, number / self.rounds)
            now = extend(now, [Zero(name, mask) for name, mask in masks.items()])
            if self.retrain is not None:
                now = extend(now, train(now, task, **vars(self.retrain)))
        return between(draft, now)

    def _gradually(self, draft: Draft, task: Task) -> list[Edit]:
        assert self.retrain is not None
        weights = draft.weights(self.tensors)
        if shared := [name for name in weights if Share in draft.promises(name)]:
            raise RecipeError(
                f"gradual pruning of shared weights ({', '.join(shared)}): prune before sharing, or in rounds"
            )

        def masks(done: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
            return self._rule(values, lambda density: density + (1 - density) * (1 - done) ** 3)

        return train(
            draft, task, **vars(self.retrain), remask=Remask(tuple(weights), masks, self.every, self.begin, self.until)
        )


def _held(draft: Draft, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks less what the draft has already promised to be zero."""
    held = {name: draft.mask(name) for name in masks}
    return {name: mask if (old := held[name]) is None else mask & old for name, mask in masks.items()}
