"""Each importance on a net whose numbers are written out, and beside a literal version of itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from decoct.errors import RecipeError, TaskError
from decoct.graph import Graph, groups
from decoct.plan import Draft
from decoct.prune.importance import IMPORTANCES, NEED_DATA, gather
from decoct.task import Task


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def given(layer: nn.Module, weight: object, bias: object = None) -> nn.Module:
    """The layer with these numbers."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).view_as(layer.weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def task(*inputs: Tensor, loss: object = F.cross_entropy) -> Task:
    batches = [(x, torch.arange(len(x)) % 2) for x in inputs]
    return Task(train=batches, validation=batches, example=inputs[0][:1], loss=loss)


def scored(name: str, model: nn.Module, *inputs: Tensor, group: str = "", loss: object = F.cross_entropy) -> Tensor:
    """The scores of a group, or of the only one."""
    data = task(*inputs, loss=loss)
    graph: Graph = groups(model, data.example)
    found = graph.group(group or graph.groups[0].name)
    return IMPORTANCES[name](found, gather(Draft.of(model, data), data, name, len(inputs)))


# ------------------------------------------------------------------------------------------------- from weights alone


def two_layers() -> nn.Sequential:
    """Three units of two weights each; biases and what reads them do not count."""
    return sequence(
        fc1=given(nn.Linear(2, 3), [[1.0, -2.0], [3.0, 0.5], [0.0, -1.0]], [9.0, 9.0, 9.0]), relu=nn.ReLU(),
        fc2=given(nn.Linear(3, 2), [[7.0, 7.0, 7.0], [8.0, 8.0, 8.0]]),
    )  # fmt: skip


def test_l1_is_lis_sum_of_absolute_kernel_weights() -> None:
    x = torch.randn(2, 2)
    assert scored("l1", two_layers(), x).tolist() == [3.0, 3.5, 1.0]
    kernels = torch.randn(3, 2, 2, 2)
    conv = sequence(conv=nn.Conv2d(2, 3, 2), last=nn.Conv2d(3, 1, 1))
    conv.conv.weight.data = kernels
    literal = [sum(abs(float(w)) for kernel in kernels[j] for row in kernel for w in row) for j in range(3)]
    assert scored("l1", conv, torch.randn(1, 2, 4, 4)).tolist() == pytest.approx(literal)


def test_l2_is_the_euclidean_norm() -> None:
    assert scored("l2", two_layers(), torch.randn(2, 2)).tolist() == pytest.approx([5**0.5, 9.25**0.5, 1.0])


class Tied(nn.Module):
    """Two layers whose outputs are added, each with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = given(nn.Conv1d(1, 2, 1, bias=False), [3.0, -4.0]), given(nn.BatchNorm1d(2), [0.5, -2.0])
        self.b, self.bn_b = given(nn.Conv1d(1, 2, 1, bias=False), [4.0, 1.0]), given(nn.BatchNorm1d(2), [-1.0, 0.25])
        self.last = nn.Conv1d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bn_a(self.a(x)) + self.bn_b(self.b(x))).mean(2)


def test_of_tied_filters_all_count() -> None:
    x = torch.randn(2, 1, 3)
    assert scored("l1", Tied(), x).tolist() == [3.0 + 4.0, 4.0 + 1.0]
    assert scored("l2", Tied(), x).tolist() == pytest.approx([5.0, 17**0.5])
    assert scored("batchnorm", Tied(), x).tolist() == [1.5, 2.25]


def test_a_channel_that_a_grouped_layer_widens_counts_with_all_its_filters() -> None:
    model = sequence(
        first=given(nn.Conv2d(1, 2, 1, bias=False), [1.0, 2.0]),
        depth=given(nn.Conv2d(2, 4, 1, groups=2, bias=False), [10.0, 20.0, 30.0, 40.0]), last=nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    assert scored("l1", model, torch.randn(1, 1, 2, 2)).tolist() == [31.0, 72.0]


def test_a_unit_of_a_recurrent_layer_counts_with_all_its_gates() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    model = Reader()
    rows = model.rnn.weight_ih_l0.abs().sum(1) + model.rnn.weight_hh_l0.abs().sum(1)
    torch.testing.assert_close(scored("l1", model, torch.randn(2, 5, 3)), rows.view(3, 4).sum(0).double())


def test_a_computed_weight_counts_as_it_is_used() -> None:
    model = sequence(fc1=weight_norm(nn.Linear(2, 3)), relu=nn.ReLU(), fc2=nn.Linear(3, 2))
    model.fc1.parametrizations.weight.original0.data *= torch.tensor([[1.0], [10.0], [100.0]])
    torch.testing.assert_close(
        scored("l1", model, torch.randn(2, 2)), model.fc1.weight.detach().abs().sum(1).double(), rtol=1e-6, atol=0
    )


def test_a_group_without_a_norm_cannot_be_ranked_by_one() -> None:
    with pytest.raises(RecipeError, match=r"fc1 has no BatchNorm.*use 'l1' or skip it"):
        scored("batchnorm", two_layers(), torch.randn(2, 2))


# ------------------------------------------------------------------------------------------------------------ taylor


def test_taylor_by_hand() -> None:
    """y = 2 (3 x) + 5 (1 x); the loss is y: gates of the units have the gradients 6 x and 5 x, their biases nothing."""
    model = sequence(
        fc1=given(nn.Linear(1, 2), [[3.0], [1.0]], [0.0, 0.0]), fc2=given(nn.Linear(2, 1), [[2.0, 5.0]], [0.0])
    )
    batches = [torch.tensor([[1.0]]), torch.tensor([[3.0]])]
    scores = scored("taylor", model, *batches, loss=lambda output, _: output.sum())
    assert scores.tolist() == [(6.0**2 + 18.0**2) / 2, (5.0**2 + 15.0**2) / 2]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        nn.init.uniform_(self.bn.bias)
        nn.init.uniform_(self.bn.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv1(x)).relu()
        return self.fc((x + self.conv2(x)).mean((2, 3)))


def test_taylor_is_a_literal_loop_over_batches_and_entries() -> None:
    model, batches = Normed(), [torch.randn(5, 2, 6, 6) for _ in range(3)]
    names = [f"{layer}.{leaf}" for layer in ("conv1", "bn", "conv2") for leaf in ("weight", "bias")]
    literal = [0.0] * 4
    for x in batches:
        model.eval().zero_grad()
        F.cross_entropy(model(x), torch.arange(5) % 2).backward()
        for unit in range(4):
            change = 0.0
            for name in names:
                parameter = model.get_parameter(name)
                weights, gradients = parameter[unit].flatten().tolist(), parameter.grad[unit].flatten().tolist()
                change += sum(weight * gradient for weight, gradient in zip(weights, gradients, strict=True))
            literal[unit] += change**2 / 3
    assert scored("taylor", model.train(), *batches).tolist() == pytest.approx(literal, rel=1e-5)


def test_taylor_is_the_squared_gradient_of_a_gate_on_the_unit() -> None:
    """Where nothing but the filters make a unit, all of its parameters times z are the unit's output times z."""
    model = sequence(fc1=nn.Linear(3, 4), relu=nn.ReLU(), fc2=nn.Linear(4, 2))
    x = torch.randn(8, 3)
    z = torch.ones(4, requires_grad=True)
    gated = {"fc1.weight": model.fc1.weight * z[:, None], "fc1.bias": model.fc1.bias * z}
    F.cross_entropy(functional_call(model, gated, x), torch.arange(8) % 2).backward()
    torch.testing.assert_close(scored("taylor", model, x), z.grad.double().square(), rtol=1e-5, atol=1e-9)


def test_gathering_leaves_the_model_without_gradients() -> None:
    model = Normed().train()
    scored("taylor", model, torch.randn(4, 2, 6, 6))
    assert model.training and all(each.grad is None for each in model.parameters())


# -------------------------------------------------------------------------------------------------------- activation


def test_activation_by_hand() -> None:
    """Unit 0 is the input, unit 1 half of it but for negatives; inputs 1, -2, 3: mean squares 14/3, of ReLUs 10/3."""
    model = sequence(
        fc1=given(nn.Linear(1, 2), [[1.0], [0.5]], [0.0, 0.0]), relu=nn.ReLU(), fc2=nn.Linear(2, 2)
    )  # fmt: skip
    scores = scored("activation", model, torch.tensor([[1.0], [-2.0], [3.0]]))
    assert scores.tolist() == pytest.approx([10 / 3, 10 / 12])


def test_activation_of_a_channel_is_what_all_its_pixels_have_together() -> None:
    model = sequence(conv=nn.Conv2d(1, 3, 1), relu=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(12, 2))
    x = torch.randn(5, 1, 2, 2)
    seen = model.relu(model.conv(x)).detach().double()
    literal = [sum(float(seen[:, c, i, j].square().mean()) for i in (0, 1) for j in (0, 1)) for c in range(3)]
    assert scored("activation", model, x).tolist() == pytest.approx(literal)


def test_activation_orders_alike_over_several_batches() -> None:
    model, batches = Normed(), [torch.randn(6, 2, 6, 6) for _ in range(2)]
    some, every = scored("activation", model, *batches), scored("activation", model, torch.cat(batches))
    torch.testing.assert_close(some / some.sum(), every / every.sum())


def test_a_group_that_no_watched_layer_reads_is_named() -> None:
    model = sequence(conv=nn.Conv2d(1, 4, 1), up=nn.ConvTranspose2d(4, 2, 2), flatten=nn.Flatten())
    for name in ("activation", "reconstruction"):
        with pytest.raises(
            RecipeError, match=rf"^conv: .*importance '{'activation' if name == 'activation' else 'l1'}'"
        ):
            scored(name, model, torch.randn(2, 1, 2, 2))


@pytest.mark.parametrize("kind", ["grouped", "transposed"])
def test_readers_in_groups_and_tied_ones_are_no_obstacle(kind: str) -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.fc(x).tanh(), self.fc.weight.t())

    if kind == "grouped":
        model = sequence(conv=nn.Conv2d(2, 8, 1), grouped=nn.Conv2d(8, 4, 1, groups=2), flatten=nn.Flatten())
        scores = scored("activation", model, torch.randn(2, 2, 1, 1), group="conv")
        assert scores.shape == (4,)
    else:
        with pytest.raises(RecipeError, match="importance 'activation'"):
            scored("activation", Autoencoder(), torch.randn(2, 2))


# --------------------------------------------------------------------------------------------------- reconstruction


def refitted(x: np.ndarray, weight: np.ndarray, columns: list[int], damping: float = 0.0) -> float:
    """The mean squared error of W x, by lstsq, when columns of x go and the others are fitted anew."""
    x = x - x.mean(0)
    kept = [each for each in range(x.shape[1]) if each not in columns]
    pull = np.sqrt(damping * len(x)) * np.eye(x.shape[1])
    rows, wanted = np.concatenate([x, pull]), np.concatenate([x, pull]) @ weight.T
    solution = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)[0]
    return float(np.square(rows[:, kept] @ solution - wanted).sum() / len(x))


def seen_by(model: nn.Sequential, layer: str, x: Tensor) -> np.ndarray:
    """What a dense layer of a sequence reads, (rows, inputs)."""
    for name, module in model.named_children():
        if name == layer:
            return x.detach().double().numpy()
        x = module(x)
    raise AssertionError


def test_reconstruction_of_the_first_unit_is_what_lstsq_says() -> None:
    model, x = sequence(fc1=nn.Linear(5, 6), relu=nn.ReLU(), fc2=nn.Linear(6, 3)), torch.randn(200, 5)
    scores = scored("reconstruction", model, x).numpy()
    inputs, weight = seen_by(model, "fc2", x), model.fc2.weight.detach().double().numpy()
    whole = np.square((inputs - inputs.mean(0)) @ weight.T).sum() / len(inputs)
    damping = 1e-4 * inputs.var(0).mean()
    losses = [refitted(inputs, weight, [unit], damping) / whole for unit in range(6)]
    first = int(np.argmin(losses))
    assert int(scores.argmin()) == first
    assert scores[first] == pytest.approx(losses[first], rel=1e-6)
    assert scores[first] == pytest.approx(refitted(inputs, weight, [first]) / whole, rel=0.01)


def test_reconstruction_goes_on_from_what_is_left() -> None:
    """The costs of one after the other, each the least of what then remains, add up to what all of them cost."""
    model, x = sequence(fc1=nn.Linear(5, 6), tanh=nn.Tanh(), fc2=nn.Linear(6, 3)), torch.randn(200, 5)
    scores = scored("reconstruction", model, x).numpy()
    inputs, weight = seen_by(model, "fc2", x), model.fc2.weight.detach().double().numpy()
    whole = np.square((inputs - inputs.mean(0)) @ weight.T).sum() / len(inputs)
    damping = 1e-4 * inputs.var(0).mean()
    gone: list[int] = []
    last = before = 0.0
    while len(gone) < 6:
        losses = {unit: refitted(inputs, weight, [*gone, unit], damping) for unit in range(6) if unit not in gone}
        best = min(losses, key=losses.__getitem__)
        last = max(last, (losses[best] - before) / whole)
        assert scores[best] == pytest.approx(last, rel=1e-5), gone
        gone.append(best)
        before = losses[best]


def test_reconstruction_of_a_convolutions_reader_takes_all_places_of_a_window() -> None:
    model, x = sequence(conv1=nn.Conv2d(1, 3, 1), relu=nn.ReLU(), conv2=nn.Conv2d(3, 2, 2)), torch.randn(20, 1, 4, 4)
    scores = scored("reconstruction", model, x).numpy()
    inputs = F.unfold(model.relu(model.conv1(x)), 2).transpose(1, 2).flatten(0, 1).detach().double().numpy()
    weight = model.conv2.weight.detach().flatten(1).double().numpy()
    whole = np.square((inputs - inputs.mean(0)) @ weight.T).sum() / len(inputs)
    damping = 1e-4 * inputs.var(0).mean()
    losses = [refitted(inputs, weight, list(range(4 * c, 4 * c + 4)), damping) / whole for c in range(3)]
    assert scores.min() == pytest.approx(min(losses), rel=1e-6) and scores.argmin() == np.argmin(losses)


def test_reconstruction_knows_what_others_make_up_for() -> None:
    """Unit 2 is unit 0 plus unit 3: one of the three may go, then none; unit 1 is never read."""
    model = sequence(
        fc1=given(nn.Linear(3, 4), [[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 1.0], [0, 0, 1.0]], [0.0] * 4),
        fc2=given(nn.Linear(4, 2), [[1.0, 0.0, 5.0, 1.0], [2.0, 0.0, 5.0, -1.0]]),
    )
    scores = scored("reconstruction", model, torch.randn(300, 3))
    assert scores[1] < 1e-9
    spare, *needed = sorted(scores[[0, 2, 3]].tolist())
    assert spare < 1e-4 and min(needed) > 0.01


def test_the_same_data_give_the_same_scores() -> None:
    """Also where patches are drawn by lot, which leaves the global generator alone."""
    model, x = sequence(conv1=nn.Conv2d(1, 3, 1), conv2=nn.Conv2d(3, 2, 1)), torch.randn(30, 1, 16, 16)
    state = torch.get_rng_state()
    assert torch.equal(scored("reconstruction", model, x), scored("reconstruction", model, x))
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------------------- all


def test_the_importances_are_these() -> None:
    assert list(IMPORTANCES) == ["l1", "l2", "batchnorm", "taylor", "activation", "reconstruction"]
    assert set(NEED_DATA) < set(IMPORTANCES)


@pytest.mark.parametrize("name", IMPORTANCES)
def test_no_score_is_negative_and_the_model_is_left_as_it_was(name: str) -> None:
    model = Normed().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scores = scored(name, model, torch.randn(6, 2, 6, 6))
    assert scores.shape == (4,) and scores.dtype == torch.float64 and (scores >= 0).all()
    assert model.training and all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["taylor", "activation"])
def test_an_empty_loader_is_named(name: str) -> None:
    data = Task(train=[], validation=[], example=torch.randn(1, 2), loss=F.cross_entropy)
    with pytest.raises(TaskError, match="the train loader is empty"):
        gather(Draft.of(two_layers(), data), data, name, 1)
