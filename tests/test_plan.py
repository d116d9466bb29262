"""Edits: JSON round trip, merging, promises carried or refused."""

import pytest
import torch
from torch import nn

from decoct.apply import apply, between, extend
from decoct.coding import Code
from decoct.errors import PlanError, RecipeError
from decoct.plan import Cast, Draft, Set, Share, Zero, from_json, merge, tied, to_json


@pytest.fixture
def draft() -> Draft:
    torch.manual_seed(0)
    return Draft.of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))


def half_mask() -> torch.Tensor:
    return torch.arange(12).view(4, 3) % 2 == 0


def test_json_gives_back_every_kind_of_edit() -> None:
    plan = (
        Set({"a": torch.randn(2, 3), "n": torch.tensor(7)}),
        Zero("a", torch.tensor([[True, False, True], [False, False, True]])),
        Share("b", torch.tensor([0, 1, -1], dtype=torch.int16), torch.tensor([1.5, -2.0])),
        Cast("c", "bfloat16"),
        Code("b", "huffman", {"gap_bits": 5}),
    )
    again = from_json(to_json(plan))
    assert to_json(again) == to_json(plan)
    assert torch.equal(again[0].tensors["a"], plan[0].tensors["a"])  # type: ignore[union-attr]
    assert again[2].codes.dtype == torch.int16  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"edit":"Zeroo","tensor":"a","mask":1}]', "did you mean 'Zero'"),
        ('[{"edit":"Cast","tensor":"a"}]', "has the fields"),
        ("[1]", "not a plan"),
        ("{", "not a plan"),
        ('[{"edit":"Zero","tensor":"a","mask":{"dtype":"bool","shape":[3],"data":"AQ=="}}]', "not a plan"),
    ],
)
def test_a_damaged_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        from_json(text)


def test_a_later_value_supersedes_and_a_share_stands_for_its_values(draft: Draft) -> None:
    plan = merge((), [Set({"0.bias": torch.zeros(4)}), Set({"0.bias": torch.ones(4), "2.bias": torch.ones(2)})])
    assert len(plan) == 1
    assert torch.equal(plan[0].tensors["0.bias"], torch.ones(4))  # type: ignore[union-attr]
    share = Share("0.bias", torch.zeros(4, dtype=torch.int16), torch.ones(1))
    assert [type(edit) for edit in merge(plan, [share])] == [Set, Share]


def test_a_zero_after_a_share_is_carried_into_its_codes(draft: Draft) -> None:
    share = Share("0.weight", torch.zeros(4, 3, dtype=torch.int16), torch.tensor([2.0]))
    after = extend(extend(draft, [share]), [Zero("0.weight", half_mask())])
    assert torch.equal(after.tensors()["0.weight"], half_mask() * 2.0)
    assert torch.equal(after.mask("0.weight"), half_mask())  # type: ignore[arg-type]


def test_a_cast_after_a_share_rounds_its_codebook(draft: Draft) -> None:
    share = Share("0.weight", torch.zeros(4, 3, dtype=torch.int16), torch.tensor([0.1]))
    after = extend(extend(draft, [share]), [Cast("0.weight")])
    assert after.promises("0.weight")[Share].codebook.item() == torch.tensor(0.1).half().item()
    assert torch.equal(after.tensors()["0.weight"], torch.full((4, 3), 0.1).half().float())


@pytest.mark.parametrize(
    "breaking",
    [
        Set({"0.weight": torch.ones(4, 3)}),
        Zero("0.weight", torch.ones(4, 3, dtype=torch.bool)),
        Share("0.weight", torch.zeros(4, 3, dtype=torch.int16), torch.ones(1)),
    ],
    ids=lambda edit: type(edit).__name__,
)
def test_a_promise_of_zeros_is_never_dropped(draft: Draft, breaking: Set | Zero | Share) -> None:
    pruned = extend(draft, [Zero("0.weight", half_mask())])
    with pytest.raises(PlanError, match=r"0\.weight"):
        extend(pruned, [breaking])


def test_values_that_part_a_cluster_are_refused(draft: Draft) -> None:
    shared = extend(draft, [Share("0.weight", torch.zeros(4, 3, dtype=torch.int16), torch.ones(1))])
    with pytest.raises(PlanError, match="Share"):
        extend(shared, [Set({"0.weight": torch.randn(4, 3)})])


def test_values_beyond_half_precision_are_refused_and_rounding_saturates(draft: Draft) -> None:
    cast = extend(draft, [Cast("0.weight")])
    with pytest.raises(PlanError, match="Cast"):
        extend(cast, [Set({"0.weight": torch.full((4, 3), 0.1)})])
    assert Cast("x").round(torch.tensor([1e9, -1e9])).tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Set({"0.weigth": torch.ones(4, 3)}), "did you mean '0.weight'"),
        (Set({"0.weight": torch.ones(3, 4)}), "shape"),
        (Zero("0.weight", torch.ones(3, dtype=torch.bool)), "shape"),
        (Cast("nothing"), "no tensor"),
    ],
)
def test_an_edit_that_does_not_fit_is_named(draft: Draft, edit: Set, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        extend(draft, [edit])


def test_a_cast_to_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(RecipeError, match="float16"):
        Cast("a", "float8")


def test_apply_leaves_the_model_alone(draft: Draft) -> None:
    before = {name: tensor.clone() for name, tensor in draft.tensors().items()}
    changed = apply(draft.model, [Zero("0.weight", half_mask()), Set({"2.bias": torch.ones(2)})])
    assert all(torch.equal(tensor, before[name]) for name, tensor in draft.tensors().items())
    assert torch.equal(changed.state_dict()["2.bias"], torch.ones(2))


def test_between_leads_from_one_draft_to_the_other(draft: Draft) -> None:
    after = extend(draft, [Zero("0.weight", half_mask()), Cast("2.weight"), Set({"2.bias": torch.ones(2)})])
    again = extend(draft, between(draft, after))
    assert {type(edit) for edit in again.plan} == {Set, Zero, Cast}
    assert all(torch.equal(tensor, after.tensors()[name]) for name, tensor in again.tensors().items())


def test_tied_tensors_have_one_owner_and_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert tied(model) == {"1.weight": "0.weight"}
    after = extend(Draft.of(model), [Set({"1.weight": torch.ones(3, 3)})])
    assert torch.equal(after.model[0].weight, torch.ones(3, 3))
    assert after.model[0].weight is after.model[1].weight
    assert [name for name in after.tensors() if name.endswith("weight")] == ["0.weight"]


def test_a_glob_that_matches_nothing_names_the_nearest(draft: Draft) -> None:
    assert list(draft.weights("2*")) == ["2.weight"]
    with pytest.raises(RecipeError, match=r"did you mean '0\.weight'"):
        draft.weights("0.weigth")
