"""Cuts: every layer's numbers follow its tensors, ties and parametrizations hold, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.parametrizations import weight_norm

from decoct.apply import apply, extend
from decoct.errors import PlanError
from decoct.plan import Attribute, Draft, Keep
from decoct.surgery import _FITTED

Cut = tuple[str, int, list[int]]


def gates(count: int, units: list[int], of: int) -> list[int]:
    """Rows of some units in each gate of a recurrent layer of `of` units."""
    return [gate * of + unit for gate in range(count) for unit in units]


def recurrent(rows: list[int], units: list[int], suffix: str = "_l0") -> list[Cut]:
    """The cuts of one layer and direction to some of its units, but for its inputs."""
    sides = [(f"{leaf}_{side}{suffix}", 0, rows) for leaf in ("weight", "bias") for side in ("ih", "hh")]
    return [*sides, (f"weight_hh{suffix}", 1, units)]


def deep(kind: type, count: int) -> tuple[nn.Module, list[Cut]]:
    """Two layers, both ways, of 4 units of which 0, 2 and 3 stay: the upper reads 8, of which 0, 2, 3, 4, 6, 7 stay."""
    cuts: list[Cut] = []
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        cuts += recurrent(gates(count, [0, 2, 3], 4), [0, 2, 3], suffix)
        cuts += [(f"weight_ih{suffix}", 1, [0, 2, 3, 4, 6, 7])] if "l1" in suffix else []
    return kind(5, 4, 2, bidirectional=True, batch_first=True), cuts


def projected() -> tuple[nn.Module, list[Cut]]:
    """Units 0, 2 and 3 of 4 stay, and 1 of the 2 projections."""
    cuts = [cut for cut in recurrent(gates(4, [0, 2, 3], 4), [1]) if cut[0] != "weight_hh_l0" or cut[1] == 0]
    cuts += [("weight_hh_l0", 1, [1]), ("weight_hr_l0", 0, [1]), ("weight_hr_l0", 1, [0, 2, 3])]
    return nn.LSTM(5, 4, proj_size=2, batch_first=True), cuts


def cell(kind: type, count: int) -> tuple[nn.Module, list[Cut]]:
    """Units 0, 2 and 3 of 4 stay, and inputs 1 and 4 of 5."""
    return kind(5, 4), [*recurrent(gates(count, [0, 2, 3], 4), [0, 2, 3], ""), ("weight_ih", 1, [1, 4])]


OUT, IN = [0, 1, 4], [1, 3]
"""Of 6 outputs and 4 inputs those that stay."""

# name: the layer and its cuts, the same layer as it is built small, the numbers that change with it, an input
KINDS: dict[str, tuple[nn.Module, list[Cut], nn.Module, dict[str, int], Tensor]] = {
    "Linear": (
        nn.Linear(4, 6), [("weight", 0, OUT), ("bias", 0, OUT), ("weight", 1, IN)],
        nn.Linear(2, 3), {}, torch.randn(5, 2),
    ),
    "Linear without bias": (
        nn.Linear(4, 6, bias=False), [("weight", 1, IN)], nn.Linear(2, 6, bias=False), {}, torch.randn(5, 2),
    ),
    "Conv1d": (
        nn.Conv1d(4, 6, 3), [("weight", 0, OUT), ("bias", 0, OUT), ("weight", 1, IN)],
        nn.Conv1d(2, 3, 3), {}, torch.randn(1, 2, 7),
    ),
    "Conv2d": (
        nn.Conv2d(4, 6, 3, 2, 1, 2, padding_mode="reflect"),
        [("weight", 0, OUT), ("bias", 0, OUT), ("weight", 1, IN)],
        nn.Conv2d(2, 3, 3, 2, 1, 2, padding_mode="reflect"), {}, torch.randn(1, 2, 7, 7),
    ),
    "Conv3d": (
        nn.Conv3d(4, 6, 2, bias=False), [("weight", 0, OUT), ("weight", 1, IN)],
        nn.Conv3d(2, 3, 2, bias=False), {}, torch.randn(1, 2, 4, 4, 4),
    ),
    "Conv2d, a group less": (
        nn.Conv2d(4, 6, 3, groups=2), [("weight", 0, [0, 1, 2]), ("bias", 0, [0, 1, 2])],
        nn.Conv2d(2, 3, 3, groups=1), {"groups": 1}, torch.randn(1, 2, 7, 7),
    ),
    "Conv2d, groups narrower": (
        nn.Conv2d(4, 6, 3, groups=2), [("weight", 0, [0, 2, 3, 5]), ("bias", 0, [0, 2, 3, 5]), ("weight", 1, [1])],
        nn.Conv2d(2, 4, 3, groups=2), {}, torch.randn(1, 2, 7, 7),
    ),
    "Conv2d by channel": (
        nn.Conv2d(4, 4, 3, groups=4), [("weight", 0, [0, 2, 3]), ("bias", 0, [0, 2, 3])],
        nn.Conv2d(3, 3, 3, groups=3), {"groups": 3}, torch.randn(1, 3, 7, 7),
    ),
    "ConvTranspose1d": (
        nn.ConvTranspose1d(4, 6, 3), [("weight", 1, OUT), ("bias", 0, OUT), ("weight", 0, IN)],
        nn.ConvTranspose1d(2, 3, 3), {}, torch.randn(1, 2, 7),
    ),
    "ConvTranspose2d, a group less": (
        nn.ConvTranspose2d(4, 6, 3, 2, groups=2), [("weight", 0, [2, 3]), ("bias", 0, [3, 4, 5])],
        nn.ConvTranspose2d(2, 3, 3, 2, groups=1), {"groups": 1}, torch.randn(1, 2, 5, 5),
    ),
    "ConvTranspose2d, groups narrower": (
        nn.ConvTranspose2d(4, 6, 3, groups=2), [("weight", 1, [0, 2]), ("bias", 0, [0, 2, 3, 5]), ("weight", 0, IN)],
        nn.ConvTranspose2d(2, 4, 3, groups=2), {}, torch.randn(1, 2, 5, 5),
    ),
    "BatchNorm1d": (
        nn.BatchNorm1d(6), [(leaf, 0, OUT) for leaf in ("weight", "bias", "running_mean", "running_var")],
        nn.BatchNorm1d(3), {}, torch.randn(5, 3),
    ),
    "BatchNorm2d without affine": (
        nn.BatchNorm2d(6, affine=False), [(leaf, 0, OUT) for leaf in ("running_mean", "running_var")],
        nn.BatchNorm2d(3, affine=False), {}, torch.randn(5, 3, 4, 4),
    ),
    "BatchNorm3d without statistics": (
        nn.BatchNorm3d(6, track_running_stats=False), [("weight", 0, OUT), ("bias", 0, OUT)],
        nn.BatchNorm3d(3, track_running_stats=False), {}, torch.randn(2, 3, 2, 2, 2),
    ),
    "InstanceNorm2d": (
        nn.InstanceNorm2d(6, affine=True), [("weight", 0, OUT), ("bias", 0, OUT)],
        nn.InstanceNorm2d(3, affine=True), {}, torch.randn(5, 3, 4, 4),
    ),
    "GroupNorm": (
        nn.GroupNorm(3, 6), [("weight", 0, [0, 1, 4, 5]), ("bias", 0, [0, 1, 4, 5])],
        nn.GroupNorm(2, 4), {"num_groups": 2}, torch.randn(5, 4, 2),
    ),
    "LayerNorm": (
        nn.LayerNorm(6), [("weight", 0, OUT), ("bias", 0, OUT)], nn.LayerNorm(3), {}, torch.randn(5, 3),
    ),
    "LayerNorm of two dimensions": (
        nn.LayerNorm((6, 2)), [("weight", 0, OUT), ("bias", 0, OUT)], nn.LayerNorm((3, 2)), {}, torch.randn(5, 3, 2),
    ),
    "RMSNorm": (nn.RMSNorm(6), [("weight", 0, OUT)], nn.RMSNorm(3), {}, torch.randn(5, 3)),
    "PReLU": (nn.PReLU(6), [("weight", 0, OUT)], nn.PReLU(3), {}, torch.randn(5, 3, 2)),
    "Embedding": (nn.Embedding(7, 6), [("weight", 1, OUT)], nn.Embedding(7, 3), {}, torch.tensor([[0, 6, 3]])),
    "EmbeddingBag": (nn.EmbeddingBag(7, 6), [("weight", 1, OUT)], nn.EmbeddingBag(7, 3), {}, torch.tensor([[0, 6]])),
    "LSTM": (*deep(nn.LSTM, 4), nn.LSTM(5, 3, 2, bidirectional=True, batch_first=True), {}, torch.randn(2, 3, 5)),
    "GRU": (*deep(nn.GRU, 3), nn.GRU(5, 3, 2, bidirectional=True, batch_first=True), {}, torch.randn(2, 3, 5)),
    "RNN": (*deep(nn.RNN, 1), nn.RNN(5, 3, 2, bidirectional=True, batch_first=True), {}, torch.randn(2, 3, 5)),
    "LSTM with projections": (
        *projected(), nn.LSTM(5, 3, proj_size=1, batch_first=True), {}, torch.randn(2, 3, 5),
    ),
    "GRU, inputs": (
        nn.GRU(5, 4, batch_first=True), [("weight_ih_l0", 1, [1, 4])],
        nn.GRU(2, 4, batch_first=True), {}, torch.randn(2, 3, 2),
    ),
    "LSTMCell": (*cell(nn.LSTMCell, 4), nn.LSTMCell(2, 3), {}, torch.randn(5, 2)),
    "GRUCell": (*cell(nn.GRUCell, 3), nn.GRUCell(2, 3), {}, torch.randn(5, 2)),
    "RNNCell": (*cell(nn.RNNCell, 1), nn.RNNCell(2, 3), {}, torch.randn(5, 2)),
}  # fmt: skip


def edits(model: nn.Module, cuts: list[Cut], path: str = "") -> list[Keep]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sizes = {(leaf, dim): tensors[path + leaf].shape[dim] for leaf, dim, _ in cuts}
    return [Keep(path + leaf, dim, torch.tensor(index), sizes[leaf, dim]) for leaf, dim, index in cuts]


def numbers(module: nn.Module) -> dict[str, Any]:
    """What a layer says of itself, but for its tensors."""
    kept = int | str | float | tuple | bool
    return {name: value for name, value in vars(module).items() if isinstance(value, kept) or value is None}


def untouched(model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[int]]:
    """All that a cut of a copy must leave as it is."""
    state = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    return state, [numbers(module) for module in model.modules()], [id(each) for each in model.parameters()]


def assert_untouched(model: nn.Module, before: tuple[dict[str, Tensor], list[dict[str, Any]], list[int]]) -> None:
    state, said, identities = untouched(model)
    assert state.keys() == before[0].keys() and all(torch.equal(state[name], before[0][name]) for name in state)
    assert (said, identities) == before[1:]


def outputs(layer: nn.Module, inputs: Tensor) -> Tensor:
    result = layer.eval()(inputs)
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_layer_is_one_that_was_built_small(name: str) -> None:
    """Its tensors are rows and columns of the old, its numbers those of the small layer, and it computes the same."""
    layer, cuts, small, counts, inputs = KINDS[name]
    before = untouched(layer)
    after = apply(layer, [*edits(layer, cuts), *(Attribute("", *each) for each in counts.items())])
    assert_untouched(layer, before)
    expected = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    for leaf, dim, index in cuts:
        expected[leaf] = expected[leaf].index_select(dim, torch.tensor(index))
    assert {key: tensor.tolist() for key, tensor in after.state_dict().items()} == {
        key: tensor.tolist() for key, tensor in expected.items()
    }
    small.load_state_dict(expected)
    assert numbers(after) == numbers(small) and repr(after) == repr(small)
    torch.testing.assert_close(outputs(after, inputs), outputs(small, inputs), rtol=0, atol=0)


def test_every_kind_of_layer_is_in_the_table() -> None:
    for kind in _FITTED:
        assert any(isinstance(layer, kind) for layer, *_ in KINDS.values()), kind


def test_a_cut_lstm_trains() -> None:
    """Its weights are held twice, as parameters and as a flat list."""
    layer, cuts, *_ = KINDS["LSTM"]
    after = apply(layer, edits(layer, cuts))
    after(torch.randn(2, 3, 5))[0].sum().backward()
    assert all(each.grad is not None and each.grad.shape == each.shape for each in after.parameters())


# --------------------------------------------------------------------------------------------- buffers, ties, gradients


class Scaled(nn.Module):
    """Two buffers, the second not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.arange(4.0))
        self.register_buffer("shift", 10 + torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def test_buffers_are_cut_and_stay_what_they_are() -> None:
    model = nn.Sequential(nn.Linear(3, 4), Scaled())
    cuts: list[Cut] = [("0.weight", 0, [0, 3]), ("0.bias", 0, [0, 3]), ("1.scale", 0, [0, 3]), ("1.shift", 0, [0, 3])]
    after = apply(model, edits(model, cuts))
    assert after[1].scale.tolist() == [0.0, 3.0] and after[1].shift.tolist() == [10.0, 13.0]
    assert list(after.state_dict()) == list(model.state_dict()) == ["0.weight", "0.bias", "1.scale"]
    assert [name for name, _ in after.named_buffers()] == ["1.scale", "1.shift"]
    assert after(torch.randn(2, 3)).shape == (2, 2)


def test_requires_grad_is_kept_and_gradients_are_dropped() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model(torch.randn(1, 3)).sum().backward()
    model[0].weight.requires_grad_(False)
    after = apply(model, edits(model, [("0.weight", 0, [1]), ("0.bias", 0, [1]), ("1.weight", 1, [1])]))
    assert {name: each.requires_grad for name, each in after.named_parameters()} == {
        "0.weight": False, "0.bias": True, "1.weight": True, "1.bias": True,
    }  # fmt: skip
    assert after[0].bias.grad is None and isinstance(after[0].bias, nn.Parameter)


class Tied(nn.Module):
    """An embedding whose table is the decoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.mix(self.table(ids)))


@pytest.mark.parametrize("name", ["table.weight", "out.weight"])
def test_tied_tensors_stay_tied_and_both_layers_fit(name: str) -> None:
    model = Tied()
    before = untouched(model)
    plan = [Keep(each, dim, torch.tensor([0, 3]), 4) for each, dim in
            ((name, 1), ("mix.weight", 0), ("mix.weight", 1), ("mix.bias", 0))]  # fmt: skip
    for after in (extend(Draft.of(model), plan).model, apply(model, plan)):
        assert after.table.weight is after.out.weight
        assert torch.equal(after.table.weight, model.table.weight[:, [0, 3]])
        assert (after.table.embedding_dim, after.out.in_features, after.out.out_features) == (2, 2, 7)
        assert after(torch.tensor([[1, 6]])).shape == (1, 2, 7)
    assert_untouched(model, before)


# ----------------------------------------------------------------------------------------------------- parametrizations


def test_weight_norm_is_cut_exactly() -> None:
    model = nn.Sequential(weight_norm(nn.Conv2d(4, 6, 3)), nn.ReLU(), weight_norm(nn.Conv2d(6, 3, 3), dim=1))
    model[0].parametrizations.weight.original0.requires_grad_(False)
    before = untouched(model)
    plan = [
        Keep("0.weight", 0, torch.tensor(OUT), 6), Keep("0.bias", 0, torch.tensor(OUT), 6),
        Keep("0.weight", 1, torch.tensor(IN), 4), Keep("2.weight", 1, torch.tensor(OUT), 6),
    ]  # fmt: skip
    draft = extend(Draft.of(model), plan)
    assert_untouched(model, before)
    torch.testing.assert_close(draft.model[0].weight, model[0].weight[OUT][:, IN], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(draft.model[2].weight, model[2].weight[:, OUT], rtol=1e-6, atol=1e-7)
    assert (draft.model[0].in_channels, draft.model[0].out_channels, draft.model[2].in_channels) == (2, 3, 3)
    assert list(draft.model.state_dict()) == list(model.state_dict())
    assert not draft.model[0].parametrizations.weight.original0.requires_grad
    assert draft.model[0].parametrizations.weight.original1.requires_grad
    again = apply(model, draft.plan)
    assert all(torch.equal(tensor, draft.model.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_a_parametrized_buffer_is_cut() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

        def right_inverse(self, x: Tensor) -> Tensor:
            return x / 2

    model = Scaled()
    parametrize.register_parametrization(model, "scale", Double())
    after = apply(model, [Keep("scale", 0, torch.tensor([1, 3]), 4)])
    assert after.scale.tolist() == [1.0, 3.0] and "original" in after.parametrizations.scale._buffers


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Doubled(Positive):
    def right_inverse(self, x: Tensor) -> Tensor:
        return 2 * x.log()


def registered(how: Callable[[], nn.Module]) -> nn.Module:
    layer = nn.Linear(4, 4)
    nn.init.uniform_(layer.weight, 1, 2)
    parametrize.register_parametrization(layer, "weight", how(), unsafe=True)
    return layer


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), "weight is parametrized by _SpectralNorm and cannot"),
        (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), "weight is parametrized"),
        (lambda: registered(Positive), "weight is parametrized by Positive and cannot be cut: .*right_inverse"),
        (lambda: registered(Doubled), "weight is parametrized in a way that does not give the cut values back"),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), "no tensor 'weight' that can be cut"),
    ],
    ids=["spectral_norm", "orthogonal", "no right_inverse", "another right_inverse", "a hook's spectral_norm"],
)
def test_a_parametrization_that_cannot_be_cut_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    model = build().train()
    before = untouched(model)
    for dim in (0, 1):
        with pytest.raises(PlanError, match=message):
            apply(model, [Keep("weight", dim, torch.tensor([0, 2]), 4)])
    assert_untouched(model, before)


def test_originals_are_not_cut_behind_their_parametrization() -> None:
    model = weight_norm(nn.Linear(4, 4))
    with pytest.raises(PlanError, match=r"no tensor 'parametrizations\.weight\.original1' that can be cut"):
        apply(model, [Keep("parametrizations.weight.original1", 0, torch.tensor([0]), 4)])


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Keep("0.weigth", 0, torch.tensor([0]), 6), "no tensor '0.weigth' that can be cut; did you mean '0.weight'"),
        (Keep("7.weight", 0, torch.tensor([0]), 6), "no tensor '7.weight'"),
        (Keep("0", 0, torch.tensor([0]), 6), "no tensor '0' that"),
        (Keep("0.weight", 0, torch.tensor([0]), 5), r"dimension 0 of 0.weight was cut from 5 .*shape \(6, 4, 3, 3\)"),
        (Keep("0.weight", 4, torch.tensor([0]), 6), r"dimension 4 of 0.weight"),
        (Attribute("1", "groups", 1), "no 1.groups"),
        (Attribute("0", "group", 1), "no 0.group"),
        (Attribute("0", "padding_mode", 1), "0.padding_mode is 'zeros'; it cannot become 1"),
        (Attribute("0", "training", 1), "0.training is True"),
        (Attribute("0", "bias", 1), "no 0.bias"),
        (Attribute("0", "groups", 2), "0.groups is 1; it cannot become 2 by removing channels"),
    ],
)
def test_what_does_not_fit_is_named(edit: Keep | Attribute, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    before = untouched(model)
    with pytest.raises(PlanError, match=message):
        apply(model, [edit])
    assert_untouched(model, before)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2", None, (1, 2)])
def test_an_attribute_is_a_whole_number(value: Any) -> None:
    with pytest.raises(PlanError, match=r"conv\.groups is a whole number of at least 1"):
        Attribute("conv", "groups", value)


@pytest.mark.parametrize(
    ("dim", "index", "size"),
    [
        (-1, torch.tensor([0]), 4),
        (0, torch.tensor([], dtype=torch.int64), 4),
        (0, torch.tensor([0, 4]), 4),
        (0, torch.tensor([-1, 0]), 4),
        (0, torch.tensor([2, 1]), 4),
        (0, torch.tensor([1, 1]), 4),
        (0, torch.tensor([[0], [1]]), 4),
        (0, torch.tensor([0.0]), 4),
        (0, [0], 4),
        (0, torch.tensor([0]), 4.0),
        ("0", torch.tensor([0]), 4),
    ],
)
def test_a_keep_has_positions_of_its_dimension(dim: Any, index: Any, size: Any) -> None:
    with pytest.raises(PlanError, match="Keep of 'a'"):
        Keep("a", dim, index, size)
