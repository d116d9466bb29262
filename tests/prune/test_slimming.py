"""Network slimming: the penalty drives scales down, one threshold for all layers, layers without scales are left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decoct.apply import extend
from decoct.errors import RecipeError
from decoct.graph import groups
from decoct.method import check, step
from decoct.plan import Cast, Draft, Keep, Zero
from decoct.prune.slimming import Slimming
from decoct.task import Task
from decoct.testing import small
from decoct.train.finetune import Finetune

STILL = Finetune(epochs=0.25, lr=1e-9, keep="last")
"""A training that changes nothing that can be seen."""


def net(bn1: list[float], bn2: list[float]) -> tuple[Draft, Task]:
    """conv1 and conv2, each with a BatchNorm of given scales, a dense layer without one, and one that ends it."""
    torch.manual_seed(0)
    one, two = len(bn1), len(bn2)
    model = nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(1, one, 3)), ("bn1", nn.BatchNorm2d(one)), ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(one, two, 3)), ("bn2", nn.BatchNorm2d(two)), ("relu2", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()),
        ("fc1", nn.Linear(two, 5)), ("relu3", nn.ReLU()), ("fc2", nn.Linear(5, 4)),
    ):  # fmt: skip
        model.add_module(name, layer)
    for norm, scales in ((model.bn1, bn1), (model.bn2, bn2)):
        norm.weight.data = torch.tensor(scales)
    inputs, targets = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
    data = [(inputs[start : start + 8], targets[start : start + 8]) for start in range(0, 32, 8)]
    task = Task(data, data, inputs[:1], F.cross_entropy)
    return Draft.of(model, task), task


def test_the_channels_of_smallest_scale_go_over_all_layers() -> None:
    """Of ten scales the four nearest to zero: 0.02 and 0.03 of bn2, 0.05 and 0.1 of bn1; signs do not count."""
    draft, task = net([0.9, 0.1, -0.8, 0.05], [0.2, -0.7, 0.6, 0.03, 0.02, -0.5])
    after = step(draft, Slimming(ratio=0.4, penalty=0.0, train=STILL, batches=0), task)
    kept = {(edit.tensor, edit.dim): edit.index.tolist() for edit in after.plan if isinstance(edit, Keep)}
    norm = ("weight", "bias", "running_mean", "running_var")
    assert kept == {
        **{(f"conv1.{leaf}", 0): [0, 2] for leaf in ("weight", "bias")}, ("conv2.weight", 1): [0, 2],
        **{(f"conv2.{leaf}", 0): [0, 1, 2, 5] for leaf in ("weight", "bias")}, ("fc1.weight", 1): [0, 1, 2, 5],
        **{(f"bn1.{leaf}", 0): [0, 2] for leaf in norm}, **{(f"bn2.{leaf}", 0): [0, 1, 2, 5] for leaf in norm},
    }  # fmt: skip
    torch.testing.assert_close(after.tensors()["bn1.weight"], torch.tensor([0.9, -0.8]))
    torch.testing.assert_close(after.tensors()["bn2.weight"], torch.tensor([0.2, -0.7, 0.6, -0.5]))


def test_a_layer_keeps_its_least_and_what_is_skipped_stays() -> None:
    draft, task = net([0.01, 0.02, 0.03, 0.04], [0.2, 0.7, 0.6, 0.9])
    assert widths(step(draft, Slimming(0.5, 0.0, STILL), task)) == (1, 4)
    assert widths(step(draft, Slimming(0.5, 0.0, STILL, least=0.5), task)) == (2, 4)
    assert widths(step(draft, Slimming(0.5, 0.0, STILL, multiple=4), task)) == (4, 4)
    assert widths(step(draft, Slimming(0.5, 0.0, STILL, skip="conv1"), task)) == (4, 2)
    assert widths(step(draft, Slimming(0.25, 0.0, STILL, groups="conv2"), task)) == (4, 3)


def widths(draft: Draft) -> tuple[int, int]:
    return draft.model.conv1.out_channels, draft.model.conv2.out_channels


def test_layers_without_scales_are_left_alone_and_a_model_of_them_is_refused() -> None:
    draft, task = net([1.0] * 4, [1.0] * 4)
    assert step(draft, Slimming(0.5, 0.0, STILL), task).model.fc1.out_features == 5
    with pytest.raises(RecipeError, match=r"none of \['fc1'\] has any: use prune.filters"):
        check(draft, Slimming(groups="fc*"))
    with pytest.raises(RecipeError, match=r"no group matches 'fc2': .*output"):
        check(draft, Slimming(groups="fc2"))
    with pytest.raises(RecipeError, match="did you mean 'conv1'"):
        check(draft, Slimming(skip="cnv1"))
    check(draft, Slimming())


def test_the_penalty_is_lambda_times_the_absolute_scales_of_what_may_go() -> None:
    draft, task = net([0.9, -0.1], [0.25, -0.5, 0.125])
    graph = groups(draft.model, task.example)
    for fields, scales in (({}, 1.0 + 0.875), ({"skip": "conv2"}, 1.0), ({"groups": "conv2"}, 0.875)):
        method = Slimming(penalty=0.5, **fields)
        penalty = method._norm(method._chosen(graph))(draft.model)
        assert penalty.item() == pytest.approx(0.5 * scales)
    penalty.backward()
    assert draft.model.bn2.weight.grad.tolist() == [0.5, -0.5, 0.5]
    assert draft.model.bn1.weight.grad is None


def test_scales_fall_under_the_penalty_and_more_under_a_larger_one() -> None:
    draft, task = small()
    train = Finetune(epochs=20, lr=0.02, keep="last")
    left = []
    for penalty in (0.0, 0.1, 0.5):
        torch.manual_seed(0)
        after = step(draft, Slimming(ratio=0.0, penalty=penalty, train=train), task)
        left.append(float(after.tensors()["1.weight"].abs().sum()))
    assert left[0] > 4.5, "six scales that began at one"
    assert left[1] < 0.9 * left[0] and left[2] < 0.5 * left[1]


def test_a_budget_of_multiply_accumulates_is_kept() -> None:
    draft, task = net([0.9, 0.1, -0.8, 0.05], [0.2, -0.7, 0.6, 0.03, 0.02, -0.5])
    before = groups(draft.model, task.example).macs()
    after = step(draft, Slimming(penalty=0.0, train=STILL, macs=0.6), task)
    assert groups(after.model, task.example).macs() <= 0.6 * before
    assert after.model.conv1.out_channels < 4 or after.model.conv2.out_channels < 6


def test_promises_hold_through_both_trainings() -> None:
    draft, task = net([1.0, 0.1, 0.9, 0.8], [1.0] * 6)
    mask = torch.rand(6, 4, 3, 3) < 0.5
    draft = extend(draft, [Zero("conv2.weight", mask), Cast("bn1.weight")])
    once = Finetune(epochs=1, lr=0.01, keep="last")
    after = step(draft, Slimming(0.1, 1e-3, once, retrain=once), task)
    assert after.model.conv1.out_channels == 3, "the scale of 0.1 is still the smallest"
    weight, scale = after.tensors()["conv2.weight"], after.tensors()["bn1.weight"]
    assert not weight[~mask[:, [0, 2, 3]]].any() and weight.any()
    assert torch.equal(scale, scale.half().float())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 1.0}, "ratio is the share"),
        ({"penalty": -1e-4}, "penalty is at least 0"),
        ({"macs": 1.0}, "macs is the share"),
        ({"least": 1.5}, "least in 0-1"),
        ({"minimum": 0}, "at least 1"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Slimming(**fields)
