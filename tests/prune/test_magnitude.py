"""Weight pruning: thresholds, rounds, gradual removal; survivors keep their values; removed weights stay removed."""

import pytest
import torch

from decoct.apply import extend
from decoct.errors import RecipeError
from decoct.events import listening
from decoct.method import step
from decoct.plan import Zero
from decoct.prune.magnitude import Magnitude
from decoct.prune.sensitivity import sensitivity
from decoct.quantize.kmeans import KMeans
from decoct.task import evaluate
from decoct.testing import small
from decoct.train.finetune import Finetune


def density_of(draft, name: str) -> float:
    return draft.tensors()[name].count_nonzero().item() / draft.tensors()[name].numel()


def test_survivors_keep_their_trained_values() -> None:
    draft, task = small()
    after = step(draft, Magnitude(density=0.25), task)
    for name, weight in draft.weights().items():
        mask = after.mask(name)
        assert mask is not None
        assert torch.equal(after.tensors()[name], weight * mask)
        assert weight.abs()[mask].min() >= weight.abs()[~mask].max()


def test_densities_by_glob_and_the_rest_untouched() -> None:
    draft, task = small()
    after = step(draft, Magnitude(density={"5*": 0.5, "*": 0.25}, tensors="5*, 7*"), task)
    assert density_of(after, "5.weight") == 0.5
    assert density_of(after, "7.weight") == 0.25
    assert density_of(after, "0.weight") == 1


def test_the_quality_rule_is_the_papers() -> None:
    draft, task = small()
    after = step(draft, Magnitude(by="quality", quality=1.0), task)
    weight = draft.tensors()["5.weight"]
    assert torch.equal(after.mask("5.weight"), weight.abs() >= weight.std())


def test_rounds_fall_geometrically_and_masks_only_shrink() -> None:
    draft, task = small()
    method = Magnitude(density=0.25, rounds=2, retrain=Finetune(epochs=2, lr=0.05, weight_decay=0.01))
    assert method.masks(draft, 0.5)["5.weight"].sum() == 144
    first = extend(draft, [Zero(name, mask) for name, mask in method.masks(draft, 0.5).items()])
    after = step(draft, method, task)
    assert after.mask("5.weight").sum() == 72
    assert not (after.mask("5.weight") & ~first.mask("5.weight")).any()
    assert density_of(after, "5.weight") == 0.25


@pytest.mark.parametrize("by", ["layer", "global", "lamp", "erk"])
def test_gradual_removal_ends_at_the_density_and_training_never_revives(by: str) -> None:
    draft, task = small()
    retrain = Finetune(epochs=8, lr=0.02, optimizer="adamw", weight_decay=0.1)
    after = step(draft, Magnitude(density=0.2, by=by, gradual=True, every=3, retrain=retrain), task)
    total = sum(weight.numel() for weight in draft.weights().values())
    kept = sum(int(after.mask(name).sum()) for name in draft.weights())
    assert kept == pytest.approx(0.2 * total, abs=3)
    for name in draft.weights():
        assert not after.tensors()[name][~after.mask(name)].any()


def test_gradual_removal_reaches_the_density_in_a_single_step() -> None:
    draft, task = small()
    after = step(draft, Magnitude(density=0.25, gradual=True, retrain=Finetune(epochs=0.25)), task)
    assert density_of(after, "5.weight") == 0.25


def test_pruning_again_goes_on_from_the_mask() -> None:
    draft, task = small()
    once = step(draft, Magnitude(density=0.5), task)
    twice = step(once, Magnitude(density=0.25), task)
    assert not (twice.mask("5.weight") & ~once.mask("5.weight")).any()
    assert density_of(twice, "5.weight") == 0.25


def test_shared_weights_are_pruned_in_their_codes_but_not_gradually() -> None:
    draft, task = small()
    shared = step(draft, KMeans(bits=3), task)
    assert density_of(step(shared, Magnitude(density=0.5), task), "5.weight") <= 0.5
    with pytest.raises(RecipeError, match="prune before sharing"):
        step(shared, Magnitude(gradual=True, retrain=Finetune(epochs=1)), task)


def test_sensitivity_is_the_score_with_one_tensor_pruned() -> None:
    draft, task = small()
    heard: list[dict] = []
    with listening(heard.append):
        curves = sensitivity(draft, task, densities=(1.0, 0.1))
    assert list(curves) == ["0.weight", "5.weight", "7.weight"]
    assert curves["5.weight"][0] == evaluate(draft.model, task)
    alone = step(draft, Magnitude(density=0.1, tensors="5.weight"), task)
    assert curves["5.weight"][1] == evaluate(alone.model, task)
    assert [event["tensor"] for event in heard if event["kind"] == "sensitivity"] == list(curves)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0}, "above 0 and at most 1"),
        ({"density": 1.5}, "above 0 and at most 1"),
        ({"density": {"*": -1}}, "above 0 and at most 1"),
        ({"by": "lapm"}, "did you mean 'lamp'"),
        ({"by": "lamp", "density": {"*": 0.1}}, "by = 'layer'"),
        ({"quality": 0}, "quality is above 0"),
        ({"rounds": 0}, "at least 1"),
        ({"gradual": True}, "retrain"),
        ({"begin": 0.7, "until": 0.6}, "begin < until"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Magnitude(**fields)


def test_a_glob_that_matches_nothing_is_refused() -> None:
    draft, task = small()
    with pytest.raises(RecipeError, match="no tensor matches"):
        step(draft, Magnitude(tensors="conv*"), task)
    with pytest.raises(RecipeError, match=r"density gives no value for 0\.weight"):
        step(draft, Magnitude(density={"5*": 0.5, "7*": 0.1}), task)
