"""What tests share: few threads, an environment that is put back, a tiny recipe with model and data of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("decoct", deadline=None)  # no test is timed
hypothesis.settings.load_profile("decoct")

TINY = """\
import torch
from torch import nn
import torch.nn.functional as F
from decoct import Task


def net(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


def task(batches: int = 4, batch_size: int = 32) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batches, batch_size, 8, generator=generator)
    data = [(x, x[:, :3].argmax(1)) for x in inputs]
    return Task(train=data, validation=data, test=data[:2], example=data[0][0][:1], loss=F.cross_entropy)


def number(**ignored: int) -> int:
    return 3


def broken() -> None:
    raise ValueError("no such thing")
"""

RECIPE = """\
# A network of 8, 16 and 3 units on random data.
seed = 1

[model]
factory = "tiny_project:net"

[task]
factory = "tiny_project:task"
arguments = { batches = 4 }

[[step]]
method = "train.finetune"
epochs = 2
lr = 0.05

[[step]]
method = "prune.magnitude"
density = 0.5

[step.retrain]
epochs = 1

[[step]]
method = "quantize.kmeans"
bits = { "0*" = 3, "*" = 2 }
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need real data say so when it is not there."""
    if not os.environ.get("DECOCT_DATA"):
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(pytest.mark.skip(reason="DECOCT_DATA is not set: no real data to test on"))


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test does to the import path and the environment ends with it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A recipe file beside the module that it names."""
    (tmp_path / "tiny_project.py").write_text(TINY)
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """y = x W, 32 to 16, as an ONNX file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(matrix, "w")],
    )
    path = tmp_path / "line.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
