"""Training and retraining: the task's loss, the draft's promises.

Finetune is both the first training of a network from its initial weights and every retraining after pruning, sharing or
rounding. Masks, codebooks and 16-bit values hold while it runs.

Result: the four MNIST recipes; `docs/results.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from decoct.errors import RecipeError
from decoct.plan import Draft, Edit
from decoct.task import Task
from decoct.train.loop import OPTIMIZERS, check_choice, train
from decoct.train.schedule import SCHEDULES


@dataclass(frozen=True)
class Finetune:
    """Train with the draft's promises held.

    epochs: passes over the training data.
    lr: highest learning rate; schedule: constant, linear, cosine, step or onecycle; warmup: share of the training.
    optimizer: sgd (Nesterov momentum), adam or adamw.
    weight_decay, l1: L2 and L1 penalties on weights and codebooks.
    clip: largest norm of the whole gradient; None for no limit.
    keep: "best" keeps the epoch with the best validation score, "last" the last.
    """

    epochs: float = 5
    lr: float = 0.01
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    l1: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    keep: str = "best"

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("keep", self.keep, ("best", "last"))
        if self.epochs <= 0 or self.lr <= 0:
            raise RecipeError(f"epochs and lr are above 0, not {self.epochs} and {self.lr}")
        if min(self.weight_decay, self.l1) < 0 or not 0 <= self.momentum < 1 or not 0 <= self.warmup < 1:
            raise RecipeError("weight_decay and l1 are at least 0; momentum and warmup are in 0-1, 1 not included")

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Train a copy of the draft's model; the edits are its new values, masks and codebooks."""
        return train(draft, task, **vars(self))
