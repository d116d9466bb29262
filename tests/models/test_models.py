"""Every network does what its docstring says, and has the size of its paper."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoct import models
from decoct.errors import RecipeError
from decoct.measure import macs
from decoct.models.resnet import PaddedShortcut
from decoct.models.senet import SqueezeExcite
from decoct.models.shufflenet import ChannelShuffle, SplitUnit
from decoct.models.vit import Attention
from decoct.weights import load_weights

Factory = Callable[..., nn.Module]

TIME = 5
each = pytest.mark.parametrize("factory", [getattr(models, name) for name in models.__all__], ids=models.__all__)


def example(factory: Factory, count: int = 2) -> Tensor:
    """Noise of the shape that the docstring names: "Input (batch, 3, 32, 32)"."""
    found = re.search(r"Input \(batch, ([\w, ]+)\)", factory.__doc__ or "")
    assert found, f"the docstring of {factory.__name__} names no input"
    sizes = [TIME if size == "time" else int(size) for size in found[1].split(", ")]
    return torch.randn(count, *sizes, generator=torch.Generator().manual_seed(0))


def classes(factory: Factory) -> int:
    parameter = inspect.signature(factory).parameters.get("classes")
    return parameter.default if parameter else 10


def outline(factory: Factory, **arguments: Any) -> nn.Module:
    """The network without memory: shapes alone."""
    with torch.device("meta"):
        return factory(**arguments)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@each
def test_each_row_of_a_batch_has_its_own_logits(factory: Factory) -> None:
    torch.manual_seed(0)
    model, inputs = factory().eval(), example(factory)
    with torch.no_grad():
        logits, second = model(inputs), model(inputs[1:])
        assert torch.equal(logits, model(inputs))
    assert logits.shape == (2, classes(factory))
    assert not torch.allclose(logits[0], logits[1])
    torch.testing.assert_close(second, logits[1:], rtol=1e-3, atol=1e-4 * logits.abs().max().item())


@each
def test_every_parameter_has_part_in_the_output(factory: Factory) -> None:
    model, inputs = factory(), example(factory)
    model(inputs[..., :64, :64]).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@each
def test_a_docstring_counts_the_parameters(factory: Factory) -> None:
    said = re.search(r"([\d,]+) parameters", factory.__doc__ or "")
    if said:
        assert size(outline(factory)) == int(said[1].replace(",", ""))


@each
def test_classes_are_an_argument(factory: Factory) -> None:
    if "classes" in inspect.signature(factory).parameters:
        *_, bias = outline(factory, classes=7).parameters()
        assert bias.shape == (7,)


# The paper's figures: millions of parameters and of multiply-accumulates, None where it names none.
PAPERS: list[tuple[str, dict[str, Any], int, float | None, float | None]] = [
    ("resnet_20", {}, 32, 0.27, None),
    ("resnet_32", {}, 32, 0.46, None),
    ("resnet_44", {}, 32, 0.66, None),
    ("resnet_56", {}, 32, 0.85, 125),  # the work as Li 2017 counts it
    ("resnet_110", {}, 32, 1.73, 253),
    ("vgg_16", {}, 32, 15.0, 313),
    ("mobilenet_v1", {"classes": 1000, "stem_stride": 2}, 224, 4.23, 569),
    ("mobilenet_v1", {"classes": 1000, "stem_stride": 2, "width": 0.5}, 224, 1.33, 149),
    ("mobilenet_v2", {"classes": 1000, "stem_stride": 2}, 224, 3.5, 300),  # 3.4 in the paper, 3.5 in its code
    ("shufflenet_v1", {"classes": 1000, "stem_stride": 2}, 224, 1.87, 138),
    ("shufflenet_v1", {"classes": 1000, "stem_stride": 2, "width": 0.5}, 224, 0.72, 38),
    ("shufflenet_v1", {"classes": 1000, "stem_stride": 2, "groups": 8}, 224, None, 138),
    ("shufflenet_v2", {"classes": 1000, "stem_stride": 2}, 224, 2.28, 146),
    ("shufflenet_v2", {"classes": 1000, "stem_stride": 2, "width": 0.5}, 224, 1.37, 41),
    ("shufflenet_v2", {"classes": 1000, "stem_stride": 2, "width": 2.0}, 224, 7.39, 591),
    ("densenet_40", {"bottleneck": False}, 32, 1.02, None),
    ("densenet_121", {}, 224, 7.98, 2834),
]


@pytest.mark.parametrize(("name", "arguments", "pixels", "parameters", "work"), PAPERS)
def test_the_size_is_the_papers(
    name: str, arguments: dict[str, Any], pixels: int, parameters: float | None, work: float | None
) -> None:
    model = outline(getattr(models, name), **arguments)
    if parameters is not None:
        assert size(model) / 1e6 == pytest.approx(parameters, rel=0.01)
    if work is not None:
        counted = macs(model, torch.zeros(1, 3, pixels, pixels, device="meta"))[""]
        assert counted / 1e6 == pytest.approx(work, rel=0.02)


def test_the_size_of_resnet_20_by_hand() -> None:
    stage_1 = 6 * (16 * 16 * 9 + 2 * 16)
    stage_2 = (16 * 32 * 9 + 2 * 32) + 5 * (32 * 32 * 9 + 2 * 32)
    stage_3 = (32 * 64 * 9 + 2 * 64) + 5 * (64 * 64 * 9 + 2 * 64)
    stem, linear = 3 * 16 * 9 + 2 * 16, 64 * 10 + 10
    assert stem + stage_1 + stage_2 + stage_3 + linear == 269_722 == size(outline(models.resnet_20))


def test_the_layers_of_alexnet_that_are_the_papers() -> None:
    model = outline(models.alexnet)
    counts = [size(model.get_submodule(f"conv{number}")) for number in (2, 3, 4, 5)]
    assert counts == [307_456, 885_120, 663_936, 442_624]
    assert model.get_submodule("conv2").weight.shape == (256, 48, 5, 5)
    assert outline(models.alexnet, groups=1).get_submodule("conv2").weight.shape == (256, 96, 5, 5)


def test_a_padded_shortcut_by_hand() -> None:
    x = torch.arange(1.0, 17).view(1, 1, 4, 4)
    y = PaddedShortcut(before=1, after=2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert y[0, 1].tolist() == [[1, 3], [9, 11]]
    assert y[0, [0, 2, 3]].abs().sum() == 0


def test_a_shortcut_has_no_tensor_and_stands_where_the_size_changes() -> None:
    model = outline(models.resnet_20)
    found = {name: (m.before, m.after) for name, m in model.named_modules() if isinstance(m, PaddedShortcut)}
    assert found == {"layer2.0.shortcut": (8, 8), "layer3.0.shortcut": (16, 16)}
    assert not any("shortcut" in name for name in model.state_dict())


@pytest.mark.data
@pytest.mark.parametrize("layers", [20, 32, 56])
def test_a_resnet_takes_trained_weights(layers: int) -> None:
    path = Path(os.environ["DECOCT_DATA"]) / f"weights/cifar10-resnet{layers}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    model = getattr(models, f"resnet_{layers}")()
    load_weights(model, path)
    assert 0.05 < model.linear.weight.std() < 1


def test_a_shuffle_by_hand() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(ChannelShuffle(3)(ChannelShuffle(2)(x)), x)


def test_a_split_unit_lets_half_of_the_channels_pass() -> None:
    x = torch.randn(2, 8, 5, 5)
    y = SplitUnit(8)(x)
    assert torch.equal(y[:, ::2], x[:, :4])
    assert not torch.allclose(y[:, 1::2], x[:, 4:])


def test_squeeze_and_excitation_by_hand() -> None:
    unit = SqueezeExcite(2, reduction=2)
    with torch.no_grad():
        unit.fc1.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        unit.fc2.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
        x = torch.tensor([[2.0, 4.0], [1.0, 1.0]]).view(1, 2, 1, 2)
        y = unit(x).flatten(1)  # the means are 3 and 1, the unit between is 2
    first = 1 / (1 + torch.tensor(-2.0).exp())
    torch.testing.assert_close(y, torch.stack((2 * first, 4 * first, torch.tensor(0.5), torch.tensor(0.5)))[None])


def test_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, heads=3), torch.randn(2, 5, 12)
    assert (attention.heads, attention.head_dim) == (3, 4)
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    parts = []
    for head in range(3):
        one = slice(4 * head, 4 * head + 4)
        weights = (q[..., one] @ k[..., one].transpose(1, 2) / 4**0.5).softmax(-1)
        parts.append(weights @ v[..., one])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(parts, -1)))


@pytest.mark.parametrize("factory", [models.lstm_classifier, models.gru_classifier])
def test_pooling_of_both_directions(factory: Factory) -> None:
    model: Any = factory(features=3, hidden=4, layers=2, bidirectional=True)
    x = torch.randn(2, 6, 3)
    outputs, state = model.rnn(x)
    final = state[0] if isinstance(state, tuple) else state  # (layers * directions, batch, hidden)
    torch.testing.assert_close(model(x), model.fc(torch.cat((final[-2], final[-1]), 1)))
    model.pooling = "mean"
    torch.testing.assert_close(model(x), model.fc(outputs.sum(1) / 6))


def test_a_recurrent_network_reads_tokens() -> None:
    model: Any = models.lstm_classifier(classes=2, features=3, hidden=4, vocabulary=11)
    tokens = torch.tensor([[1, 2, 10], [0, 0, 0]])
    assert model(tokens).shape == (2, 2)
    assert model.embedding.weight.shape == (11, 3)


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        (models.lstm_classifier, {"pooling": "first"}, '"last" or "mean"'),
        (models.shufflenet_v1, {"groups": 5}, "1, 2, 3, 4 and 8"),
        (models.shufflenet_v2, {"width": 0.75}, "0.5, 1, 1.5 and 2"),
    ],
)
def test_an_argument_that_cannot_be_is_named(factory: Factory, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        factory(**arguments)
