"""Filter pruning: whole filters, neurons, heads or recurrent units go, and the network that is left is really smaller.

Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf: Pruning Filters for Efficient ConvNets.
ICLR 2017, arXiv 1608.08710.

The filters of a layer are ranked by the sum of their absolute weights,

    s_j = sum_l sum |K_l|         (filter j, its kernels K_l for every input map l)

the lowest go, with their BatchNorm entries and the kernels of the next layer that read them; then the network is
retrained. What must go with a filter is found by following the channels through the model (`decoct.graph`).

Differs: scope = "global" ranks all layers together (the paper ranks within each); scores are then divided by their
group's mean, since raw sums grow with fan-in and would wipe out early layers (normalise = False gives the raw ones).
The strength may be set by a budget of multiply-accumulates or of latency. Of the channels that a shortcut ties together
the scores of all tied filters are added. Every cut is checked against the masked model, BatchNorm statistics are
estimated anew, and the layers that read what was removed may be fitted to give what they gave (He 2017, arXiv
1707.06168).

Result: resnet-20-2x, resnet-20-half, resnet-56-28 and resnet-56-half on CIFAR-10; see docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from decoct.apply import between, extend
from decoct.errors import RecipeError
from decoct.events import emit
from decoct.graph import Graph, Group, groups
from decoct.graph.removal import positions
from decoct.method import per_tensor
from decoct.plan import Draft, Edit
from decoct.prune.importance import IMPORTANCES, NEED_DATA, Evidence, gather
from decoct.prune.latency import Latencies
from decoct.prune.reconstruct import absorbed, fitted
from decoct.prune.widths import Cost, Limits, Removal, Scores, by_ratio, cheapest, globally, least_that_fits, lowest
from decoct.selfcheck import verified
from decoct.task import Task
from decoct.train.finetune import Finetune
from decoct.train.loop import check_choice, train
from decoct.train.statistics import reestimate


@dataclass(frozen=True)
class Filters:
    """Remove the filters that matter least.

    ratio: share of a group's filters removed, in [0, 1); for scope = "layer" also by glob of group names, as
        {"layer1*" = 0.6, "*" = 0.3}. With a budget it only says in what proportion groups are narrowed.
    scope: layer (within each group) or global (over all groups).
    importance: l1, l2, batchnorm, taylor, activation or reconstruction; see `decoct.prune.importance`.
    normalise: with scope = "global", divide the scores of a group by their mean.
    counting: independent, or greedy: kernels that read filters removed already do not count.
    groups, skip: globs, joined by commas, of the groups that may be pruned and of those left alone.
    macs, latency: budgets, as shares of what the model has now, in (0, 1); None for none.
    minimum, least, multiple: fewest filters, smallest share of filters that stay, and what the number is a multiple of.
    rounds: prune and retrain this many times, by equal steps of the ratio or the budget.
    retrain: the training after each round; None for none.
    fit: fit the layers that read what was removed to the outputs that they had.
    batches: of training data, for BatchNorm statistics, fitting, and importances that need data; 0 for no statistics.
    """

    ratio: float | Mapping[str, float] = 0.5
    scope: str = "layer"
    importance: str = "l1"
    normalise: bool = True
    counting: str = "independent"
    groups: str = "*"
    skip: str = ""
    macs: float | None = None
    latency: float | None = None
    minimum: int = 1
    least: float = 0.0
    multiple: int = 1
    rounds: int = 1
    retrain: Finetune | None = None
    fit: bool = False
    batches: int = 20

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, ("layer", "global"))
        check_choice("importance", self.importance, IMPORTANCES)
        check_choice("counting", self.counting, ("independent", "greedy"))
        ratios = self.ratio.values() if isinstance(self.ratio, Mapping) else [self.ratio]
        if not all(0 <= ratio < 1 for ratio in ratios):
            raise RecipeError(
                f"ratio is the share of filters removed, at least 0 and below 1, not {self.ratio}: no layer can be "
                "emptied"
            )
        for name, budget in (("macs", self.macs), ("latency", self.latency)):
            if budget is not None and not 0 < budget < 1:
                raise RecipeError(f"{name} is the share that may be left, above 0 and below 1, not {budget}")
        if self.macs is not None and self.latency is not None:
            raise RecipeError("macs and latency are two budgets: give one of them")
        if self.minimum < 1 or self.multiple < 1 or self.rounds < 1 or self.batches < 0 or not 0 <= self.least <= 1:
            raise RecipeError("minimum, multiple and rounds are at least 1, batches at least 0, least in 0-1")
        if self.scope == "global" and (isinstance(self.ratio, Mapping) or self.counting == "greedy"):
            raise RecipeError("a ratio by glob, and greedy counting, go with scope = 'layer'")
        if self.importance in NEED_DATA and self.batches < 1:
            raise RecipeError(f"importance {self.importance!r} needs data: give batches")

    def check(self, draft: Draft) -> None:
        """RecipeError or TraceError for what does not fit the model: globs, ratios, a model that cannot be followed."""
        if draft.call is None:
            raise RecipeError("filters are found by running the model: begin with Draft.of(model, task)")
        chosen = self.chosen(groups(draft.model, draft.call.example))
        self._ratios(chosen)
        if self.importance == "batchnorm" and (bare := [group.name for group in chosen if not group.of("scale")]):
            raise RecipeError(f"importance 'batchnorm': {', '.join(bare)} have none; use another, or skip them")

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Keep edits for all that goes, and the values after retraining."""
        graph = groups(draft.model, task.example)
        table = None if self.latency is None else Latencies.of(draft.model, task.example, graph)
        sizes = {group.name: group.size for group in graph.groups}
        start = _Start(sizes, self._ratios(self.chosen(graph)), graph.macs(), table.whole if table else 0.0)
        now = draft
        for number in range(1, self.rounds + 1):
            now = self._round(now, task, start, number / self.rounds)
            if self.retrain is not None:
                now = extend(now, train(now, task, **vars(self.retrain)))
        return between(draft, now)

    def chosen(self, graph: Graph) -> list[Group]:
        """The groups that may be pruned; RecipeError for a glob that matches none."""
        wanted = graph.matching(self.groups, "groups")
        left = graph.matching(self.skip, "skip") if self.skip else set()
        return [group for group in graph.groups if group.name in wanted - left]

    def _ratios(self, chosen: list[Group]) -> dict[str, float]:
        return per_tensor(self.ratio, [group.name for group in chosen], "ratio")

    def _round(self, draft: Draft, task: Task, start: _Start, share: float) -> Draft:
        """The draft with less left: after a `share` (0-1) of the way."""
        graph = groups(draft.model, task.example)
        frozen: dict[str, str] = {}
        while True:
            chosen = [each for each in graph.groups if each.name in start.ratios and each.name not in frozen]
            removed = self._removal(draft, task, graph, chosen, start, share)
            edits, refused = verified(draft.model, task.example, graph, removed)
            if not refused:
                break
            frozen |= refused
        _tell(graph, frozen, removed)
        after = extend(draft, edits)
        if removed and self.batches:
            mend = fitted if self.fit else absorbed
            after = extend(after, mend(draft, after, task, positions(graph, removed), self.batches))
        return extend(after, reestimate(after, task, self.batches))

    def _removal(
        self, draft: Draft, task: Task, graph: Graph, chosen: list[Group], start: _Start, share: float
    ) -> Removal:
        """Which units go, by the scores and the ratio or budget."""
        limits = Limits(self.minimum, self.least, self.multiple)
        evidence = gather(draft, task, self.importance, self.batches)
        if self.counting == "greedy":
            return self._greedily(evidence, chosen, start.left(chosen, share), limits)
        scores: Scores = {group.name: IMPORTANCES[self.importance](group, evidence) for group in chosen}
        if self.scope == "global" and self.normalise:
            scores = {name: each / each.mean().clamp(min=1e-12) for name, each in scores.items()}
        if self.latency is not None:
            table = Latencies.of(draft.model, task.example, graph)
            savings = {group.name: table.savings(group, limits) for group in chosen}
            budget = start.milliseconds * _after(self.latency, share)
            return _within(scores, savings, lambda gone: table.after(graph, gone), budget, "a budget of milliseconds")
        if self.macs is not None:
            return self._by_macs(graph, chosen, scores, start, limits, round(start.macs * _after(self.macs, share)))
        if self.scope == "global":
            assert not isinstance(self.ratio, Mapping)
            total, now = sum(start.sizes[group.name] for group in chosen), sum(group.size for group in chosen)
            return globally(scores, round(now - total * (1 - share * self.ratio)), limits)
        return by_ratio(scores, start.left(chosen, share), limits)

    def _by_macs(
        self, graph: Graph, chosen: list[Group], scores: Scores, start: _Start, limits: Limits, budget: int
    ) -> Removal:
        if self.scope == "global":
            return _within(scores, _macs_saved(graph, scores, limits), graph.macs, budget, "a budget of MACs")
        steepest = max([*start.ratios.values(), 1e-12])

        def removal(strength: float) -> Removal:
            return by_ratio(scores, start.left(chosen, strength / steepest), limits)

        return least_that_fits(removal, graph.macs, budget, "a budget of MACs")

    def _greedily(
        self, evidence: Evidence, chosen: list[Group], ratios: Mapping[str, float], limits: Limits
    ) -> Removal:
        """Group by group in the order of the network, without the kernels that read what went before."""
        tensors = {name: each.clone() for name, each in evidence.tensors.items()}
        left = replace(evidence, tensors=tensors)
        removed: Removal = {}
        for group in chosen:
            removed |= by_ratio({group.name: IMPORTANCES[self.importance](group, left)}, ratios, limits)
            for member in group.members:
                if tensors[member.tensor].is_floating_point():
                    gone = np.flatnonzero(np.isin(member.units, removed[group.name]))
                    tensors[member.tensor].index_fill_(member.dim, torch.from_numpy(gone), 0)
        return removed


@dataclass(frozen=True)
class _Start:
    """What rounds count from: widths, ratios, MACs and latency before the first."""

    sizes: Mapping[str, int]
    ratios: Mapping[str, float]
    macs: int
    milliseconds: float

    def left(self, chosen: list[Group], share: float) -> dict[str, float]:
        """The share of what each group has now that goes, to have lost `share` times its ratio in all."""
        kept = {name: self.sizes[name] * (1 - min(share * ratio, 1.0)) for name, ratio in self.ratios.items()}
        return {group.name: min(max(1 - kept[group.name] / group.size, 0.0), 1.0) for group in chosen}


def _within(
    scores: Scores, savings: Mapping[str, Mapping[int, float]], cost: Cost, budget: float, what: str
) -> Removal:
    """The removal of least score that costs no more than the budget.

    Where layers lie between two groups less is saved than both save alone, so more is asked for until it fits.
    """
    narrowest = {name: lowest(scores[name], len(scores[name]) - min(each)) for name, each in savings.items()}
    least_that_fits(lambda _: narrowest, cost, budget, what)
    need, most = cost({}) - budget, sum(max(each.values()) for each in savings.values())
    while need < most:
        removed = cheapest(scores, savings, need, what)
        if cost(removed) <= budget:
            return removed
        need = max(need * 1.01, most / 1000)
    return narrowest


def _macs_saved(graph: Graph, scores: Scores, limits: Limits) -> dict[str, dict[int, float]]:
    """For each group what each number of units that may be kept saves."""
    now = graph.macs()
    return {
        name: {
            kept: float(now - graph.macs({name: lowest(score, len(score) - kept)}))
            for kept in sorted({limits.kept(len(score), wanted) for wanted in range(1, len(score) + 1)})
        }
        for name, score in scores.items()
    }


def _after(budget: float | None, share: float) -> float:
    """What may be left after a share of the way to a budget."""
    assert budget is not None
    return 1 - (1 - budget) * share


def _tell(graph: Graph, frozen: Mapping[str, str], removed: Mapping[str, np.ndarray]) -> None:
    for name, reason in frozen.items():
        emit("warning", text=f"{name} was left as it is: {reason}")
    emit(
        "widths",
        groups=[{"name": group.name, "before": group.size, "after": group.size - len(removed.get(group.name, ()))}
                for group in graph.groups],
        macs_before=graph.macs(), macs_after=graph.macs(removed),
    )  # fmt: skip
