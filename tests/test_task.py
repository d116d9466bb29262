"""Tasks: batches of any form, scores over whole splits, and what does not fit is said."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decoct.errors import TaskError
from decoct.task import Task, accuracy, call, evaluate, join, split_batch

X, Y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])


class Words(nn.Module):
    """Takes named inputs and gives an output object, as transformers models do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        class Output:
            logits = (self.table(input_ids) * attention_mask[..., None]).sum(1)

        return Output()


def simple(**changes: object) -> Task:
    parts: dict[str, object] = {
        "train": [(X, Y)], "validation": [(X[:4], Y[:4]), (X[4:], Y[4:])], "example": X[:1], "loss": F.cross_entropy,
    }  # fmt: skip
    return Task(**(parts | changes))  # type: ignore[arg-type]


def test_batches_of_every_form_are_parted() -> None:
    assert split_batch((X, Y)) == (X, Y)
    assert split_batch([X, X, Y]) == ((X, X), Y)
    assert split_batch(X) == (X, X)
    inputs, target = split_batch({"input_ids": X, "labels": Y})
    assert list(inputs) == ["input_ids"]
    assert target is Y


def test_the_score_is_of_the_whole_split_not_a_mean_of_batches() -> None:
    def rule(inputs: torch.Tensor) -> torch.Tensor:
        return F.one_hot((inputs[:, 0] > 3).long(), 2).float()

    right = ((X[:, 0] > 3).long() == Y).double().mean() * 100
    assert evaluate(rule, simple()) == pytest.approx(right)


def test_dicts_and_output_objects_go_through() -> None:
    batch = {
        "input_ids": torch.tensor([[1, 2], [3, 4]]),
        "attention_mask": torch.ones(2, 2),
        "labels": torch.tensor([0, 1]),
    }
    example = {name: value[:1] for name, value in batch.items() if name != "labels"}
    task = simple(train=[batch], validation=[batch], example=example)
    model = Words()
    task.check(model)
    assert call(model, example).shape == (1, 2)
    assert 0 <= evaluate(model, task) <= 100


def test_a_regression_with_a_lower_score_is_better() -> None:
    task = simple(
        validation=[(X, X)], score=lambda output, target: float((output - target).abs().mean()), higher_is_better=False
    )
    assert evaluate(nn.Identity(), task) == 0
    assert task.better(0.1, than=0.2)
    assert task.better(5.0, than=math.nan)


def test_join_goes_into_nests() -> None:
    assert join([(X, {"a": Y}), (X, {"a": Y})])[1]["a"].shape == (12,)
    assert join([["box"], ["box", "box"]]) == ["box"] * 3


def test_accuracy_by_hand() -> None:
    assert accuracy(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1, 1, 0])) == 75.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"example": torch.ones(1, 3)}, "forward fails on the task's example"),
        ({"train": []}, "train loader is empty"),
        ({"validation": []}, "validation loader is empty"),
        ({"train": [(X, Y.float())]}, "loss fails on a train batch"),
        ({"loss": lambda output, target: output}, "one number"),
        ({"score": lambda output, target: math.nan}, "not a number"),
        ({"score": lambda output, target: "good"}, "fails"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        simple(**changes).check(nn.Linear(2, 2))


def test_a_missing_split_is_said() -> None:
    with pytest.raises(TaskError, match="no test data"):
        evaluate(nn.Linear(2, 2), simple(), "test")


def test_checking_leaves_the_mode_alone() -> None:
    model = nn.Linear(2, 2).train()
    simple().check(model)
    assert model.training
