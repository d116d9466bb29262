"""From a module to ONNX: every tensor keeps its name and values, every kind of input goes through."""

import numpy as np
import onnx
import pytest
import torch
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
