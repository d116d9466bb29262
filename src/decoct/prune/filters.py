"""Filter pruning: whole filters, neurons, heads or recurrent units go, and the network that is left is really smaller.

Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf: Pruning Filters for Efficient ConvNets.
ICLR 2017, arXiv 1608.08710.

The filters of a layer are ranked by the sum of their absolute weights,

    s_j = sum_l sum |K_l|         (filter j, its kernels K_l for every input map l)

the lowest go, with their BatchNorm entries and the kernels of the next layer that read them; then the network is
retrained. What must go with a filter is found by following the channels through the model (`decoct.graph`).

Differs: scope = "global" ranks all layers together (the paper ranks within each); scores are then divided by their
group's mean, since raw sums grow with fan-in and would wipe out early layers (normalise = False gives the raw ones). The
strength may be set by a budget of multiply-accumulates or of latency. Of the channels that a shortcut ties together the
scores of all tied filters are added. Every cut is checked against the masked model, BatchNorm statistics are estimated
anew, and the layers that read what was removed may be fitted to give what they gave (He 2017, arXiv 1707.06168).

Result: resnet-20-half, resnet-56-b and resnet-56-half on CIFAR-10; see docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decoct.apply import between, extend
from decoct.errors import RecipeError, nearest
from decoct.events import emit
from decoct.graph import Graph, Group, groups
from decoct.graph.removal import positions
from decoct.method import per_tensor
from decoct.plan import Draft, Edit
from decoct.prune.importance import IMPORTANCES, Evidence, gather
from decoct.prune.latency import Latencies
from decoct.prune.reconstruct import absorbed, fitted
from decoct.prune.widths import Limits, Removal, Scores, by_ratio, globally, least_that_fits
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
    importance: l1, l2, batchnorm, taylor or activation.
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
                f"ratio is the share of filters removed, at least 0 and below 1, not {self.ratio}: a layer cannot be emptied"
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
        if self.importance in ("taylor", "activation") and self.batches < 1:
            raise RecipeError(f"importance {self.importance!r} needs data: give batches")

    def check(self, draft: Draft) -> None:
        """RecipeError or TraceError for what does not fit the model: globs, ratios, a model that cannot be followed."""
        graph = groups(draft.model, _example(draft))
        chosen = self._chosen(graph)
        if isinstance(self.ratio, Mapping):
            per_tensor(self.ratio, [group.name for group in chosen], "ratio")
        if self.importance == "batchnorm":
            for group in chosen:
                IMPORTANCES["batchnorm"](group, gather(draft, None, "l1", 0))  # type: ignore[arg-type]

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Keep edits for all that goes, and the values after retraining."""
        now = draft
        start = groups(draft.model, task.example)
        whole = start.macs()
        table = Latencies.of(draft.model, task.example, start) if self.latency is not None else None
        for number in range(1, self.rounds + 1):
            now = self._round(now, task, number / self.rounds, whole, table, draft)
            if self.retrain is not None:
                now = extend(now, train(now, task, **vars(self.retrain)))
        return between(draft, now)

    def _round(
        self, draft: Draft, task: Task, share: float, whole: int, table: Latencies | None, first: Draft
    ) -> Draft:
        """The draft with less left: after a `share` (0-1) of the way."""
        graph = groups(draft.model, task.example)
        frozen: dict[str, str] = {}
        while True:
            chosen = [group for group in self._chosen(graph) if group.name not in frozen]
            removed = self._removal(draft, task, graph, chosen, share, whole, table)
            edits, refused = verified(draft.model, task.example, graph, removed)
            if not refused:
                break
            frozen |= refused
        _tell(graph, frozen, removed)
        after = extend(draft, edits)
        if removed and self.fit and self.batches:
            after = extend(after, fitted(draft, after, task, positions(graph, removed), self.batches))
        elif removed and self.batches:
            after = extend(after, absorbed(draft, after, task, positions(graph, removed), self.batches))
        return extend(after, reestimate(after, task, self.batches))

    def _chosen(self, graph: Graph) -> list[Group]:
        """The groups that may be pruned; RecipeError for a glob that matches none, naming what is frozen."""
        names = [group.name for group in graph.groups]
        wanted = _matching(self.groups, names, graph, "groups")
        left = _matching(self.skip, names, graph, "skip") if self.skip else set()
        return [group for group in graph.groups if group.name in wanted - left]

    def _removal(
        self, draft: Draft, task: Task, graph: Graph, chosen: list[Group], share: float, whole: int,
        table: Latencies | None,
    ) -> Removal:  # fmt: skip
        """Which units go, by the scores and the ratio or budget."""
        limits = Limits(self.minimum, self.least, self.multiple)
        evidence = gather(draft, task, self.importance, self.batches)
        ratios = per_tensor(self.ratio, [group.name for group in chosen], "ratio") if chosen else {}
        if self.counting == "greedy":
            return self._greedily(evidence, chosen, {name: share * ratio for name, ratio in ratios.items()}, limits)
        score = IMPORTANCES[self.importance]
        scores: Scores = {group.name: score(group, evidence) for group in chosen}
        if self.scope == "global" and self.normalise:
            scores = {name: each / each.mean().clamp(min=1e-12) for name, each in scores.items()}
        removals = self._by_strength(scores, ratios, limits)
        if table is not None:
            budget = table.whole * _after(self.latency, share)
            return table.cheapest(graph, scores, limits, budget)
        if self.macs is not None:
            return least_that_fits(removals, graph.macs, whole * _after(self.macs, share), "a budget of MACs")
        return removals(share if self.scope == "layer" else share * float(self.ratio))  # type: ignore[arg-type]

    def _by_strength(self, scores: Scores, ratios: Mapping[str, float], limits: Limits):  # type: ignore[no-untyped-def]
        """What goes at a strength in 0-1; with a budget, 1 is all that the limits allow."""
        total = sum(map(len, scores.values()))
        if self.scope == "global":
            return lambda strength: globally(scores, round(strength * total), limits)
        scale = 1 / max([*ratios.values(), 1e-12]) if self.macs is not None else 1.0
        return lambda strength: by_ratio(
            scores, {name: min(strength * scale * ratio, 1.0) for name, ratio in ratios.items()}, limits
        )

    def _greedily(
        self, evidence: Evidence, chosen: list[Group], ratios: Mapping[str, float], limits: Limits
    ) -> Removal:
        """Group by group in the order of the network, without the kernels that read what went before."""
        tensors = {name: each.clone() for name, each in evidence.tensors.items()}
        removed: Removal = {}
        for group in chosen:
            scores = {
                group.name: IMPORTANCES[self.importance](group, Evidence(tensors, evidence.gradients, evidence.energy))
            }
            removed |= by_ratio(scores, ratios, limits)
            for member in group.members:
                if tensors[member.tensor].is_floating_point():
                    gone = np.flatnonzero(np.isin(member.units, removed[group.name]))
                    tensors[member.tensor].index_fill_(member.dim, torch.from_numpy(gone), 0)
        return removed


def _after(budget: float | None, share: float) -> float:
    """What may be left after a share of the way to a budget."""
    assert budget is not None
    return 1 - (1 - budget) * share


def _example(draft: Draft) -> object:
    if draft.call is None:
        raise RecipeError("filters are found by running the model: begin with Draft.of(model, task)")
    return draft.call.example


def _matching(pattern: str, names: list[str], graph: Graph, field: str) -> set[str]:
    from fnmatch import fnmatchcase

    found: set[str] = set()
    for glob in (each.strip() for each in pattern.split(",")):
        matched = {name for name in names if fnmatchcase(name, glob)}
        if not matched:
            why = next((each for each in graph.frozen if fnmatchcase(each.tensor.rpartition(".")[0], glob)), None)
            said = (
                f": {why.tensor} cannot be cut: {why.reason}" if why else f"{nearest(glob, names)}; there are {names}"
            )
            raise RecipeError(f"{field}: no group matches {glob!r}{said}")
        found |= matched
    return found


def _tell(graph: Graph, frozen: Mapping[str, str], removed: Mapping[str, np.ndarray]) -> None:
    for name, reason in frozen.items():
        emit("warning", text=f"{name} was left as it is: {reason}")
    emit(
        "widths",
        groups=[{"name": group.name, "before": group.size, "after": group.size - len(removed.get(group.name, ()))}
                for group in graph.groups],
        macs_before=graph.macs(), macs_after=graph.macs(removed),
    )  # fmt: skip


__all__ = ["Filters", "Tensor"]
