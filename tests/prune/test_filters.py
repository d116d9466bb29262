"""Filters that go: which, how many, in what order, within what budget, and what is left as it is."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoct import models
from decoct.apply import apply, extend
from decoct.errors import RecipeError
from decoct.events import listening
from decoct.graph import groups
from decoct.measure import macs
from decoct.method import check, step
from decoct.plan import Draft, Keep, Zero
from decoct.prune import latency
from decoct.prune.filters import Filters
from decoct.prune.importance import IMPORTANCES
from decoct.prune.latency import Latencies, Layer
from decoct.prune.widths import Limits
from decoct.recipe import Recipe
from decoct.task import Task
from decoct.testing import small
from decoct.train.finetune import Finetune


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drafted(model: nn.Module, *shape: int) -> tuple[Draft, Task]:
    """A model as a draft, and a task of random data of this shape; ten rows in two batches."""
    data = [(torch.randn(5, *shape), torch.arange(5) % 2) for _ in range(2)]
    task = Task(train=data, validation=data, example=data[0][0][:1], loss=F.cross_entropy)
    return Draft.of(model, task), task


def sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def dense(*rows: list[float]) -> nn.Linear:
    """A layer without bias of these weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def kept(draft: Draft) -> dict[str, list[int]]:
    """The filters that stay, by layer."""
    return {edit.tensor.removesuffix(".weight"): edit.index.tolist() for edit in draft.plan
            if isinstance(edit, Keep) and edit.dim == 0 and edit.tensor.endswith(".weight")}  # fmt: skip


def plainly(ratio: Any = 0.5, **fields: Any) -> Filters:
    """Nothing but the removal."""
    return Filters(ratio, **{"batches": 0} | fields)


def columns(*widths: int) -> nn.Sequential:
    """Dense layers of these widths, whose filters are the better the later they come; ReLUs between."""
    layers: dict[str, nn.Module] = {}
    for number, (before, width) in enumerate(pairwise(widths), 1):
        layers[f"fc{number}"] = nn.Linear(before, width)
        layers[f"fc{number}"].weight.data = torch.rand(width, before) + torch.arange(width)[:, None]
        layers[f"relu{number}"] = nn.ReLU()
    return sequence(**layers)


# ------------------------------------------------------------------------------------------------------ which filters


class Small(nn.Module):
    """Two convolutions with norms, four and three filters; sums of conv1: 2, 1, 4, 3; of conv2: 12, 4, 8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 2)
        self.conv1.weight.data = torch.tensor([2.0, -1.0, 4.0, -3.0]).view(4, 1, 1, 1)
        self.conv2.weight.data = torch.tensor([[3.0] * 4, [-1.0] * 4, [2.0, -2.0, 2.0, -2.0]]).view(3, 4, 1, 1)
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.fc(x.flatten(1))


def test_the_lowest_filters_of_each_layer_go_and_the_others_keep_their_values() -> None:
    draft, task = drafted(Small(), 1, 2, 2)
    before = {name: tensor.clone() for name, tensor in draft.tensors().items()}
    after = step(draft, plainly(0.5, groups="conv1"), task)
    assert kept(after) == {"conv1": [2, 3], "bn1": [2, 3]}
    model: Any = after.model
    assert (model.conv1.out_channels, model.bn1.num_features, model.conv2.in_channels) == (2, 2, 2)
    assert model.conv2.out_channels == 3
    for name in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        assert torch.equal(after.tensors()[name], before[name][[2, 3]]), name
    assert torch.equal(after.tensors()["conv2.weight"], before["conv2.weight"][:, [2, 3]])
    for name in ("conv2.bias", "bn2.running_mean", "fc.weight", "fc.bias"):
        assert torch.equal(after.tensors()[name], before[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in draft.tensors().items())
    both = step(draft, plainly(0.5), task)
    assert kept(both) == {"conv1": [2, 3], "bn1": [2, 3], "conv2": [0], "bn2": [0]}, "a half of three is two"
    assert torch.equal(both.tensors()["fc.weight"], before["fc.weight"][:, :4])


def test_ratios_by_glob_and_layers_that_are_skipped() -> None:
    draft, task = drafted(columns(3, 10, 10, 10, 2), 3)
    after = step(draft, plainly({"fc1": 0.2, "*": 0.5}, skip="fc3"), task)
    assert kept(after) == {"fc1": list(range(2, 10)), "fc2": list(range(5, 10))}
    assert [layer.out_features for layer in after.model if isinstance(layer, nn.Linear)] == [8, 5, 10, 2]


def test_nothing_goes_at_a_ratio_of_nothing() -> None:
    draft, task = drafted(columns(3, 8, 2), 3)
    assert Filters(0.0, batches=0).plan(draft, task) == []


def test_a_removal_is_what_the_masked_model_computes() -> None:
    draft, task = drafted(columns(3, 8, 6, 2), 3)
    after = step(draft, plainly(0.5), task)
    with torch.no_grad():
        draft.model.fc2.weight[:, :4] = 0
        draft.model.fc3.weight[:, :3] = 0
    torch.testing.assert_close(after.model(task.example), draft.model(task.example))


# --------------------------------------------------------------------------------------------------- global, greedy


def uneven() -> nn.Sequential:
    """Filters of fc1 have a fan-in of one and sums of 1 to 4; those of fc2 a fan-in of four and sums of 40 to 160."""
    return sequence(
        fc1=dense([1.0], [2.0], [3.0], [4.0]), relu1=nn.ReLU(),
        fc2=dense(*([10.0 * number] * 4 for number in (1, 2, 3, 4))), relu2=nn.ReLU(), fc3=nn.Linear(4, 2),
    )  # fmt: skip


def test_raw_sums_wipe_out_the_early_layer_and_normalised_ones_do_not() -> None:
    draft, task = drafted(uneven(), 1)
    raw = step(draft, plainly(0.5, scope="global", normalise=False), task)
    assert kept(raw) == {"fc1": [3]}, "all four should go; a layer keeps its best"
    fair = step(draft, plainly(0.5, scope="global"), task)
    assert kept(fair) == {"fc1": [2, 3], "fc2": [2, 3]}


def test_a_global_ratio_is_one_of_all_filters() -> None:
    """Normalised sums are .4, .8, 1.2 and 1.6 in both layers; of equals the later layer's goes."""
    draft, task = drafted(uneven(), 1)
    assert kept(step(draft, plainly(3 / 8, scope="global"), task)) == {"fc1": [1, 2, 3], "fc2": [2, 3]}


def greedy_net() -> nn.Sequential:
    """Sums of fc1: 1 and 2; of fc2: 10 + 1 and 2 + 5, but without what reads the first of fc1: 1 and 5."""
    return sequence(
        fc1=dense([1.0], [2.0]), relu1=nn.ReLU(), fc2=dense([10.0, 1.0], [2.0, 5.0]), relu2=nn.ReLU(),
        fc3=nn.Linear(2, 2),
    )  # fmt: skip


def test_greedy_counting_leaves_out_kernels_that_read_what_is_gone() -> None:
    draft, task = drafted(greedy_net(), 1)
    weight = draft.tensors()["fc2.weight"].clone()
    assert kept(step(draft, plainly(0.5), task)) == {"fc1": [1], "fc2": [0]}
    assert kept(step(draft, plainly(0.5, counting="greedy"), task)) == {"fc1": [1], "fc2": [1]}
    assert torch.equal(draft.tensors()["fc2.weight"], weight)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_halves_the_layers(importance: str) -> None:
    draft, task = drafted(Small(), 1, 2, 2)
    after = step(draft, Filters(0.5, importance=importance, batches=2), task)
    assert (after.model.conv1.out_channels, after.model.conv2.out_channels) == (2, 1)
    assert torch.isfinite(after.model(task.example)).all()


# ------------------------------------------------------------------------------------------------ budgets and limits


def worth(model: nn.Module, task: Task) -> int:
    return macs(model, task.example)[""]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("budget", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_budget_of_multiply_accumulates_is_met_and_not_by_much(scope: str, budget: float, rounds: int) -> None:
    draft, task = drafted(columns(6, 20, 30, 20, 4), 6)
    after = step(draft, plainly(macs=budget, scope=scope, rounds=rounds), task)
    left = worth(after.model, task) / worth(draft.model, task)
    assert budget - 0.06 < left <= budget


def test_with_a_budget_ratios_say_in_what_proportion_layers_narrow() -> None:
    draft, task = drafted(columns(4, 32, 32, 4), 4)
    after = step(draft, plainly({"fc1": 0.6, "fc2": 0.2}, macs=0.6), task)
    one, two = (32 - after.model[place].out_features for place in (0, 2))
    assert one / two == pytest.approx(3, abs=0.5) and worth(after.model, task) <= 0.6 * worth(draft.model, task)


def test_a_budget_that_cannot_be_met_says_what_would_be_left() -> None:
    draft, task = drafted(columns(6, 20, 20, 4), 6)
    for scope in ("layer", "global"):
        with pytest.raises(RecipeError, match=r"a budget of MACs of \d+ cannot be reached: .* are left"):
            plainly(0.99, macs=0.01, scope=scope, minimum=10).plan(draft, task)


def test_widths_are_multiples_and_no_less_than_the_minimum() -> None:
    draft, task = drafted(columns(3, 32, 20, 5, 2), 3)

    def widths(**fields: Any) -> list[int]:
        after = step(draft, plainly(**fields), task)
        return [layer.out_features for layer in after.model if isinstance(layer, nn.Linear)]

    assert widths(ratio=0.6) == [12, 8, 2, 2]
    assert widths(ratio=0.6, multiple=8) == [16, 8, 5, 2], "a layer of five cannot be one of eight"
    assert widths(ratio=0.6, minimum=10) == [12, 10, 5, 2]
    assert widths(ratio=0.6, least=0.5) == [16, 10, 3, 2]
    assert widths(ratio=0.9, minimum=9, multiple=4) == [12, 12, 5, 2]
    for scope in ("layer", "global"):
        found = widths(macs=0.6, multiple=8, scope=scope)
        assert [width % 8 for width in found[:2]] in ([0, 0], [0, 4]) and found[1] in (8, 16, 20)


def test_rounds_count_from_the_start() -> None:
    """Half in four rounds: an eighth of what there was at first in each."""
    draft, task = drafted(columns(3, 16, 2), 3)
    heard: list[dict[str, Any]] = []
    with listening(heard.append):
        after = step(draft, plainly(0.5, rounds=4), task)
    assert after.model.fc1.out_features == 8
    told = [event["groups"][0] for event in heard if event["kind"] == "widths"]
    assert [(group["before"], group["after"]) for group in told] == [(16, 14), (14, 12), (12, 10), (10, 8)]
    assert kept(after) == {"fc1": list(range(8, 16))}
    assert len(after.plan) == len(step(draft, plainly(0.5), task).plan), "one cut of each tensor, not four"


def test_rounds_retrain_between() -> None:
    draft, task = small()
    heard: list[dict[str, Any]] = []
    with listening(heard.append):
        method = Filters(0.5, rounds=2, retrain=Finetune(epochs=1, lr=0.01), batches=1)
        after = step(draft, method, task)
    assert [event["kind"] for event in heard if event["kind"] in ("widths", "epoch")] == ["widths", "epoch"] * 2
    assert (after.model[0].out_channels, after.model[5].out_features) == (3, 6)
    assert torch.equal(apply(draft.model, after.plan)[5].weight, after.model[5].weight)


def test_what_was_promised_is_kept() -> None:
    draft, task = drafted(columns(3, 8, 2), 3)
    mask = torch.rand(8, 3) < 0.5
    after = step(extend(draft, [Zero("fc1.weight", mask)]), plainly(0.5), task)
    (index,) = kept(after).values()
    assert torch.equal(after.mask("fc1.weight"), mask[index])


# ----------------------------------------------------------------------------------------------- what cannot be pruned


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 1.0}, "no layer can be emptied"),
        ({"ratio": {"*": 1.2}}, "no layer can be emptied"),
        ({"ratio": -0.1}, "at least 0 and below 1"),
        ({"macs": 1.0}, "macs is the share that may be left"),
        ({"latency": 0.0}, "latency is the share that may be left"),
        ({"macs": 0.5, "latency": 0.5}, "two budgets"),
        ({"scope": "globl"}, "scope"),
        ({"importance": "l0"}, "importance"),
        ({"counting": "greedly"}, "counting"),
        ({"minimum": 0}, "at least 1"),
        ({"rounds": 0}, "at least 1"),
        ({"batches": -1}, "at least 0"),
        ({"least": 1.5}, "least in 0-1"),
        ({"scope": "global", "ratio": {"*": 0.5}}, "a ratio by glob"),
        ({"scope": "global", "counting": "greedy"}, "greedy counting"),
        ({"importance": "taylor", "batches": 0}, "needs data"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Filters(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": "conv_1"}, r"groups: no group matches 'conv_1'; did you mean 'conv1'\?; there are"),
        ({"skip": "fc"}, r"skip: no group matches 'fc': fc.weight cannot be cut: it is the model's output"),
        ({"ratio": {"conv1": 0.5}}, "ratio gives no value for conv2"),
        ({"ratio": {"conv1": 0.5, "*": 0.1, "conv9": 0.2}}, r"ratio: no tensor matches 'conv9'; did you mean"),
    ],
)
def test_globs_are_checked_before_anything_is_trained(fields: dict[str, Any], message: str) -> None:
    draft, _ = drafted(Small(), 1, 2, 2)
    with pytest.raises(RecipeError, match=message):
        check(draft, Filters(**fields))


def test_a_layer_without_a_norm_is_named_where_norms_rank() -> None:
    draft, _ = drafted(columns(3, 8, 2), 3)
    with pytest.raises(RecipeError, match="importance 'batchnorm': fc1"):
        check(draft, Filters(importance="batchnorm"))


class Written(nn.Module):
    """The width of fc2 is written out in the forward, so that it cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(x).relu()).view(-1, 6).relu())


def test_a_group_that_the_self_check_refuses_is_left_with_a_warning() -> None:
    draft, task = drafted(Written(), 3)
    heard: list[dict[str, Any]] = []
    with listening(heard.append):
        after = step(draft, plainly(0.5), task)
    assert (after.model.fc1.out_features, after.model.fc2.out_features) == (4, 6)
    (warning,) = [event["text"] for event in heard if event["kind"] == "warning"]
    assert warning.startswith("fc2 was left as it is: the smaller model does not run: RuntimeError")
    (widths,) = [event for event in heard if event["kind"] == "widths"]
    assert widths["groups"] == [
        {"name": "fc1", "before": 8, "after": 4}, {"name": "fc2", "before": 6, "after": 6},
    ]  # fmt: skip
    assert widths["macs_before"] == worth(draft.model, task) and widths["macs_after"] == worth(after.model, task)


def test_what_a_refused_group_does_not_save_others_must() -> None:
    draft, task = drafted(Written(), 3)
    for scope in ("layer", "global"):
        after = step(draft, plainly(macs=0.6, scope=scope), task)
        assert after.model.fc2.out_features == 6 and worth(after.model, task) <= 0.6 * worth(draft.model, task)


# ------------------------------------------------------------------------------------------------------------ mending


def test_fitting_brings_the_outputs_nearer() -> None:
    draft, task = drafted(columns(6, 20, 4), 6)
    x = torch.cat([inputs for inputs, _ in task.train])
    gaps = []
    for fields in ({"batches": 0}, {"batches": 2}, {"batches": 2, "fit": True}):
        torch.manual_seed(1)
        after = step(draft, Filters(0.7, **fields), task)
        gaps.append((after.model(x) - draft.model(x)).square().mean().item())
    assert gaps[2] < 0.1 * gaps[1] < 0.1 * gaps[0]


def test_statistics_are_estimated_anew_where_there_are_batches() -> None:
    draft, task = drafted(Small(), 1, 2, 2)
    still, anew = (step(draft, Filters(0.5, groups="conv1", batches=batches), task) for batches in (0, 2))
    assert torch.equal(still.tensors()["bn1.running_mean"], draft.tensors()["bn1.running_mean"][[2, 3]])
    seen = anew.model.conv1(torch.cat([inputs for inputs, _ in task.train]))
    torch.testing.assert_close(anew.tensors()["bn1.running_mean"], seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.equal(anew.tensors()["bn2.running_var"], still.tensors()["bn2.running_var"])


# ------------------------------------------------------------------------------------------------------------ latency


def fake(layer: Layer) -> float:
    """Milliseconds in steps of eight channels, as runtimes have them."""
    out, inner, *kernel = layer.weight
    return math.ceil(out / 8) * math.ceil(inner / 8) * math.prod(kernel) * math.prod(layer.inputs[2:])


class Blocks(nn.Module):
    """Residual blocks: no layer lies between two of the groups inside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(16, width, 3, padding=1) for width in (32, 64))
        self.outer = nn.ModuleList(nn.Conv2d(width, 16, 3, padding=1) for width in (32, 64))
        self.fc = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(inner(x).relu())
        return self.fc(x.mean((2, 3)))


def test_a_budget_of_latency_is_met_in_the_widths_that_were_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measured", fake)
    draft, task = drafted(Blocks(), 3, 6, 6)
    for budget in (0.9, 0.6, 0.35):
        after = step(draft, plainly(latency=budget, groups="inner.*"), task)
        whole, left = (Latencies.of(each.model, task.example, groups(each.model, task.example)).whole
                       for each in (draft, after))  # fmt: skip
        assert budget - 0.1 < left / whole <= budget
        assert all(layer.out_channels % 8 == 0 for layer in after.model.inner) and after.model.stem.out_channels == 16
    with pytest.raises(RecipeError, match=r"a budget of milliseconds of .* cannot be reached"):
        plainly(latency=0.05, groups="inner.*").plan(draft, task)


@pytest.mark.parametrize(("budget", "width"), [(0.9, 16), (0.85, 16), (0.8, 8)])
def test_latency_takes_what_is_cheapest_to_lose(budget: float, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second block's filters are a hundred times larger: all is saved in the first, of whose 32 each 8 are 8 %."""
    monkeypatch.setattr(latency, "measured", fake)
    draft, task = drafted(Blocks(), 3, 6, 6)
    draft.model.inner[1].weight.data *= 100
    after = step(draft, plainly(latency=budget, groups="inner.*"), task)
    assert [layer.out_channels for layer in after.model.inner] == [width, 64]


def test_a_budget_of_latency_is_met_along_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that lie between two groups save less than both groups save alone."""
    monkeypatch.setattr(latency, "measured", fake)
    draft, task = drafted(columns(3, 32, 16, 2), 3)
    graph = groups(draft.model, task.example)
    after = step(draft, plainly(latency=0.6), task)
    left = Latencies.of(after.model, task.example, groups(after.model, task.example)).whole
    assert left <= 0.6 * Latencies.of(draft.model, task.example, graph).whole


def test_a_table_of_latency_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """fc1 is 3 to 32, so 4 steps of 1; fc2 32 to 16, so 2 of 4; fc3 16 to 2, so 1 of 2: 4 + 8 + 2."""
    monkeypatch.setattr(latency, "measured", fake)
    draft, task = drafted(columns(3, 32, 16, 2), 3)
    graph = groups(draft.model, task.example)
    table = Latencies.of(draft.model, task.example, graph)
    assert set(table.layers) == {"fc1", "fc2", "fc3"} and table.whole == 14
    assert table.layers["fc2"] == Layer((1, 32), (16, 32))
    one = graph.group("fc1")
    assert table.savings(one, Limits()) == {8: 9.0, 16: 6.0, 24: 3.0, 32: 0.0}
    assert table.savings(one, Limits(multiple=16)) == {16: 6.0, 32: 0.0}
    assert table.savings(one, Limits(minimum=20)) == {24: 3.0, 32: 0.0}
    assert table.touched(one, 8) == [
        (Layer((1, 3), (8, 3)), Layer((1, 3), (32, 3))), (Layer((1, 8), (16, 8)), Layer((1, 32), (16, 32))),
    ]  # fmt: skip


def test_a_layer_can_be_timed() -> None:
    for layer in (
        Layer((1, 3, 6, 6), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1)), Layer((2, 5), (3, 5)),
        Layer((1, 4, 9), (4, 1, 3), (2,), (1,), (1,), 4),
    ):  # fmt: skip
        assert 0 < latency.measured(layer, seconds=0.0) < 1000


# ---------------------------------------------------------------------------------------------------------- a recipe


def test_the_recipe_of_resnet_56_b_saves_what_the_paper_states() -> None:
    """Li 2017, table 1: 27.6 % less work; layer 1 is the stem, two more a block, and six are skipped."""
    recipe = Recipe.load(Path(__file__).parents[2] / "recipes" / "resnet-56-b.toml")
    (method,) = recipe.methods()
    assert isinstance(method, Filters) and method.retrain is not None and method.fit
    draft, task = drafted(models.resnet_56(), 3, 32, 32)
    after = step(draft, replace(method, retrain=None, batches=0, fit=False), task)
    for number in range(27):
        layer = 2 + 2 * number
        name, ratio = f"layer{number // 9 + 1}.{number % 9}.conv1", (0.6, 0.3, 0.1)[number // 9]
        width = 16 * 2 ** (number // 9)
        expected = width if layer in (16, 18, 20, 34, 38, 54) else width - math.ceil(ratio * width)
        assert after.model.get_submodule(name).out_channels == expected, name
        assert after.model.get_submodule(name.replace("conv1", "conv2")).out_channels == width
    assert 100 * (1 - worth(after.model, task) / worth(draft.model, task)) == pytest.approx(27.6, abs=0.2)
