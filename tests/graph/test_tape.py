"""The tape: what is written down of a forward, under whose name, and which forwards are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from decoct.errors import TraceError
from decoct.graph import groups
from decoct.graph.tape import Tape, plain, record


def names(tape: Tape) -> list[str]:
    return [op.name.removeprefix("aten.") for op in tape.ops]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean((2, 3)))


class Doing(nn.Module):
    """A parameter and a function of it and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(3)), function

    def forward(self, *x: Tensor) -> Any:
        return self.function(self.weight, *x)


def test_operations_stand_under_the_module_whose_forward_they_are_in() -> None:
    tape = record(Net(), torch.randn(2, 3, 5, 5))
    assert [(op.module, op.name.removeprefix("aten.")) for op in tape.ops] == [
        ("block.conv", "convolution"), ("block.norm", "empty"), ("block.norm", "native_batch_norm"), ("block", "relu"),
        ("", "mean"), ("head", "t"), ("head", "addmm"),
    ]  # fmt: skip


def test_tensors_have_numbers_by_which_they_are_found_again() -> None:
    tape = record(Net(), torch.randn(2, 3, 5, 5))
    conv, _, norm, relu, *_, linear = tape.ops
    assert set(tape.parameters.values()) == {name for name, _ in [*Net().named_parameters(), *Net().named_buffers()]}
    assert conv.argument("input") == tape.inputs[0] and tape.shapes[tape.inputs[0].key] == (2, 3, 5, 5)
    assert tape.parameters[conv.argument("weight").key] == "block.conv.weight"
    assert norm.refs()[0] == conv.outputs[0] and relu.refs() == [norm.outputs[0]]
    assert tape.outputs == linear.outputs and tape.outputs[0].shape == (2, 2)
    assert conv.argument("groups") == 1 and conv.argument("nothing", "left") == "left"


def test_the_model_is_left_as_it_was() -> None:
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record(model, torch.randn(2, 3, 5, 5))
    assert model.training and model.block.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model._forward_hooks and not model.block.conv._forward_pre_hooks


def test_a_module_that_runs_twice_is_written_down_twice_with_one_weight() -> None:
    layer = nn.Linear(3, 3, bias=False)
    tape = record(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 3))
    assert names(tape) == ["t", "mm", "relu", "t", "mm"]
    assert list(tape.parameters.values()) == ["0.weight"]
    assert tape.ops[0].refs() == tape.ops[3].refs()
    assert [op.module for op in tape.ops] == ["0", "0", "1", "0", "0"], "the first name of a shared module"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_a_recurrent_layer_is_one_operation(kind: type[nn.RNNBase], both: bool) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 4, num_layers=2, bidirectional=both, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0].relu()

    tape = record(Reader(), torch.randn(2, 5, 3))
    made = ("aten.zeros", "aten.detach")  # the states that it begins with
    (op,) = [op for op in tape.ops if op.module == "rnn" and op.name not in made]
    assert op.name == {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[kind.__name__]
    held = {tape.parameters[ref.key] for ref in op.refs() if ref.key in tape.parameters}
    assert held == {name for name, _ in Reader().named_parameters()}
    assert op.outputs[0].shape == (2, 5, 8 if both else 4)
    assert names(tape)[-1] == "relu" and tape.ops[-1].refs() == [op.outputs[0]]


def test_attention_is_written_as_the_operations_that_it_is_made_of() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    assert torch.backends.mha.get_fastpath_enabled()
    tape = record(layer, torch.randn(2, 5, 8))
    assert names(tape).count("addmm") + names(tape).count("mm") >= 4
    assert not any("transformer_encoder" in name for name in names(tape))
    assert torch.backends.mha.get_fastpath_enabled()


# ------------------------------------------------------------------------------------------------- parametrizations


def test_weights_that_are_computed_appear_as_plain_ones_and_the_model_keeps_its_way() -> None:
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)).train()
    names_before, kind = list(model.state_dict()), type(model[0])
    example = torch.randn(1, 3, 5, 5)
    tape = record(model, example)
    assert set(tape.parameters.values()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    copy = plain(model)
    assert dict(copy.named_parameters()).keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert type(copy[0]) is nn.Conv2d and not copy.training
    assert torch.equal(copy[0].weight, model[0].weight)
    torch.testing.assert_close(copy(example), model(example))
    assert list(model.state_dict()) == names_before and type(model[0]) is kind and model.training
    model[0].parametrizations.weight.original0.data *= 2
    assert torch.equal(model[0].weight, model[0].weight) and not torch.equal(copy[0].weight, model[0].weight)


# -------------------------------------------------------------------------------------------------------- constants


def test_what_no_data_and_no_parameter_reaches_is_a_constant() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return x + weight * torch.arange(3)

    tape = record(Doing(forward), torch.randn(1, 3))
    by_name = {op.name: op for op in tape.ops}
    assert tape.constants[by_name["aten.arange"].outputs[0].key].tolist() == [0, 1, 2]
    assert by_name["aten.mul"].outputs[0].key not in tape.constants
    assert by_name["aten.add"].outputs[0].key not in tape.constants


def test_a_constant_that_data_is_written_into_is_none_any_more() -> None:
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        out = torch.zeros(1, 6)
        out[:, :3] = x * weight
        return out

    tape = record(Doing(forward), torch.randn(1, 3))
    (out,) = tape.outputs
    assert out.key in tape.written and out.key not in tape.constants


def test_an_attribute_that_is_no_buffer_is_a_constant() -> None:
    model = Doing(lambda weight, x: x * weight + model.offset[0])
    model.offset = [torch.tensor([1.0, 2.0, 3.0])]
    tape = record(model, torch.randn(1, 3))
    assert [value.tolist() for value in tape.constants.values()] == [[1.0, 2.0, 3.0]]


# ------------------------------------------------------------------------------------------------- what is refused


class Inner(nn.Module):
    def __init__(self, asks: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.asks, self.linear = asks, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.asks(x) else -x


ASKING: dict[str, Callable[[Tensor], bool]] = {
    "if": lambda x: bool((x > 0).any()),
    "item": lambda x: x.sum().item() > 0,
    "equal": lambda x: torch.equal(x, x.abs()),
    "loop": lambda x: len(range(int(x.argmax()))) > 1,
    "list": lambda x: x.sum(0).tolist()[0] > 0,
    "numpy": lambda x: bool(x.numpy()[0, 0] > 0),
    "nan": lambda x: bool(torch.isnan(x).any()),
}


@pytest.mark.parametrize("how", ASKING)
def test_control_flow_by_data_names_the_module(how: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"deep": Inner(ASKING[how])})["deep"])
    with pytest.raises(TraceError, match=r"^data-dependent control flow in 1: .* rewrite it with torch\.where$"):
        record(model, torch.randn(2, 3))


def test_control_flow_of_the_model_itself_says_so() -> None:
    with pytest.raises(TraceError, match=r"^data-dependent control flow in the model:"):
        record(Inner(ASKING["if"]), torch.randn(2, 3))


def test_a_refused_model_leaves_nothing_behind() -> None:
    model = Inner(ASKING["if"])
    with pytest.raises(TraceError):
        record(model, torch.randn(2, 3))
    assert torch.is_tensor(model(torch.randn(2, 3))) and torch.backends.mha.get_fastpath_enabled()
    record(Net(), torch.randn(2, 3, 5, 5))


def test_values_that_do_not_depend_on_data_may_be_asked_for() -> None:
    """Shapes, constants, and a mask of whole numbers that is checked before it is used."""

    def forward(weight: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        assert x.shape[0] and bool(torch.arange(3).max() == 2)
        if mask.all():
            return x * weight
        return x * weight * mask

    tape = record(Doing(forward), (torch.randn(2, 3), torch.ones(2, 3, dtype=torch.int64)))
    assert names(tape)[-1] == "mul"


def test_an_example_of_the_wrong_shape_gives_torchs_reason_in_one_line() -> None:
    with pytest.raises(TraceError) as caught:
        groups(Net(), torch.randn(2, 4, 5, 5))
    said = str(caught.value)
    assert said.startswith("the model's forward fails on the example: RuntimeError: Given groups=1, weight of size")
    assert "\n" not in said and "[2, 4, 5, 5]" in said
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_too_few_inputs_are_torchs_error_too() -> None:
    with pytest.raises(TraceError, match=r"fails on the example: TypeError: .*forward\(\)"):
        record(Net(), (torch.randn(2, 3, 5, 5), torch.randn(1)))


@pytest.mark.parametrize(("result", "kind"), [(None, "NoneType"), (3.0, "float"), ({"a": [1]}, "dict"), ((), "tuple")])
def test_a_model_that_gives_no_tensor_is_refused(result: Any, kind: str) -> None:
    with pytest.raises(TraceError, match=rf"^the model gives {kind}, no tensor"):
        record(Doing(lambda weight, x: result), torch.randn(1, 3))
