"""Drafts as files: values exact, promises kept, what does not fit is named."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import decoct
from decoct import file
from decoct.apply import extend
from decoct.errors import FormatError, PlanError
from decoct.file import open_file
from decoct.method import step
from decoct.plan import Attribute, Call, Cast, Draft, Edit, Keep, Share, Zero, to_json
from decoct.prune.magnitude import Magnitude
from decoct.quantize.cast import Cast as Rounding
from decoct.quantize.kmeans import KMeans
from decoct.store import entries, load_draft, save
from decoct.testing import small


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
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


# ------------------------------------------------------------------------------------------------------------ structure


class Cuttable(nn.Module):
    """A convolution by groups, BatchNorm, a dense layer with weight norm, a table tied to the last layer, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.conv, self.norm = nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)
        self.fc = weight_norm(nn.Linear(8, 6))
        self.table, self.out = nn.Embedding(5, 6), nn.Linear(6, 5)
        self.out.weight = self.table.weight
        self.register_buffer("scale", torch.rand(6))
        self.register_buffer("shift", torch.arange(6.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.norm(self.conv(self.stem(x))).relu().mean((2, 3)))
        return self.out(y * self.scale + self.shift)


def places(index: list[int], size: int, *where: tuple[str, int]) -> list[Edit]:
    return [Keep(tensor, dim, torch.tensor(index), size) for tensor, dim in where]


CUT: list[Edit] = [
    *places([0, 1, 3], 4, ("stem.weight", 0), ("stem.bias", 0)),
    *places([0, 1, 2, 3, 6, 7], 8, ("conv.weight", 0), *((f"norm.{leaf}", 0) for leaf in (
        "weight", "bias", "running_mean", "running_var")), ("fc.weight", 1)),
    Attribute("conv", "groups", 3),
    *places([1, 2, 5], 6, ("fc.weight", 0), ("fc.bias", 0), ("table.weight", 1), ("scale", 0), ("shift", 0)),
]  # fmt: skip
INPUT = torch.randn(2, 2, 5, 5)


@pytest.fixture
def whole() -> Draft:
    torch.manual_seed(0)
    return Draft(Cuttable().eval(), (), Call(torch.zeros(1, 2, 5, 5)))


@pytest.fixture
def cut(whole: Draft) -> Draft:
    return extend(whole, CUT)


PROFILES: list[dict[str, bool]] = [{"bare": True}, {"graph": False}, {}]


@pytest.mark.parametrize("profile", PROFILES, ids=["bare", "without graph", "self-contained"])
def test_a_cut_draft_comes_back_on_the_original_module(
    tmp_path: Path, whole: Draft, cut: Draft, profile: dict[str, bool]
) -> None:
    before = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    save(cut, tmp_path / "a.dct", **profile)
    read = load_draft(tmp_path / "a.dct", whole.model, whole.call)
    module = decoct.load_module(tmp_path / "a.dct", Cuttable()).eval()
    assert to_json(read.structure()) == to_json(cut.structure())
    for model in (read.model, module):
        state = model.state_dict()
        assert list(state) == list(cut.model.state_dict())
        assert all(torch.equal(tensor, state[name]) for name, tensor in cut.model.state_dict().items())
        assert torch.equal(model(INPUT), cut.model(INPUT))
        assert model.table.weight is model.out.weight and repr(model) == repr(cut.model)
        assert model.shift.tolist() == [1.0, 2.0, 5.0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.model.state_dict().items())
    assert whole.model.conv.groups == 4
    if not profile:
        runtime = decoct.load(tmp_path / "a.dct")
        np.testing.assert_allclose(runtime(INPUT.numpy()), cut.model(INPUT).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bare", [False, True])
def test_promises_of_what_was_cut_come_back(tmp_path: Path, whole: Draft, cut: Draft, bare: bool) -> None:
    codes = torch.tensor([[0, 1, -1], [1, 1, 0], [0, 0, 0], [1, -1, 1], [0, 1, 0]], dtype=torch.int16)
    promised = extend(
        cut,
        [
            Zero("conv.weight", torch.rand(6, 1, 3, 3) > 0.5),
            Share("table.weight", codes, torch.tensor([0.5, -2.0])),
            Cast("fc.bias", "bfloat16"),
        ],
    )
    save(promised, tmp_path / "a.dct", bare=bare, graph=False)
    read = load_draft(tmp_path / "a.dct", whole.model)
    assert all(torch.equal(tensor, promised.tensors()[name]) for name, tensor in read.tensors().items())
    assert {name: set(read.promises(name)) for name in read.tensors() if read.promises(name)} == {
        "conv.weight": {Zero}, "table.weight": {Zero, Share}, "fc.bias": {Cast},
    }  # fmt: skip
    assert torch.equal(read.promises("conv.weight")[Zero].mask, promised.promises("conv.weight")[Zero].mask)
    assert torch.equal(read.promises("table.weight")[Share].codes, codes)


def test_a_draft_that_was_read_can_be_cut_again(tmp_path: Path, whole: Draft, cut: Draft) -> None:
    save(cut, tmp_path / "a.dct", bare=True)
    again = extend(load_draft(tmp_path / "a.dct", whole.model), places([0, 2], 3, *((edit.tensor, edit.dim) for edit in
        CUT[-5:] if isinstance(edit, Keep))))  # fmt: skip
    save(again, tmp_path / "b.dct", bare=True)
    read = load_draft(tmp_path / "b.dct", whole.model)
    assert read.model.fc.weight.shape == (2, 6)
    assert {edit.tensor: edit.index.tolist() for edit in read.structure() if isinstance(edit, Keep)}["scale"] == [1, 5]
    assert torch.equal(read.model(INPUT), again.model(INPUT))


def test_structure_as_the_file_has_it(tmp_path: Path, cut: Draft) -> None:
    """Bitmaps by hand: of 8 the first four and the last two, 1111 0011; of 6 the second, third and last, 0110 0100."""
    save(cut, tmp_path / "a.dct", bare=True)
    opened = open_file(tmp_path / "a.dct")
    assert set(opened.meta) == {"edits"}
    assert opened.meta["edits"][2] == {"edit": "Keep", "tensor": "conv.weight", "dim": 0, "size": 8, "kept": "8w=="}
    assert opened.meta["edits"][-2] == {"edit": "Keep", "tensor": "shift", "dim": 0, "size": 6, "kept": "ZA=="}
    assert opened.meta["edits"][-1] == {"edit": "Attribute", "module": "conv", "name": "groups", "value": 3}


def written(path: Path, draft: Draft, edits: list[dict[str, Any]], bare: bool = False) -> Path:
    """A file of the tensors of a draft that says something else of its structure."""
    file.write(path, entries(draft), {"edits": edits}, None, bare, decoct.plan.tied(draft.model))
    return path


def edit(tensor: str = "scale", dim: int = 0, size: int = 6, kept: str = "ZA==") -> dict[str, Any]:
    return {"edit": "Keep", "tensor": tensor, "dim": dim, "size": size, "kept": kept}


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    ("edits", "error", "message"),
    [
        ([edit("scael")], PlanError, "no tensor 'scael' that can be cut; did you mean 'scale'"),
        ([edit("conv")], PlanError, "no tensor 'conv'"),
        ([edit("fc.parametrizations.weight.original1", size=6)], PlanError, "no tensor 'fc.parametrizations"),
        ([edit(dim=1)], PlanError, r"dimension 1 of scale was cut from 6 .* shape \(6,\)"),
        ([edit(size=5, kept="YA==")], PlanError, r"dimension 0 of scale was cut from 5 .* shape \(6,\)"),
        ([edit("table.weight", 1), edit("out.weight", 1)], PlanError, "dimension 1 of table.weight was cut from 6"),
        ([{"edit": "Attribute", "module": "conv", "name": "groups", "value": 5}], PlanError, "conv.groups is 4"),
        (
            [{"edit": "Attribute", "module": "conv", "name": "training", "value": 1}],
            PlanError,
            "conv.training is False",
        ),
        ([{"edit": "Attribute", "module": "vonc", "name": "groups", "value": 1}], PlanError, "no vonc.groups"),
        ([{"edit": "Factor", "anything": [1]}], FormatError, "cannot do the edit 'Factor'"),
        ([edit(kept="ZA")], FormatError, "no bitmap"),
    ],
)
def test_structure_that_does_not_fit_the_skeleton_is_refused(
    tmp_path: Path, whole: Draft, cut: Draft, edits: list[dict[str, Any]], error: type, message: str, bare: bool
) -> None:
    before = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    with pytest.raises(error, match=message):
        load_draft(written(tmp_path / "a.dct", cut, edits, bare), whole.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.model.state_dict().items())


def test_shapes_that_are_not_those_of_the_structure_are_refused(tmp_path: Path, whole: Draft, cut: Draft) -> None:
    with pytest.raises(PlanError, match=r"scale is \(3,\) in the file, \(6,\) in the skeleton"):
        load_draft(written(tmp_path / "a.dct", cut, []), whole.model)
    with pytest.raises(FormatError, match="fingerprints differ"):
        load_draft(written(tmp_path / "a.dct", cut, [edit()], bare=True), whole.model)
    save(cut, tmp_path / "b.dct", bare=True)
    with pytest.raises(PlanError, match=r"stem\.weight was cut from 4 .* shape \(3, 2, 1, 1\)"):
        load_draft(tmp_path / "b.dct", cut.model)


def test_a_bitmap_takes_no_memory_before_it_is_known_to_fit(tmp_path: Path, whole: Draft) -> None:
    """Of 60 million positions: 10 MB of base64, some thousands of bytes in the file, and 480 MB as an index."""
    kept = "/" * 10_000_000
    size = len(kept) * 6
    path = written(tmp_path / "a.dct", whole, [edit(size=size, kept=kept)])
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(PlanError, match=rf"scale was cut from {size} positions"):
            load_draft(path, whole.model)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(kept)
    finally:
        tracemalloc.stop()
