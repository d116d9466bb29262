"""Training: promises hold, chance is seeded, two processes equal one, what goes wrong is said."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from decoct.apply import extend
from decoct.errors import RecipeError, TaskError, TrainingError
from decoct.events import listening
from decoct.plan import Cast, Draft, Set, Share, Zero, to_json
from decoct.task import Task
from decoct.testing import small
from decoct.train import train
from decoct.train.finetune import Finetune
from decoct.train.promises import FromCodebook, bake, narrow, realise, trained
from decoct.train.schedule import SCHEDULES, factor


def test_training_lowers_the_loss_and_leaves_the_model_alone() -> None:
    draft, task = small()
    before = {name: tensor.clone() for name, tensor in draft.tensors().items()}
    heard: list[dict] = []
    with listening(heard.append):
        after = extend(draft, train(draft, task, epochs=8, lr=0.05))
    losses = [event["loss"] for event in heard if event["kind"] == "epoch"]
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in draft.tensors().items())
    assert not torch.equal(after.tensors()["0.weight"], before["0.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_masks_hold_under_momentum_and_decay(optimizer: str) -> None:
    draft, task = small()
    mask = torch.rand(12, 24, generator=torch.Generator().manual_seed(1)) < 0.3
    draft = extend(draft, [Zero("5.weight", mask)])
    after = extend(draft, train(draft, task, epochs=3, lr=0.01, optimizer=optimizer, weight_decay=0.1, l1=1e-4))
    weight = after.tensors()["5.weight"]
    assert not weight[~mask].any()
    assert torch.equal(after.mask("5.weight"), mask)  # type: ignore[arg-type]
    assert not torch.equal(weight, draft.tensors()["5.weight"])


def test_codes_are_frozen_and_a_cast_keeps_half_precision() -> None:
    draft, task = small()
    codes = torch.randint(-1, 3, (12, 24), dtype=torch.int16, generator=torch.Generator().manual_seed(1))
    draft = extend(
        draft, [Share("5.weight", codes, torch.tensor([-0.2, 0.1, 0.3])), Cast("5.weight"), Cast("1.running_mean")]
    )
    after = extend(draft, train(draft, task, epochs=2, lr=0.01))
    share = after.promises("5.weight")[Share]
    assert torch.equal(share.codes, codes)
    assert torch.equal(share.codebook, share.codebook.half().float())
    assert torch.equal(after.tensors()["5.weight"], share.values())
    assert not torch.equal(share.codebook, torch.tensor([-0.2, 0.1, 0.3]).half().float())
    mean = after.tensors()["1.running_mean"]
    assert torch.equal(mean, mean.half().float())


def test_the_gradient_of_a_centroid_is_the_sum_over_its_members() -> None:
    """Han 2016, figure 3: summed gradients 0.04 0.02 0.04 -0.03, centroids 1.96 1.48 -0.04 -0.97 at rate 1."""
    codes = torch.tensor([[0, 3, 1, 2], [2, 2, 3, 0], [3, 0, 2, 3], [0, 2, 1, 1]])
    gradient = torch.tensor(
        [[-0.03, -0.01, 0.03, 0.02], [-0.01, 0.01, -0.02, 0.12], [-0.01, 0.02, 0.04, 0.01], [-0.07, -0.02, 0.01, -0.02]]
    )
    codebook = torch.tensor([2.00, 1.50, 0.00, -1.00], requires_grad=True)
    spread = FromCodebook(Share("w", codes, codebook.detach()))
    spread(codebook).backward(gradient)
    assert codebook.grad is not None
    torch.testing.assert_close(codebook.grad, torch.tensor([0.04, 0.02, 0.04, -0.03]))
    torch.testing.assert_close((codebook - codebook.grad).detach(), torch.tensor([1.96, 1.48, -0.04, -0.97]))


def test_tied_tensors_stay_tied_under_every_promise() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    inputs = torch.randn(16, 6)
    task = Task(
        [(inputs, inputs)], [(inputs, inputs)], inputs[:1], F.mse_loss, lambda out, y: -float(F.mse_loss(out, y))
    )
    for edit in (
        Zero("0.weight", torch.eye(6).bool()),
        Share("0.weight", torch.eye(6).to(torch.int16) - 1, torch.tensor([0.5])),
        Cast("0.weight"),
    ):
        draft = extend(Draft.of(model, task), [edit])
        after = extend(draft, train(draft, task, epochs=2, lr=0.1)).model
        assert after[0].weight is after[2].weight
        realised = realise(draft)
        torch.testing.assert_close(realised[0].weight, realised[2].weight)


def test_baking_without_training_changes_nothing() -> None:
    draft, _ = small()
    codes = torch.zeros(4, 12, dtype=torch.int16)
    draft = extend(draft, [Zero("5.weight", torch.rand(12, 24) < 0.5), Share("7.weight", codes, torch.tensor([0.25]))])
    assert not any(isinstance(edit, Set) for edit in bake(realise(draft), draft))


def test_the_same_seed_gives_the_same_training() -> None:
    draft, task = small()
    plans = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        inputs, targets = task.train[0]  # type: ignore[index]
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
        shuffled = Task(loader, task.validation, task.example, task.loss)
        plans.append(to_json(train(draft, shuffled, epochs=2, lr=0.01)))
    assert plans[0] == plans[1] != plans[2]


def test_the_best_epoch_is_kept() -> None:
    draft, task = small()
    scores = iter([10.0, 90.0, 20.0])
    tricky = Task(task.train, task.validation, task.example, task.loss, score=lambda out, y: next(scores))
    torch.manual_seed(0)
    best = train(draft, tricky, epochs=3, lr=0.01, schedule="constant")
    torch.manual_seed(0)
    second = train(draft, task, epochs=2, lr=0.01, schedule="constant", keep="last")
    assert to_json(best) == to_json(second)


def test_a_penalty_of_the_model_is_added_to_the_loss() -> None:
    """That of the absolute weights is what l1 is."""
    draft, task = small()
    seen: list[type] = []

    def norm(model: nn.Module) -> torch.Tensor:
        seen.append(type(model))
        return 0.01 * sum(each.abs().sum() for each in model.parameters() if each.dim() > 1)  # type: ignore[return-value]

    given = {"epochs": 2, "lr": 0.05, "keep": "last"}
    expected = extend(draft, train(draft, task, **given, l1=0.01)).tensors()
    for fields in ({"penalty": norm}, {"penalty": lambda model: norm(model) / 2, "l1": 0.005}):
        found = extend(draft, train(draft, task, **given, **fields)).tensors()
        torch.testing.assert_close(found, expected)
    assert set(seen) == {type(draft.model)}
    plain = extend(draft, train(draft, task, **given)).tensors()
    assert plain["5.weight"].abs().sum() > 1.05 * expected["5.weight"].abs().sum()


def test_a_loss_that_is_no_number_stops_the_training_and_says_where() -> None:
    draft, task = small()

    def broken(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return F.cross_entropy(output, target) * (math.nan if len(calls) == 7 else 1.0)

    calls: list[int] = []
    with pytest.raises(TrainingError, match="loss became nan at step 3 of epoch 2"):
        train(draft, task, epochs=3, lr=0.01, loss=broken)


def test_an_empty_loader_is_said() -> None:
    draft, task = small()
    with pytest.raises(TaskError, match="empty"):
        train(draft, Task([], task.validation, task.example, task.loss), epochs=1, lr=0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_stay_within_bounds(schedule: str) -> None:
    values = [factor(schedule, step / 100, 0.1) for step in range(101)]
    assert all(0 <= value <= 1 for value in values)
    assert values[0] < 0.1 < max(values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "sgdd"}, "did you mean 'sgd'"),
        ({"schedule": "cos"}, "schedule is one of"),
        ({"keep": "first"}, "keep is one of"),
        ({"epochs": 0}, "above 0"),
        ({"lr": -1.0}, "above 0"),
        ({"momentum": 1.0}, "momentum"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Finetune(**fields)


def test_removing_weights_while_training_takes_their_optimizer_state() -> None:
    draft, task = small()
    every = torch.ones(12, 24, dtype=torch.bool)
    model = realise(draft, {"5.weight": every})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    inputs, targets = task.train[0]  # type: ignore[index]
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    mask = torch.rand(12, 24) < 0.5
    narrow(model, {"5.weight": mask}, optimizer)
    original = trained(model, "5.weight")
    state = optimizer.state[original]
    assert not original[~mask].any() and not state["exp_avg"][~mask].any() and not state["exp_avg_sq"][~mask].any()
    assert state["exp_avg"][mask].any()
    narrow(model, {"5.weight": every}, optimizer)
    assert torch.equal(bake(model, draft)[1].mask, mask)  # type: ignore[union-attr]


def test_a_network_of_three_dimensional_convolutions_trains() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    inputs, targets = torch.randn(4, 1, 3, 3, 3), torch.tensor([0, 1, 0, 1])
    task = Task([(inputs, targets)], [(inputs, targets)], inputs[:1], F.cross_entropy)
    assert train(Draft.of(model, task), task, epochs=1, lr=0.1)
