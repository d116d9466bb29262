"""From a module to ONNX: every tensor keeps its name and values, every kind of input goes through."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from decoct.errors import TraceError
from decoct.export.onnx import to_onnx
from decoct.testing import small


def held(model: nn.Module, example: object) -> dict[str, np.ndarray]:
    proto = to_onnx(model, example)
    onnx.checker.check_model(proto)
    return {weight.name: onnx.numpy_helper.to_array(weight) for weight in proto.graph.initializer}


def test_batchnorm_is_not_folded_and_names_are_kept() -> None:
    draft, task = small()
    weights = held(draft.model, task.example)
    for name, tensor in draft.tensors().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(weights[name], tensor.numpy())


def test_an_lstm_keeps_its_tensors() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    model = Tagger()
    assert set(dict(model.named_parameters())) <= set(held(model, torch.zeros(1, 4, 3)))


def test_named_inputs_and_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 3)
            self.out = nn.Linear(3, 7, bias=False)
            self.out.weight = self.table.weight

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(ids) * mask[..., None])

    proto = to_onnx(Tied(), {"ids": torch.zeros(1, 4, dtype=torch.long), "mask": torch.ones(1, 4)})
    assert [port.name for port in proto.graph.input] == ["ids", "mask"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_what_cannot_be_exported_is_said() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(TraceError, match="cannot export Branching"):
        to_onnx(Branching(), torch.zeros(2, 3))


def test_the_model_is_left_as_it_was() -> None:
    draft, task = small()
    draft.model.train()
    to_onnx(draft.model, task.example)
    assert draft.model.training


class Convolutions(nn.Module):
    """Convolutions with and without bias; biases that are zero but the model's own, one of a single channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.wide, self.single = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 1, 1)
        self.up = nn.ConvTranspose2d(1, 2, 2, bias=False)
        self.zero = nn.Parameter(torch.zeros(1))
        for bias in (self.wide.bias, self.single.bias):
            nn.init.zeros_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(self.single(self.wide(self.norm(self.first(x)))))
        return F.conv2d(y, torch.ones(3, 2, 1, 1), self.zero.expand(3))


def run(proto: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_a_convolution_without_bias_has_two_inputs_and_one_with_zeros_keeps_them() -> None:
    model, x = Convolutions().eval(), torch.randn(2, 3, 8, 8)
    proto = to_onnx(model, x)
    onnx.checker.check_model(proto)
    convolutions = [list(node.input) for node in proto.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert [inputs[1:] for inputs in convolutions[:4]] == [
        ["first.weight"], ["wide.weight", "wide.bias"], ["single.weight", "single.bias"], ["up.weight"],
    ]  # fmt: skip
    assert len(convolutions[4]) == 3
    names = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert names <= {each.name for each in proto.graph.initializer}
    np.testing.assert_allclose(run(proto, x), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_of_the_zeros_that_torch_made_is_left() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    proto, x = to_onnx(model, torch.zeros(1, 3, 8, 8)), torch.randn(2, 3, 8, 8)
    assert [node.op_type for node in proto.graph.node] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    np.testing.assert_allclose(run(proto, x), model.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_only_a_branch_reads_is_kept() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.cond(y.sum() > 0, lambda z: z + 1, lambda z: z - 1, (2 * y,))

    model, x = Branching(), torch.randn(2, 3, 8, 8)
    for inputs in (x, -x):
        np.testing.assert_allclose(run(to_onnx(model, x), inputs), model(inputs).detach().numpy(), rtol=1e-4, atol=1e-5)
