"""Readers that make up for what they lost: absorbed means by hand, fits against lstsq, patches against a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoct.apply import extend
from decoct.plan import Draft, Edit, Keep
from decoct.prune.reconstruct import DAMPING, _patches, absorbed, fitted
from decoct.task import Task


def task(*inputs: Tensor) -> Task:
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in inputs]
    return Task(train=batches, validation=batches, example=inputs[0][:1], loss=F.cross_entropy)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def removal(before: Draft, gone: dict[tuple[str, int], list[int]]) -> tuple[Draft, dict[tuple[str, int], np.ndarray]]:
    """The draft without these positions, and the positions as bool arrays."""
    tensors = before.tensors()
    edits: list[Edit] = []
    positions = {}
    for (name, dim), index in gone.items():
        there = np.zeros(tensors[name].shape[dim], dtype=bool)
        there[index] = True
        positions[name, dim] = there
        edits.append(Keep(name, dim, torch.from_numpy(np.flatnonzero(~there)), len(there)))
    return extend(before, edits), positions


def hidden(units: list[int], first: int = 0, second: int = 1) -> dict[tuple[str, int], list[int]]:
    """The positions of the units between two layers of a Sequential."""
    return {(f"{first}.weight", 0): units, (f"{first}.bias", 0): units, (f"{second}.weight", 1): units}


def dense(*rows: list[float], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        layer.bias.copy_(torch.tensor(bias))
    return layer


# ------------------------------------------------------------------------------------------------------------- absorbed


def test_a_constant_unit_is_absorbed_exactly() -> None:
    """Unit 1 is 5 whatever comes in; the reader's columns for it are 2 and -1: its biases become 0.5 + 10 and 1 - 5."""
    first = dense([1.0, 2.0], [0.0, 0.0], [3.0, -1.0], bias=[0.0, 5.0, 0.0])
    before = Draft.of(nn.Sequential(first, dense([1.0, 2.0, 3.0], [4.0, -1.0, 6.0], bias=[0.5, 1.0])))
    after, gone = removal(before, hidden([1]))
    x = random(6, 2)
    edits = absorbed(before, after, task(x), gone, 1)
    assert [{name: values.tolist() for name, values in edit.tensors.items()} for edit in edits] == [  # type: ignore[union-attr]
        {"1.bias": [10.5, -4.0]}
    ]
    torch.testing.assert_close(extend(after, edits).model(x), before.model(x), rtol=1e-6, atol=1e-6)


def test_of_a_unit_that_varies_its_mean_is_absorbed() -> None:
    """Unit 0 is the input: 1, 2 in the first batch, 3, 6 in the second: 3 on average; the third is not looked at."""
    before = Draft.of(nn.Sequential(dense([1.0], [1.0], bias=[0.0, 0.0]), dense([10.0, 1.0], bias=[0.5])))
    after, gone = removal(before, hidden([0]))
    data = task(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [6.0]]), torch.tensor([[1000.0]]))
    (edit,) = absorbed(before, after, data, gone, 2)
    assert edit.tensors["1.bias"].tolist() == [30.5]  # type: ignore[union-attr]


def test_a_reader_that_loses_outputs_too_keeps_the_right_biases() -> None:
    first = dense([0.0], [1.0], bias=[2.0, 0.0])
    second = dense([1.0, 1.0], [10.0, 1.0], [100.0, 1.0], bias=[0.0, 0.0, 0.0])
    before = Draft.of(nn.Sequential(first, second, nn.Linear(3, 2)))
    after, gone = removal(before, hidden([0]) | hidden([1], 1, 2))
    (edit,) = absorbed(before, after, task(random(4, 1)), gone, 1)
    assert edit.tensors["1.bias"].tolist() == [2.0, 200.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"dilation": 2}, {"padding": 1}], ids=str)
def test_a_constant_channel_of_a_convolution_is_absorbed_but_for_padded_borders(settings: dict[str, int]) -> None:
    before = Draft.of(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3, **settings)))
    nn.init.zeros_(before.model[0].weight[2])
    after, gone = removal(before, hidden([2]))
    x = random(3, 2, 9, 9)
    edits = absorbed(before, after, task(x), gone, 1)
    error = (extend(after, edits).model(x) - before.model(x)).abs()
    assert error[..., 1:-1, 1:-1].max() < 1e-5
    assert (error.max() > 1e-3) == ("padding" in settings)


def test_readers_without_a_bias_are_left() -> None:
    before = Draft.of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)))
    after, gone = removal(before, hidden([0]))
    assert absorbed(before, after, task(random(4, 3)), gone, 1) == []


# --------------------------------------------------------------------------------------------------------------- fitted


def lstsq(x: np.ndarray, y: np.ndarray, start: np.ndarray, damping: float = 0.0) -> np.ndarray:
    """The matrix nearest to y = x W, (inputs + 1, outputs); with damping also a little near to `start`."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    pull = np.sqrt(damping * (x[:, :-1] ** 2).sum(0).mean())
    rows = np.concatenate([x, pull * np.eye(x.shape[1])])
    return np.linalg.lstsq(rows, np.concatenate([y, pull * start]), rcond=None)[0]


def of(layer: Any) -> np.ndarray:
    """A layer's matrix as `lstsq` has it."""
    return torch.cat([layer.weight.flatten(1).T, layer.bias[None]]).detach().double().numpy()


def error(model: nn.Module, x: Tensor, wanted: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - wanted).square().sum())


def test_a_dense_layer_is_fitted_as_by_lstsq() -> None:
    before = Draft.of(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    after, gone = removal(before, hidden([1, 6], 0, 2))
    batches = [random(40, 5, seed=seed) for seed in (1, 2)]
    fit = extend(after, fitted(before, after, task(*batches, random(9, 5)), gone, 2)).model
    x = torch.cat(batches)
    wanted, seen = before.model(x).detach(), after.model[:2](x).detach()
    arrays = seen.double().numpy(), wanted.double().numpy(), of(after.model[2])
    np.testing.assert_allclose(of(fit[2]), lstsq(*arrays, DAMPING), rtol=1e-5, atol=1e-6)
    exact = lstsq(*arrays)
    assert np.abs(of(fit[2]) - exact).max() < 0.1 * np.abs(of(after.model[2]) - exact).max()
    best = np.square(np.c_[arrays[0], np.ones(80)] @ exact - arrays[1]).sum()
    assert best * (1 - 1e-6) <= error(fit, x, wanted) < best * 1.001
    assert error(fit, x, wanted) < 0.9 * error(after.model, x, wanted)
    assert torch.equal(fit[0].weight, after.model[0].weight)


@pytest.mark.parametrize("units", [[0], [0, 1, 2], [1, 2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("rows", [2, 5, 60])
def test_a_fit_is_never_worse_than_none(units: list[int], rows: int) -> None:
    """Also where there are fewer rows than weights."""
    for seed in range(3):
        torch.manual_seed(seed)
        before = Draft.of(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))
        after, gone = removal(before, hidden(units, 0, 2))
        x = random(rows, 5, seed=seed)
        fit = extend(after, fitted(before, after, task(x), gone, 1)).model
        wanted = before.model(x).detach()
        assert error(fit, x, wanted) <= error(after.model, x, wanted) * (1 + 1e-6)


def test_a_unit_that_is_a_sum_of_others_is_not_missed() -> None:
    first = dense([1.0, 0.0], [0.0, 1.0], [2.0, -1.0], bias=[0.0, 0.0, 3.0])
    before = Draft.of(nn.Sequential(first, nn.Linear(3, 2)))
    after, gone = removal(before, hidden([2]))
    x = random(500, 2)
    fit = extend(after, fitted(before, after, task(x), gone, 1)).model
    torch.testing.assert_close(fit(x), before.model(x), rtol=0.02, atol=0.02)


def test_without_a_bias_only_the_spread_is_fitted() -> None:
    """The mean is left to the BatchNorm behind it."""
    before = Draft.of(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)))
    after, gone = removal(before, hidden([1, 6], 0, 2))
    x = random(60, 5)
    (edit,) = fitted(before, after, task(x), gone, 1)
    assert set(edit.tensors) == {"2.weight"}  # type: ignore[union-attr]
    wanted = before.model(x).detach()
    spread = [(model(x) - wanted).var(0).sum() for model in (extend(after, [edit]).model, after.model)]
    assert spread[0] < spread[1]


def test_each_layer_is_fitted_on_what_it_will_really_see() -> None:
    """The last on the outputs of the one before it as it was fitted, not as it was."""
    before = Draft.of(nn.Sequential(*[nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)]))
    after, gone = removal(before, hidden([0, 3], 0, 2) | hidden([1], 2, 4))
    x = random(80, 6)
    fit = extend(after, fitted(before, after, task(x), gone, 1)).model
    seen, wanted = fit[:4](x).detach().double().numpy(), before.model(x).detach().double().numpy()
    np.testing.assert_allclose(of(fit[4]), lstsq(seen, wanted, of(after.model[4]), DAMPING), rtol=1e-4, atol=1e-5)


def literal(layer: nn.Conv2d, x: Tensor, padding: tuple[int, int]) -> Tensor:
    """What each output is computed from, entry by entry: (rows, fan-in), zero beyond the border."""
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    _, channels, height, width = x.shape
    tall = (height + 2 * padding[0] - dh * (kh - 1) - 1) // sh + 1
    wide = (width + 2 * padding[1] - dw * (kw - 1) - 1) // sw + 1
    rows = torch.zeros(len(x), tall, wide, channels, kh, kw)
    for i, j, u, v in product(range(tall), range(wide), range(kh), range(kw)):
        row, column = i * sh + u * dh - padding[0], j * sw + v * dw - padding[1]
        if 0 <= row < height and 0 <= column < width:
            rows[:, i, j, :, u, v] = x[:, :, row, column]
    return rows.flatten(0, 2).flatten(1)


SHAPES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"kernel_size": 3}, (0, 0)),
    ({"kernel_size": 1, "stride": 2}, (0, 0)),
    ({"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}, (1, 0)),
    ({"kernel_size": 3, "dilation": 2, "padding": 2}, (2, 2)),
    ({"kernel_size": 3, "stride": 2, "dilation": (1, 2), "padding": 1}, (1, 1)),
    ({"kernel_size": 3, "padding": "same"}, (1, 1)),
]


@pytest.mark.parametrize(("settings", "padding"), SHAPES, ids=str)
def test_patches_are_those_of_a_plain_loop(settings: dict[str, Any], padding: tuple[int, int]) -> None:
    layer, x = nn.Conv2d(3, 4, **settings), random(2, 3, 8, 7)
    rows = _patches(layer, x)
    assert torch.equal(rows, literal(layer, x, padding))
    outputs = rows @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(outputs, layer(x).movedim(1, -1).flatten(0, -2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_patches_of_other_paddings_give_the_outputs(mode: str) -> None:
    layer, x = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode), random(2, 3, 8, 7)
    outputs = _patches(layer, x) @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(outputs, layer(x).movedim(1, -1).flatten(0, -2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("settings", "padding"), SHAPES, ids=str)
def test_a_convolution_is_fitted_as_by_lstsq_on_its_patches(settings: dict[str, Any], padding: tuple[int, int]) -> None:
    before = Draft.of(nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, **settings)))
    after, gone = removal(before, hidden([0, 3], 0, 2) | {("2.weight", 0): [1], ("2.bias", 0): [1]})
    x = random(4, 2, 10, 9)
    fit = extend(after, fitted(before, after, task(x), gone, 1)).model
    wanted = before.model(x)[:, [0, 2]].detach()
    seen = literal(after.model[2], after.model[:2](x).detach(), padding).double().numpy()
    best = lstsq(seen, wanted.movedim(1, -1).flatten(0, -2).double().numpy(), of(after.model[2]), DAMPING)
    np.testing.assert_allclose(of(fit[2]), best, rtol=1e-4, atol=1e-5)
    assert error(fit, x, wanted) < error(after.model, x, wanted)
