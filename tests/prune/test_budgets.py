"""Which weights stay: each rule beside a literal, slow version of itself."""

from itertools import product

import pytest
import torch

from decoct.prune import budgets


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "wide": torch.randn(6, 9, generator=generator),
        "small": torch.randn(2, 3, generator=generator) * 10,
        "conv": torch.randn(4, 3, 3, 3, generator=generator),
    }


def slow_top(scores: list[float], count: int) -> list[bool]:
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return [place in order[:count] for place in range(len(scores))]


@pytest.mark.parametrize("count", [1, 3, 6, 7])
def test_top_keeps_the_largest_and_of_equals_the_first(count: int) -> None:
    scores = [1.0, 3.0, 3.0, 0.0, 3.0, 2.0, 0.0]
    assert budgets.top(torch.tensor(scores), count).tolist() == slow_top(scores, count)


def test_top_keeps_at_least_one() -> None:
    assert budgets.top(torch.tensor([0.0, 2.0]), 0).tolist() == [False, True]


def test_by_layer_by_hand() -> None:
    weight = torch.tensor([[0.1, -0.5, 0.2], [0.4, -0.05, 0.3]])
    masks = budgets.by_layer({"w": weight}, {"w": 0.5})
    assert masks["w"].tolist() == [[False, True, False], [True, False, True]]


def test_by_quality_is_the_papers_threshold() -> None:
    weight = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])  # its standard deviation is sqrt(2.5) = 1.58
    assert budgets.by_quality({"w": weight}, {"w": 1.0})["w"].tolist() == [True, False, False, False, True]
    assert budgets.by_quality({"w": weight}, {"w": 0.5})["w"].tolist() == [True, True, False, True, True]


def test_by_global_is_one_threshold() -> None:
    weights = tensors()
    masks = budgets.by_global(weights, 0.25)
    everything = torch.cat([weight.flatten().abs() for weight in weights.values()])
    assert torch.cat([mask.flatten() for mask in masks.values()]).tolist() == slow_top(everything.tolist(), 42)


def test_lamp_is_its_formula() -> None:
    weight = tensors()["wide"]
    squares = [value**2 for value in weight.double().flatten().tolist()]
    literal = [one / sum(other for other in squares if other >= one) for one in squares]
    torch.testing.assert_close(budgets.lamp(weight).flatten(), torch.tensor(literal, dtype=torch.float64))
    assert budgets.lamp(weight).max() == 1.0


def test_lamp_keeps_the_largest_weight_of_every_tensor() -> None:
    weights = tensors() | {"tiny": torch.full((5, 5), 1e-6)}
    masks = budgets.by_lamp(weights, 0.05)
    assert all(mask.any() for mask in masks.values())


def test_lamp_of_an_all_zero_tensor_is_zero_and_keeps_one_entry() -> None:
    masks = budgets.by_lamp(tensors() | {"dead": torch.zeros(4, 4)}, 0.5)
    assert masks["dead"].sum() == 1


@pytest.mark.parametrize("density", [0.05, 0.3, 0.8])
def test_erk_reaches_the_density_and_orders_by_shape(density: float) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in tensors().items()}
    found = budgets.erk(shapes, density)
    sizes = {name: weight.numel() for name, weight in tensors().items()}
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx(density * sum(sizes.values()))
    assert all(0 <= value <= 1 for value in found.values())
    assert found["small"] >= found["wide"]


def test_erk_below_the_cap_is_proportional() -> None:
    found = budgets.erk({"a": (100, 100), "b": (100, 200)}, 0.05)
    assert found["a"] / found["b"] == pytest.approx((200 / 10_000) / (300 / 20_000))


@pytest.mark.parametrize(("rule", "density"), list(product(["by_global", "by_lamp", "by_erk"], [0.1, 0.5])))
def test_every_rule_keeps_its_count(rule: str, density: float) -> None:
    weights = tensors()
    kept = sum(int(mask.sum()) for mask in getattr(budgets, rule)(weights, density).values())
    assert kept == pytest.approx(density * sum(weight.numel() for weight in weights.values()), abs=len(weights))
