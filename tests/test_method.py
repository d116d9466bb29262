"""Every method there is passes the common checks; methods are found by name, and by nothing else."""

import dataclasses
import re
from collections.abc import Iterable
from importlib import import_module

import pytest
from torch import nn

from decoct import testing
from decoct.apply import apply
from decoct.errors import PlanError, RecipeError
from decoct.method import all_methods, find, per_tensor
from decoct.plan import Edit
from decoct.testing import MethodError, check_method, small
from decoct.train.finetune import Finetune


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_the_common_checks(name: str) -> None:
    kind = find(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    check_method(kind(), *small())
    if "retrain" in fields:
        check_method(kind(retrain=Finetune(epochs=1)), *small())


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_a_method_is_frozen_and_its_module_names_its_source(name: str) -> None:
    kind = find(name)
    assert kind.__dataclass_params__.frozen
    doc = import_module(f"decoct.{name}").__doc__ or ""
    assert "Result:" in doc or "experimental" in doc or name in ("quantize.cast",)
    assert re.search(r"arXiv|Proceedings|IEEE", doc) or name == "train.finetune"
    for field in dataclasses.fields(kind):
        assert field.name in (kind.__doc__ or ""), f"{name}: {field.name} is not documented"


def test_the_methods_of_this_version_are_there() -> None:
    assert {
        "train.finetune", "prune.magnitude", "quantize.kmeans", "quantize.cast", "coding.huffman", "coding.ans",
    } <= set(all_methods())  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prune.magnitud", "did you mean 'prune.magnitude'"),
        ("prune.budgets", "unknown method"),
        ("nowhere.at:All", "cannot be imported"),
        ("decoct.task:Task", "not a method"),
    ],
)
def test_an_unknown_method_is_named(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        find(name)


def test_a_users_own_method_is_found() -> None:
    assert find("decoct.prune.magnitude:Magnitude") is find("prune.magnitude")


def test_values_by_glob_must_cover_and_match() -> None:
    with pytest.raises(RecipeError, match=r"no value for b"):
        per_tensor({"a": 1}, ["a", "b"], "bits")
    with pytest.raises(RecipeError, match="no tensor matches 'c'"):
        per_tensor({"c": 1, "*": 2}, ["a", "b"], "bits")


def test_the_common_checks_catch_a_method_that_alters_its_model() -> None:
    @dataclasses.dataclass(frozen=True)
    class Careless:
        def plan(self, draft, task):
            draft.model[0].weight.data.zero_()
            return []

    with pytest.raises(MethodError, match="alters the model"):
        check_method(Careless(), *small())


def test_the_common_checks_catch_a_cut_that_cannot_be_repeated_or_can_be_repeated_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, (draft, task) = find("prune.filters")(batches=1), small()
    monkeypatch.setattr(testing, "apply", lambda model, plan: model)
    with pytest.raises(MethodError, match="replaying its plan on the model that came in gives another model"):
        check_method(method, draft, task)

    def forgiving(model: nn.Module, plan: Iterable[Edit]) -> nn.Module:
        try:
            return apply(model, plan)
        except PlanError:
            return model

    monkeypatch.setattr(testing, "apply", forgiving)
    with pytest.raises(MethodError, match="can be applied to a model that is cut already"):
        check_method(method, draft, task)
