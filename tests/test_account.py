"""The account of a file: what was cut counts as touched, and by what it was when it came in."""

import pytest
import torch

from decoct.account import account
from decoct.apply import extend
from decoct.method import step
from decoct.plan import Draft, Keep
from decoct.prune.filters import Filters
from decoct.testing import small


def test_what_was_cut_is_touched(tmp_path) -> None:
    draft, task = small()
    after = step(draft, Filters(ratio=0.5, batches=1), task)
    after.save(tmp_path / "model.dct", bare=True)
    row = account(after, task, tmp_path / "model.dct", None, 0.5)
    assert row["warnings"] == []
    raw = {layer["name"]: layer["bytes_raw"] for layer in row["layers"]}
    assert raw == {name: tensor.numel() * tensor.element_size() for name, tensor in draft.tensors().items()}


def test_what_stays_as_it_is_is_not(tmp_path) -> None:
    draft, task = small()
    for after in (draft, extend(Draft(draft.model, (), draft.call), [Keep("7.bias", 0, torch.arange(4), 4)])):
        after.save(tmp_path / "model.dct", bare=True)
        (said,) = account(after, task, tmp_path / "model.dct", None, 0.5)["warnings"]
        assert said.startswith("only 0% of the bytes")


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_a_second_cut_counts_from_what_came_in(tmp_path, ratio: float) -> None:
    draft, task = small()
    after = step(step(draft, Filters(ratio=ratio, batches=1), task), Filters(ratio=ratio, batches=1), task)
    after.save(tmp_path / "model.dct", bare=True)
    layers = account(after, task, tmp_path / "model.dct", None, 0.5)["layers"]
    assert {layer["name"]: layer["bytes_raw"] for layer in layers}["5.weight"] == 4 * 12 * 24
