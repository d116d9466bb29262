"""How many units go: cases by hand, each rule beside a literal version of itself, and what holds for all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from decoct.errors import RecipeError
from decoct.prune.widths import STEPS, Limits, Removal, by_ratio, cheapest, globally, least_that_fits, lowest

ANY = Limits()

values = st.integers(0, 6).map(float)  # few of them, so that ties are common
tables = st.dictionaries(st.sampled_from("abcd"), st.lists(values, min_size=1, max_size=8), min_size=1, max_size=4)
limits = st.builds(Limits, st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.integers(1, 5))


def scores(**lists: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(each, dtype=torch.float64) for name, each in lists.items()}


def plain(removal: Removal) -> dict[str, list[int]]:
    return {name: units.tolist() for name, units in removal.items()}


# What may be kept


@pytest.mark.parametrize(
    ("fields", "size", "wanted", "kept"),
    [
        ({}, 10, 4.0, 4),
        ({}, 10, 3.2, 4),  # a part of a unit is a unit
        ({}, 10, 0.0, 1),  # a group is never emptied
        ({}, 10, (1 - 0.3) * 10, 7),  # 7.000000000000001 is 7
        ({"minimum": 5}, 10, 3.0, 5),
        ({"minimum": 50}, 10, 3.0, 10),
        ({"least": 0.25}, 10, 1.0, 3),  # at least the share: 2.5 is rounded up
        ({"least": 0.3}, 10, 1.0, 3),
        ({"least": 1.0}, 10, 1.0, 10),
        ({"multiple": 4}, 16, 5.0, 8),
        ({"multiple": 4}, 16, 8.0, 8),
        ({"multiple": 4}, 10, 9.0, 10),  # 12 there are not
        ({"multiple": 8}, 5, 1.0, 5),
        ({"minimum": 3, "least": 0.5, "multiple": 4}, 16, 1.0, 8),
    ],
)
def test_kept_by_hand(fields: dict, size: int, wanted: float, kept: int) -> None:
    assert Limits(**fields).kept(size, wanted) == kept


@given(limits, st.integers(1, 40), st.floats(0, 40))
def test_kept_respects_every_limit(limits: Limits, size: int, wanted: float) -> None:
    kept = limits.kept(size, min(wanted, size))
    assert min(max(limits.minimum, limits.least * size, min(wanted, size)), size) - 1e-9 <= kept <= size
    assert kept % limits.multiple == 0 or kept == size
    assert kept >= 1
    assert limits.kept(size, kept) == kept, "what is allowed stays as it is"


@given(limits, st.integers(1, 40), st.floats(0, 40), st.floats(0, 40))
def test_who_wants_more_keeps_no_less(limits: Limits, size: int, one: float, other: float) -> None:
    assert limits.kept(size, min(one, other)) <= limits.kept(size, max(one, other))


# Which go


def test_the_lowest_go_and_of_equals_the_later() -> None:
    given = torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0])
    assert [lowest(given, count).tolist() for count in range(6)] == [
        [], [4], [2, 4], [1, 2, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4],
    ]  # fmt: skip


def test_by_ratio_by_hand() -> None:
    table = scores(a=[5, 1, 4, 2], b=[1, 2, 3, 4, 5])
    assert plain(by_ratio(table, {"a": 0.5, "b": 0.2}, ANY)) == {"a": [1, 3], "b": [0]}
    assert plain(by_ratio(table, {"a": 0.6, "b": 0.5}, ANY)) == {"a": [1, 2, 3], "b": [0, 1, 2]}, "rounded up"
    assert plain(by_ratio(table, {"a": 0.0, "b": 0.99}, Limits(least=0.4))) == {"a": [], "b": [0, 1, 2]}
    assert plain(by_ratio(table, {"a": 0.75, "b": 0.8}, Limits(multiple=2))) == {"a": [1, 3], "b": [0, 1, 2]}


def test_globally_by_hand() -> None:
    table = scores(a=[1, 9, 2], b=[8, 3, 7, 4])
    found = [plain(globally(table, count, ANY)) for count in (0, 1, 3, 4)]
    assert found == [
        {"a": [], "b": []}, {"a": [0], "b": []}, {"a": [0, 2], "b": [1]}, {"a": [0, 2], "b": [1, 3]},
    ]  # fmt: skip
    assert plain(globally(table, 7, ANY)) == {"a": [0, 2], "b": [1, 2, 3]}, "each keeps its best"
    assert plain(globally(table, 4, Limits(minimum=2))) == {"a": [0], "b": [1, 3]}
    assert plain(globally(table, 4, Limits(multiple=4))) == {"a": [], "b": []}
    assert globally({}, 3, ANY) == {}


def test_of_equals_the_later_group_goes_first() -> None:
    assert plain(globally(scores(a=[1, 1], b=[1, 1]), 1, ANY)) == {"a": [], "b": [1]}


@given(tables, st.integers(0, 32))
def test_globally_is_one_threshold(lists: dict[str, list[float]], count: int) -> None:
    """Literally: sort everything, take the first; a group that would lose all keeps its best."""
    table = scores(**lists)
    places = [(value, -number, name) for number, (name, value) in enumerate(
        (name, value) for name, each in lists.items() for value in each)]  # fmt: skip
    losses = dict.fromkeys(lists, 0)
    for _, _, name in sorted(places)[:count]:
        losses[name] += 1
    removal = globally(table, count, ANY)
    assert {name: len(units) for name, units in removal.items()} == {
        name: min(losses[name], len(lists[name]) - 1) for name in lists
    }


@given(tables, limits, st.floats(0, 1))
def test_what_goes_is_no_better_than_what_stays(lists: dict[str, list[float]], limits: Limits, share: float) -> None:
    table = scores(**lists)
    total = sum(map(len, lists.values()))
    for removal in (
        by_ratio(table, dict.fromkeys(lists, share), limits),
        globally(table, round(share * total), limits),
    ):
        assert list(removal) == list(lists)
        for name, units in removal.items():
            kept = np.setdiff1d(np.arange(len(lists[name])), units)
            assert len(kept) == limits.kept(len(lists[name]), len(kept))
            assert list(units) == sorted(set(units))
            assert not len(units) or table[name][units].max() <= table[name][kept].min()


# As much as a budget allows


def test_least_that_fits_by_hand() -> None:
    table = scores(a=[1, 2, 3, 4], b=[5, 6, 7, 8])

    def removals(strength: float) -> Removal:
        return globally(table, round(strength * 8), ANY)

    def cost(removal: Removal) -> float:
        return 10 * (4 - len(removal["a"])) + 1 * (4 - len(removal["b"]))

    assert cost(removals(0)) == 44
    assert plain(least_that_fits(removals, cost, 44, "a budget")) == {"a": [], "b": []}
    assert plain(least_that_fits(removals, cost, 43, "a budget")) == {"a": [0], "b": []}
    assert plain(least_that_fits(removals, cost, 24, "a budget")) == {"a": [0, 1], "b": []}
    assert plain(least_that_fits(removals, cost, 13, "a budget")) == {"a": [0, 1, 2], "b": [0]}
    with pytest.raises(RecipeError, match=r"a budget of 10 cannot be reached: .* 11 are left"):
        least_that_fits(removals, cost, 10, "a budget")


@given(tables, limits, st.floats(0, 1))
def test_least_that_fits_is_within_the_budget_and_the_mildest_is(
    lists: dict[str, list[float]], limits: Limits, share: float
) -> None:
    table, total = scores(**lists), sum(map(len, lists.values()))

    def removals(strength: float) -> Removal:
        return globally(table, round(strength * total), limits)

    def left(removal: Removal) -> float:
        return total - sum(map(len, removal.values()))

    budget = share * total
    fits = [count for count in range(total + 1) if left(globally(table, count, limits)) <= budget]
    if fits:
        found = least_that_fits(removals, left, budget, "a budget")
        assert plain(found) == plain(globally(table, fits[0], limits))
    else:
        with pytest.raises(RecipeError, match="cannot be reached"):
            least_that_fits(removals, left, budget, "a budget")


def test_cheapest_by_hand() -> None:
    """From a: 1 for 4, 3 for 8; from b: 2 for 5, 7 for 9."""
    table = scores(a=[2, 9, 1], b=[2, 5, 8])
    savings = {"a": {3: 0.0, 2: 4.0, 1: 8.0}, "b": {3: 0.0, 2: 5.0, 1: 9.0}}
    chosen = {
        3: {"a": [2], "b": []},
        5: {"a": [], "b": [0]},
        6: {"a": [0, 2], "b": []},  # 8 for 3; one of each is 9 for 3 too
        10: {"a": [0, 2], "b": [0]},
        14: {"a": [0, 2], "b": [0, 1]},
        17: {"a": [0, 2], "b": [0, 1]},
    }
    for need, removal in chosen.items():
        found = cheapest(table, savings, float(need), "a budget")
        lost = sum(float(table[name][units].sum()) for name, units in found.items())
        assert lost == sum(float(table[name][units].sum()) for name, units in removal.items()), need
        assert saved_by(found, savings, table) >= need
    with pytest.raises(RecipeError, match=r"a budget cannot be reached: 17 of the 18 that must go"):
        cheapest(table, savings, 18.0, "a budget")


@pytest.mark.parametrize("need", [0.0, -5.0])
def test_nothing_goes_where_nothing_need_be_saved(need: float) -> None:
    assert plain(cheapest(scores(a=[2, 1]), {"a": {2: 0.0, 1: 4.0}}, need, "a budget")) == {"a": []}


def saved_by(removal: Removal, savings: dict[str, dict[int, float]], table: dict[str, torch.Tensor]) -> float:
    return sum(savings[name][len(table[name]) - len(units)] for name, units in removal.items())


@given(tables, st.data())
def test_cheapest_is_as_good_as_trying_all(lists: dict[str, list[float]], data: st.DataObject) -> None:
    table = scores(**lists)
    savings = {
        name: {len(each): 0.0} | {kept: float(data.draw(st.integers(0, 50))) for kept in range(1, len(each))}
        for name, each in lists.items()
    }
    need = float(data.draw(st.integers(1, 60)))
    assume(np.prod([len(each) for each in savings.values()]) <= 500)
    ways = [
        {name: lowest(table[name], len(lists[name]) - kept) for name, kept in zip(lists, counts, strict=True)}
        for counts in itertools.product(*(savings[name] for name in lists))
    ]

    def lost(removal: Removal) -> float:
        return sum(float(table[name][units].sum()) for name, units in removal.items())

    enough = [way for way in ways if saved_by(way, savings, table) >= need]
    if not enough:
        with pytest.raises(RecipeError, match="cannot be reached"):
            cheapest(table, savings, need, "a budget")
        return
    found = cheapest(table, savings, need, "a budget")
    slack = need * (1 + len(lists) / STEPS)  # every group's saving is rounded down by less than a step
    surely = [lost(way) for way in enough if saved_by(way, savings, table) >= slack]
    if surely:
        assert saved_by(found, savings, table) >= need
        assert lost(found) <= min(surely)
