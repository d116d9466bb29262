"""Edits: JSON round trip, merging, promises carried or refused."""

import pytest
import torch
from torch import nn

from decoct.apply import apply, between, extend
from decoct.coding import Code
from decoct.errors import PlanError, RecipeError
from decoct.plan import Attribute, Cast, Draft, Edit, Keep, Set, Share, Zero, from_json, merge, tied, to_json


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
        Keep("d.weight", 1, torch.tensor([0, 2, 700]), 701),
        Attribute("d", "groups", 3),
    )
    again = from_json(to_json(plan))
    assert to_json(again) == to_json(plan)
    assert [type(edit) for edit in again] == [type(edit) for edit in plan]
    assert again[5].index.tolist() == [0, 2, 700] and again[6] == plan[6]  # type: ignore[union-attr]
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
        ('[{"edit":"Keep","tensor":"a","dim":0,"size":4,"index":[0,1]}]', "Keep of 'a'"),
        ('[{"edit":"Keep","tensor":"a","dim":0,"size":4}]', "has the fields"),
        ('[{"edit":"Attribute","module":"a","name":"groups","value":1.5}]', "whole number"),
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


# ------------------------------------------------------------------------------------------------------------ structure


def keep(tensor: str, dim: int, index: list[int], size: int) -> Keep:
    return Keep(tensor, dim, torch.tensor(index), size)


def narrowed(units: list[int], of: int = 4) -> list[Edit]:
    """The hidden units of the draft that stay."""
    return [keep("0.weight", 0, units, of), keep("0.bias", 0, units, of), keep("2.weight", 1, units, of)]


def same(one: Draft, other: Draft) -> bool:
    """Whether two drafts have the same tensors, structure and promises."""
    tensors = other.tensors()
    plans = [to_json(edit for edit in draft.plan if not isinstance(edit, Set)) for draft in (one, other)]
    return (
        list(one.tensors()) == list(tensors)
        and all(torch.equal(tensor, tensors[name]) for name, tensor in one.tensors().items())
        and plans[0] == plans[1]
    )


def test_two_cuts_of_a_dimension_are_one() -> None:
    """Of 7 positions 0, 2, 3 and 6 stay, then the second and the last of those."""
    plan = merge((), [keep("a", 0, [0, 2, 3, 6], 7), keep("a", 1, [1], 2), keep("a", 0, [1, 3], 4)])
    assert [(edit.dim, edit.index.tolist(), edit.size) for edit in plan] == [(0, [2, 6], 7), (1, [1], 2)]  # type: ignore[union-attr]
    with pytest.raises(PlanError, match=r"dimension 0 of a was cut from 7 .* has left 2"):
        merge(plan, [keep("a", 0, [0], 7)])


def test_a_later_number_supersedes() -> None:
    plan = merge((), [Attribute("a", "groups", 4), Attribute("b", "groups", 4), Attribute("a", "groups", 2)])
    assert plan == (Attribute("a", "groups", 2), Attribute("b", "groups", 4))


def test_structure_comes_first_in_a_plan(draft: Draft) -> None:
    after = extend(extend(draft, [Set({"2.bias": torch.ones(2)}), Cast("2.weight")]), narrowed([0, 3]))
    assert [type(edit) for edit in after.plan] == [Keep, Keep, Keep, Set, Cast]
    assert [edit.tensor for edit in after.structure()] == ["0.weight", "0.bias", "2.weight"]  # type: ignore[union-attr]


def test_a_cut_carries_what_was_promised_before(draft: Draft) -> None:
    """Set, Zero, Share, Cast and Code of tensors that are cut afterwards, values and promises by hand."""
    codes = torch.tensor([[0, 1, 2, 0], [1, -1, 0, 2]], dtype=torch.int16)
    before = extend(
        draft,
        [
            Set({"0.bias": torch.tensor([10.0, 11.0, 12.0, 13.0]), "0.weight": torch.arange(12.0).view(4, 3)}),
            Zero("0.weight", half_mask()),
            Share("2.weight", codes, torch.tensor([0.1, 5.0, -3.0])),
            Cast("2.weight"),
            Code("0.weight", "huffman", {"gap_bits": 4}),
        ],
    )
    after = extend(before, narrowed([0, 1, 3]))
    tensors = after.tensors()
    third = torch.tensor(0.1).half().item()
    assert tensors["0.bias"].tolist() == [10.0, 11.0, 13.0]
    assert tensors["0.weight"].tolist() == [[0.0, 0.0, 2.0], [0.0, 4.0, 0.0], [0.0, 10.0, 0.0]]
    assert tensors["2.weight"].tolist() == [[third, 5.0, third], [5.0, 0.0, -3.0]]
    assert after.promises("0.weight")[Zero].mask.int().tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert after.promises("2.weight")[Share].codes.tolist() == [[0, 1, 0], [1, -1, 2]]
    assert after.promises("2.weight")[Cast] == Cast("2.weight")
    assert after.promises("0.weight")[Code].parameters == {"gap_bits": 4}
    assert (after.model[0].out_features, after.model[2].in_features) == (3, 3)
    assert same(after, Draft(apply(draft.model, after.plan), after.plan))


def test_later_edits_have_the_smaller_shapes(draft: Draft) -> None:
    cut = extend(draft, narrowed([1, 2]))
    after = extend(
        cut,
        [
            Set({"0.weight": torch.ones(2, 3), "0.bias": torch.tensor([1.0, 2.0])}),
            Zero("0.weight", torch.eye(2, 3, dtype=torch.bool)),
            Share("2.weight", torch.tensor([[0, -1], [1, 0]], dtype=torch.int16), torch.tensor([7.0, 9.0])),
        ],
    )
    assert after.tensors()["0.weight"].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert after.tensors()["2.weight"].tolist() == [[7.0, 0.0], [9.0, 7.0]]
    assert same(after, Draft(apply(draft.model, after.plan), after.plan))
    for edit in (Set({"0.bias": torch.ones(4)}), Zero("0.weight", half_mask()), keep("0.weight", 0, [0], 4)):
        with pytest.raises(PlanError, match=r"0\.(weight|bias)"):
            extend(cut, [edit])


def test_edits_of_one_call_are_done_in_their_order(draft: Draft) -> None:
    edits = [Zero("0.weight", half_mask()), *narrowed([0, 2]), Set({"0.bias": torch.ones(2)}), *narrowed([1], of=2)]
    after = extend(draft, edits)
    assert torch.equal(after.tensors()["0.weight"], (draft.tensors()["0.weight"] * half_mask())[[2]])
    assert after.tensors()["0.bias"].tolist() == [1.0]
    assert [edit.index.tolist() for edit in after.structure()] == [[2], [2], [2]]  # type: ignore[union-attr]


@pytest.mark.parametrize("earlier", [[], narrowed([0, 2, 3])], ids=["whole", "cut before"])
def test_between_leads_over_a_cut(draft: Draft, earlier: list[Edit]) -> None:
    before = extend(draft, [*earlier, Cast("2.weight"), Set({"2.bias": torch.ones(2)})])
    size = before.model[0].out_features
    after = extend(before, [*narrowed([0, 2], of=size), Zero("0.weight", torch.eye(2, 3, dtype=torch.bool))])
    after = extend(after, [Set({"2.weight": torch.ones(2, 2)})])
    edits = between(before, after)
    assert [(edit.tensor, edit.index.tolist(), edit.size) for edit in edits if isinstance(edit, Keep)] == [
        (name, [0, 2], size) for name in ("0.weight", "0.bias", "2.weight")
    ]
    assert [set(edit.tensors) for edit in edits if isinstance(edit, Set)] == [{"0.weight", "2.weight"}]
    assert same(extend(before, edits), after)
    assert [edit for edit in between(after, after) if isinstance(edit, Keep | Set)] == []


def test_between_says_of_numbers_only_what_is_new() -> None:
    draft = Draft.of(nn.Sequential(nn.Conv2d(4, 8, 1, groups=4), nn.Conv2d(8, 8, 1, groups=8)))
    first = [keep("0.weight", 0, [0, 1], 8), keep("0.bias", 0, [0, 1], 8), Attribute("0", "groups", 1)]
    second = [keep("1.weight", 0, [0, 1], 8), keep("1.bias", 0, [0, 1], 8), Attribute("1", "groups", 2)]
    before = extend(draft, first)
    after = extend(before, second)
    assert [edit for edit in between(before, after) if isinstance(edit, Attribute)] == [Attribute("1", "groups", 2)]
    assert same(extend(before, between(before, after)), after)
    assert same(extend(draft, between(draft, after)), Draft(after.model, tuple(between(draft, after))))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), r"0 of 0\.weight .* 4 positions .* \(5, 3\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 2)), r"no tensor '2\.weight'"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6)), r"2\.bias has the shape \(6,\); .* \(2,\)"),
    ],
    ids=["wider", "deeper", "other outputs"],
)
def test_a_plan_of_another_architecture_is_refused(draft: Draft, model: nn.Module, message: str) -> None:
    plan = extend(draft, [*narrowed([0, 3]), Set({"2.bias": torch.ones(2)})]).plan
    for replay in (lambda: apply(model, plan), lambda: extend(Draft.of(model), plan)):
        with pytest.raises(PlanError, match=message):
            replay()


def test_a_plan_that_cuts_is_refused_where_it_was_done(draft: Draft) -> None:
    after = extend(draft, narrowed([0, 3]))
    for replay in (lambda: apply(after.model, after.plan), lambda: extend(after, after.plan)):
        with pytest.raises(PlanError, match=r"dimension 0 of 0\.weight was cut from 4"):
            replay()


def test_a_promise_of_originals_that_are_made_anew_is_not_dropped() -> None:
    draft = Draft.of(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))))
    name = "0.parametrizations.weight.original1"
    edits = [Zero(name, torch.eye(4, dtype=torch.bool)), Cast(name)]
    codes = torch.arange(16, dtype=torch.int16).view(4, 4)
    for promise in (*edits, Share(name, codes, draft.tensors()[name].flatten())):
        with pytest.raises(PlanError, match=rf"{name} break the {type(promise).__name__}"):
            extend(extend(draft, [promise]), [keep("0.weight", 0, [0, 2], 4)])


def test_a_tied_tensor_is_cut_once_under_its_owners_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    after = extend(extend(Draft.of(model), [keep("1.weight", 0, [0, 2], 3)]), [keep("0.weight", 0, [1], 2)])
    assert [(edit.tensor, edit.index.tolist()) for edit in after.structure()] == [("0.weight", [2])]  # type: ignore[union-attr]
    assert after.model[0].weight is after.model[1].weight
    assert (after.model[0].out_features, after.model[1].out_features) == (1, 1)


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
