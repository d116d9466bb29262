"""Drafts as files: values exact, promises kept, what does not fit is named."""

from pathlib import Path

import pytest
import torch
from torch import nn

import decoct
from decoct.apply import extend
from decoct.errors import FormatError, PlanError
from decoct.method import step
from decoct.plan import Cast, Draft, Share, Zero
from decoct.prune.magnitude import Magnitude
from decoct.quantize.cast import Cast as Rounding
from decoct.quantize.kmeans import KMeans
from decoct.store import load_draft, save
from decoct.testing import small


@pytest.mark.parametrize(("dtype", "bare"), [("float16", False), ("float16", True), ("bfloat16", False)])
def test_every_promise_comes_back(tmp_path: Path, bare: bool, dtype: str) -> None:
    draft, task = small()
    for method in (Magnitude(density=0.4), KMeans(bits=3, tensors="5*"), Rounding(dtype)):
        draft = step(draft, method, task)
    save(draft, tmp_path / "a.dct", bare=bare, graph=False)
    read = load_draft(tmp_path / "a.dct", draft.model, draft.call)
    for name, tensor in draft.tensors().items():
        assert torch.equal(read.tensors()[name], tensor)
        assert set(read.promises(name)) == set(draft.promises(name)), name
    assert torch.equal(read.promises("5.weight")[Share].codes, draft.promises("5.weight")[Share].codes)
    assert torch.equal(read.promises("0.weight")[Zero].mask, draft.promises("0.weight")[Zero].mask)
    assert read.promises("5.weight")[Cast].dtype == dtype


def test_tied_tensors_and_integers_go_through(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    model[2].num_batches_tracked.fill_(7)
    save(Draft.of(model), tmp_path / "a.dct", graph=False)
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    fresh[1].weight = fresh[0].weight
    read = decoct.load_module(tmp_path / "a.dct", fresh)
    assert read[0].weight is read[1].weight
    assert torch.equal(read[0].weight, model[0].weight)
    assert read[2].num_batches_tracked == 7


def test_negative_zero_nan_and_infinity_are_kept(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    odd = torch.tensor([[-0.0, float("nan")], [float("inf"), 1e-45]])
    with torch.no_grad():
        model.weight.copy_(odd)
    save(Draft.of(model), tmp_path / "a.dct", graph=False)
    read = decoct.load_module(tmp_path / "a.dct", nn.Linear(2, 2))
    assert read.weight.view(torch.int32).tolist() == odd.view(torch.int32).tolist()


def test_a_skeleton_that_does_not_fit_is_named(tmp_path: Path) -> None:
    save(Draft.of(nn.Linear(3, 2)), tmp_path / "a.dct", graph=False)
    with pytest.raises(PlanError, match=r"weight is \(2, 3\) in the file, \(2, 4\) in the skeleton"):
        decoct.load_module(tmp_path / "a.dct", nn.Linear(4, 2))
    with pytest.raises(PlanError, match="1 not in the skeleton"):
        decoct.load_module(tmp_path / "a.dct", nn.Linear(3, 2, bias=False))
    save(Draft.of(nn.Linear(3, 2)), tmp_path / "b.dct", bare=True)
    with pytest.raises(FormatError, match="fingerprints differ"):
        decoct.load_module(tmp_path / "b.dct", nn.Linear(4, 2))


def test_a_draft_without_an_example_cannot_carry_a_graph(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="bare=True"):
        Draft.of(nn.Linear(3, 2)).save(tmp_path / "a.dct")
    assert list(tmp_path.iterdir()) == []


def test_what_a_caller_needs_travels_in_the_file(tmp_path: Path) -> None:
    draft, task = small()
    call = decoct.plan.Call(task.example, {"mean": [0.5], "std": [0.25]}, ["a", "b", "c", "d"])
    Draft(draft.model, (), call).save(tmp_path / "a.dct")
    runtime = decoct.load(tmp_path / "a.dct")
    assert runtime.inputs == [{"name": "input", "shape": [None, 1, 8, 8], "dtype": "float32"}]
    assert runtime.normalisation == {"mean": [0.5], "std": [0.25]}
    assert runtime.labels == ["a", "b", "c", "d"]
    assert runtime(torch.zeros(3, 1, 8, 8).numpy()).shape == (3, 4)


def test_a_model_of_several_inputs_and_outputs_runs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.left(x) + self.right(y), self.left(x)

    model, x, y = Two(), torch.randn(5, 3), torch.randn(5, 2)
    draft = extend(Draft(model, (), decoct.plan.Call((x[:1], y[:1]))), [Cast("left.weight")])
    draft.save(tmp_path / "a.dct")
    found = decoct.load(tmp_path / "a.dct")(x.numpy(), y=y.numpy())
    assert [port["name"] for port in decoct.load(tmp_path / "a.dct").inputs] == ["x", "y"]
    for one, other in zip(draft.model(x, y), found.values(), strict=True):
        torch.testing.assert_close(one.detach(), torch.from_numpy(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.uint8])
def test_every_dtype_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("odd", (torch.randn(70, 3) * 3).to(dtype))
    save(Draft.of(model), tmp_path / "a.dct", graph=False)
    fresh = nn.Module()
    fresh.register_buffer("odd", torch.zeros(70, 3, dtype=dtype))
    assert torch.equal(decoct.load_module(tmp_path / "a.dct", fresh).odd, model.odd)
