"""The check of every cut: what is right passes, what is wrong is found and left, and the rest still goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoct.apply import apply
from decoct.errors import PlanError
from decoct.graph import groups
from decoct.graph.removal import cuts, masked
from decoct.plan import Attribute
from decoct.selfcheck import difference, verified


class Net(nn.Module):
    """Two branches of a hidden layer each, and what a case makes of them."""

    def __init__(self, join: Callable[[Tensor, Tensor], Any], middle: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(5, 8, bias=False), nn.Linear(5, 8, bias=False)
        self.out_a, self.out_b = nn.Linear(8, 3, bias=False), nn.Linear(8, 3, bias=False)
        self.join, self.middle = join, middle

    def forward(self, x: Tensor) -> Any:
        a, b = self.middle(self.a(x)), self.b(x).relu()
        return self.join(self.out_a(a), self.out_b(b))


class Turning(Net):
    """The sign turns where eight channels or fewer are left."""

    def forward(self, x: Tensor) -> Any:
        made = super().forward(x)
        return -made if self.a.out_features + self.b.out_features <= 8 else made


EXAMPLE = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
HALF = {"a": [1, 3, 5, 7], "b": [0, 1, 2, 3]}


def rolled(x: Tensor) -> Tensor:
    """Wrong where channels are gone: others are then rolled to a place."""
    return x.relu().roll(3, 1)


def test_what_is_right_is_cut() -> None:
    model = Net(lambda a, b: torch.cat([a, b], 1)).train()
    graph = groups(model, EXAMPLE)
    edits, refused = verified(model, EXAMPLE, graph, HALF)
    assert refused == {} and model.training
    smaller = apply(model, edits)
    assert (smaller.a.out_features, smaller.out_b.in_features) == (4, 4)
    assert difference(masked(model, graph, HALF), smaller, EXAMPLE) < 1e-12
    assert difference(model, smaller, EXAMPLE) > 1e-3


@pytest.mark.parametrize("removed", [{}, {"a": []}])
def test_nothing_is_nothing(removed: dict[str, list[int]]) -> None:
    model = Net(lambda a, b: a + b)
    assert verified(model, EXAMPLE, groups(model, EXAMPLE), removed) == ([], {})


def test_a_wrong_group_is_left_and_the_other_goes() -> None:
    model = Net(lambda a, b: torch.cat([a, b], 1), rolled)
    edits, refused = verified(model, EXAMPLE, groups(model, EXAMPLE), HALF)
    assert set(refused) == {"a"}
    assert "the smaller model's outputs differ from the masked model's by" in refused["a"]
    smaller = apply(model, edits)
    assert (smaller.a.out_features, smaller.b.out_features) == (8, 4)


def test_groups_that_are_right_alone_and_wrong_together_go_as_far_as_they_agree() -> None:
    model = Turning(lambda a, b: a + b)
    edits, refused = verified(model, EXAMPLE, groups(model, EXAMPLE), HALF)
    assert set(refused) == {"b"} and refused["b"].startswith("with the others: the smaller model's outputs differ")
    assert apply(model, edits).a.out_features == 4


def test_an_example_that_hides_the_error_is_not_the_only_input() -> None:
    """Zeros give zeros, whatever is wrong."""
    model = Net(lambda a, b: torch.cat([a, b], 1), rolled)
    still = torch.zeros(2, 5)
    graph = groups(model, still)
    assert torch.equal(apply(model, cuts(graph, HALF))(still), model(still))
    _, refused = verified(model, still, graph, HALF)
    assert set(refused) == {"a"}


def test_outputs_that_are_whole_numbers_count_too() -> None:
    model = Net(lambda a, b: (a + 2 * b > 0).long() + (a > b) * 2, rolled)
    _, refused = verified(model, EXAMPLE, groups(model, EXAMPLE), HALF)
    assert set(refused) == {"a"}
    right = Net(lambda a, b: ((a + 2 * b > 0).long() + (a > b) * 2,))
    assert verified(right, EXAMPLE, groups(right, EXAMPLE), HALF)[1] == {}


def test_outputs_that_are_no_numbers_are_refused() -> None:
    model = Net(lambda a, b: (a / 0 * 0, b))
    _, refused = verified(model, EXAMPLE, groups(model, EXAMPLE), HALF)
    assert set(refused) == set(HALF) and "differ from the masked model's by inf" in refused["a"]


def test_a_shape_that_changes_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"an output of \(2, 3\) becomes one of \(2, 4\)"):
        difference(nn.Linear(5, 3), nn.Linear(5, 4), EXAMPLE)


def test_a_forward_that_fixes_its_dtype_is_checked_in_it() -> None:
    class Single(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.out_a(self.a(x.float()).relu())

    model = Single(lambda a, b: a)
    assert verified(model, EXAMPLE, groups(model, EXAMPLE), {"a": [0, 2]})[1] == {}


class Heads(nn.Module):
    """Numbers of its own, two of which count heads, and one that only happens to be as large."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.heads, self.layers, self.mix, self.out = 4, layers, nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x).unflatten(1, (self.heads, 2)) / self.layers
        return self.out(x.softmax(2).flatten(1))


@pytest.mark.parametrize("layers", [4, 5])
def test_only_numbers_that_count_what_goes_are_changed(layers: int) -> None:
    model = Heads(layers)
    graph = groups(model, EXAMPLE)
    assert [(group.name, group.size) for group in graph.groups] == [("mix", 4)]
    edits, refused = verified(model, EXAMPLE, graph, {"mix": [1]})
    assert refused == {}
    assert [edit for edit in edits if isinstance(edit, Attribute)] == [Attribute("", "heads", 3)]
