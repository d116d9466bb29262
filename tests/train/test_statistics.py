"""BatchNorm statistics: the plain means over batches, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoct.apply import extend
from decoct.plan import Cast, Draft, Set
from decoct.task import Task
from decoct.train.statistics import reestimate

SEED = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(6, 3, 4, 4, generator=SEED) * (1 + place) + place, torch.zeros(6, dtype=torch.long))
    for place in range(4)
]


@pytest.fixture
def task() -> Task:
    return Task(train=BATCHES, validation=BATCHES, example=BATCHES[0][0][:1], loss=F.cross_entropy)


class Net(nn.Module):
    """BatchNorm on the input and behind dropout and a convolution, one that only training runs, and others' norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.conv = nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5), nn.Conv2d(3, 2, 3)
        self.second, self.instance = nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True)
        self.aside, self.bare = nn.BatchNorm2d(3), nn.BatchNorm2d(2, track_running_stats=False)
        for norm in (self.first, self.second, self.aside):
            nn.init.uniform_(norm.running_mean, 5, 6)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = self.aside(x)
        return self.bare(self.instance(self.second(self.conv(self.drop(self.first(x)))))).mean((2, 3))


@pytest.mark.parametrize("batches", [1, 3, 99])
def test_statistics_are_the_plain_means_over_batches(task: Task, batches: int) -> None:
    """Of the input by hand: mean and unbiased variance of each batch, and their averages; likewise what comes after."""
    torch.manual_seed(0)
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (edit,) = reestimate(Draft.of(model), task, batches)
    assert isinstance(edit, Set) and set(edit.tensors) == {
        "first.running_mean", "first.running_var", "second.running_mean", "second.running_var",
    }  # fmt: skip
    inputs = [x for x, _ in BATCHES][:batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    var = torch.stack([x.var((0, 2, 3), unbiased=True) for x in inputs]).mean(0)
    torch.testing.assert_close(edit.tensors["first.running_mean"], mean)
    torch.testing.assert_close(edit.tensors["first.running_var"], var)
    within = [F.batch_norm(x, None, None, model.first.weight, model.first.bias, training=True) for x in inputs]
    after = [model.conv(x).detach() for x in within]
    torch.testing.assert_close(
        edit.tensors["second.running_mean"], torch.stack([x.mean((0, 2, 3)) for x in after]).mean(0)
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and model.first.momentum == 0.3


def test_nothing_for_no_batches_and_for_no_batchnorm(task: Task) -> None:
    assert reestimate(Draft.of(Net()), task, 0) == []
    assert reestimate(Draft.of(nn.Sequential(nn.Flatten(), nn.Linear(48, 2))), task, 3) == []


def test_a_promise_is_kept(task: Task) -> None:
    draft = extend(Draft.of(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())), [Cast("0.running_mean")])
    after = extend(draft, reestimate(draft, task, 2))
    mean = torch.stack([x.mean((0, 2, 3)) for x, _ in BATCHES[:2]]).mean(0)
    assert torch.equal(after.tensors()["0.running_mean"], mean.half().float())


def test_a_shared_batchnorm_is_counted_wherever_it_runs(task: Task) -> None:
    norm = nn.BatchNorm2d(3, affine=False)
    (edit,) = reestimate(Draft.of(nn.Sequential(norm, nn.ReLU(), norm)), task, 2)
    assert isinstance(edit, Set)
    runs = [each for x, _ in BATCHES[:2] for each in (x, F.relu(F.batch_norm(x, None, None, training=True)))]
    torch.testing.assert_close(
        edit.tensors["0.running_mean"], torch.stack([each.mean((0, 2, 3)) for each in runs]).mean(0)
    )
    assert set(edit.tensors) == {"0.running_mean", "0.running_var"}
