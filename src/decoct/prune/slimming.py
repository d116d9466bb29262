"""Network slimming: channels are taught which of them are not needed, and those go.

Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang: Learning Efficient Convolutional
Networks through Network Slimming. ICCV 2017, arXiv 1708.06519.

Every channel that a BatchNorm passes has a scale gamma already: no gate needs to be added to learn whether it counts.
Training with a penalty on their absolute values drives the scales of what is not needed to zero,

    L = sum_(x, y) l(f(x, W), y) + lambda * sum_gamma |gamma|           (lambda: `penalty`)

then the channels of smallest |gamma| go, by one threshold for all layers, and the network that is left is fine-tuned.

Differs: the training may go on from trained weights; the paper trains from scratch. Only the scales of channels that
may go are penalised, those of frozen and skipped ones are not. Channels that a shortcut ties together are ranked by the
sum of their scales and cut in all layers, where the paper selects channels in a layer of its own. No layer is left with
less than the share `least`. With a budget of multiply-accumulates there is no one threshold: those channels go whose
scales add up to the least for what they save. Several passes are several steps of a recipe.

Result: experimental; no figure of the paper has been reproduced with it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decoct.apply import between, extend
from decoct.errors import RecipeError
from decoct.graph import Graph, Group, groups
from decoct.method import step
from decoct.plan import Draft, Edit
from decoct.prune.filters import Filters
from decoct.task import Task
from decoct.train import promises
from decoct.train.finetune import Finetune
from decoct.train.loop import Penalty, train

SPARSITY = Finetune(epochs=20, lr=0.01, weight_decay=1e-4, keep="last")
"""The training that a recipe without a ``[step.train]`` gets."""


@dataclass(frozen=True)
class Slimming:
    """Train BatchNorm scales towards zero and remove the channels whose scales are smallest.

    ratio: share of the channels removed, over all groups that have a BatchNorm, in [0, 1).
    penalty: lambda, the weight of the sum of absolute scales in the loss; 0 ranks the scales as they come.
    train: the sparsity training; its last epoch is the one to keep, since the score says nothing of the scales.
    groups, skip: globs, joined by commas, of the groups that may be pruned and of those left alone; a group without
        BatchNorm is always left alone.
    macs: budget instead of the ratio: multiply-accumulates that stay, as a share of what the model has, in (0, 1).
    least, minimum, multiple: smallest share of channels that stay, fewest, and what the number is a multiple of.
    retrain: the fine-tuning afterwards; None for none.
    batches: of training data, for BatchNorm statistics after the cut; 0 for none.
    """

    ratio: float = 0.5
    penalty: float = 1e-4
    train: Finetune = SPARSITY
    groups: str = "*"
    skip: str = ""
    macs: float | None = None
    least: float = 0.1
    minimum: int = 1
    multiple: int = 1
    retrain: Finetune | None = None
    batches: int = 20

    def __post_init__(self) -> None:
        if self.penalty < 0:
            raise RecipeError(f"penalty is at least 0, not {self.penalty}")
        self._filters(self.groups, self.skip)

    def check(self, draft: Draft) -> None:
        """RecipeError for a glob that matches nothing, or no scales; TraceError for a model that cannot be followed."""
        if draft.call is not None:
            self._chosen(groups(draft.model, draft.call.example))

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Keep edits for the channels that go, and the values after both trainings."""
        chosen = self._chosen(groups(draft.model, task.example))
        sparse = extend(draft, train(draft, task, **vars(self.train), penalty=self._norm(chosen)))
        after = step(sparse, self._filters(",".join(group.name for group in chosen)), task)
        return between(draft, after)

    def _chosen(self, graph: Graph) -> list[Group]:
        """The groups that may be pruned and have scales to be ranked by."""
        chosen = self._filters(self.groups, self.skip).chosen(graph)
        scaled = [group for group in chosen if group.of("scale")]
        if not scaled:
            names = [group.name for group in chosen]
            raise RecipeError(
                f"channels are ranked by their BatchNorm scales; none of {names} has any: use prune.filters"
            )
        return scaled

    def _norm(self, chosen: Sequence[Group]) -> Penalty:
        """lambda * sum |gamma| over the scales of the channels that may go."""
        scales = [
            (member.tensor, torch.from_numpy(member.units >= 0)) for group in chosen for member in group.of("scale")
        ]

        def norm(model: nn.Module) -> Tensor:
            gammas = [(promises.current(model, name), held) for name, held in scales]
            return self.penalty * torch.cat([gamma[held.to(gamma.device)] for gamma, held in gammas]).abs().sum()

        return norm

    def _filters(self, globs: str, skip: str = "") -> Filters:
        """The removal: one threshold for all groups, on the scales as they are."""
        return Filters(
            self.ratio, scope="global", importance="batchnorm", normalise=False, groups=globs, skip=skip,
            macs=self.macs, minimum=self.minimum, least=self.least, multiple=self.multiple,
            retrain=self.retrain, batches=self.batches,
        )  # fmt: skip
