"""Latency by width: each layer timed by itself on ONNX Runtime, at every width that its groups may take.

A layer's time does not fall in a line with its channels (the runtime works in blocks of 8 or 16), so a budget of
latency needs a table. Times of different groups are taken to add up, which is exact where no layer lies between two of
them, as in the blocks of a residual network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import nn

from decoct.events import emit
from decoct.graph import Graph, Group
from decoct.graph.removal import positions
from decoct.graph.tape import plain
from decoct.prune.widths import Limits, Removal
from decoct.runtime import options
from decoct.task import call, device_of, to_device

WIDTHS = 8
"""Widths of a group that are timed, besides its own: equal steps of a multiple of 8, or of 1 for narrow groups."""


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer as it is timed: input (batch, channels, ...) and weight shapes, stride, padding."""

    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def narrowed(self, out: int | None = None, inner: int | None = None) -> Layer:
        """The same with other widths."""
        weight = (out or self.weight[0], inner or self.weight[1], *self.weight[2:])
        inputs = (self.inputs[0], inner or self.inputs[1], *self.inputs[2:])
        return Layer(inputs, weight, self.stride, self.padding, self.dilation, self.groups)


class Latencies:
    """Milliseconds of every layer, and of each group's layers at other widths; one thread, the example's batch."""

    def __init__(self, layers: Mapping[str, Layer], times: Mapping[Layer, float]) -> None:
        self.layers, self.times = dict(layers), dict(times)
        self.whole = sum(self.times[layer] for layer in self.layers.values())

    @classmethod
    def of(cls, model: nn.Module, example: Any, graph: Graph) -> Latencies:
        """Time the layers of a model at all widths that its groups may take."""
        layers = _layers(plain(model), example)
        wanted = set(layers.values())
        table = cls(layers, dict.fromkeys(wanted, 0.0))
        for group in graph.groups:
            for width in widths(group.size):
                wanted |= {layer for layer, _ in table.touched(group, width)}
        times = {}
        for done, layer in enumerate(sorted(wanted, key=repr), start=1):
            times[layer] = measured(layer)
            emit("progress", what="timing layers", done=done, total=len(wanted))
        return cls(layers, times)

    def touched(self, group: Group, width: int) -> list[tuple[Layer, Layer]]:
        """The layers that a group runs through, at a width and as they are."""
        found = []
        for member in group.members:
            name = member.tensor.removesuffix(".weight")
            if name not in self.layers or member.dim > 1:
                continue
            layer = self.layers[name]
            if layer.groups > 1:
                continue
            positions = int((member.units >= 0).sum())
            size = len(member.units) - positions + positions // group.size * width
            found.append((layer.narrowed(out=size) if member.dim == 0 else layer.narrowed(inner=size), layer))
        return found

    def saved(self, group: Group, width: int) -> float:
        """Milliseconds less at a width of a group."""
        return sum(self.times[layer] - self.times[narrow] for narrow, layer in self.touched(group, width))

    def after(self, graph: Graph, removed: Removal) -> float:
        """Milliseconds of all layers once units have been removed."""
        lost = {place: int(gone.sum()) for place, gone in positions(graph, removed).items()}
        total = 0.0
        for name, layer in self.layers.items():
            if layer.groups == 1:
                out, inner = (layer.weight[dim] - lost.get((f"{name}.weight", dim), 0) for dim in (0, 1))
                layer = layer.narrowed(out, inner)
            total += self.times[layer] if layer in self.times else measured(layer)
        return total

    def savings(self, group: Group, limits: Limits) -> dict[int, float]:
        """Milliseconds less at each width that a group may be given, by the number of units kept."""
        allowed = {width for width in widths(group.size) if width == limits.kept(group.size, width)} | {group.size}
        return {width: self.saved(group, width) for width in sorted(allowed)}


def widths(size: int) -> list[int]:
    """The widths of a group of `size` units that are timed.

    >>> widths(64), widths(6)
    ([8, 16, 24, 32, 40, 48, 56, 64], [1, 2, 3, 4, 5, 6])
    """
    step = 1 if size < 16 else max(8, -(-size // WIDTHS) // 8 * 8)
    return sorted({*range(step, size + 1, step), size})


def _layers(model: nn.Module, example: Any) -> dict[str, Layer]:
    """Every convolution and dense layer with the shape that the example gives its input."""
    found: dict[str, Layer] = {}

    def hook(name: str, module: Any, inputs: Any) -> None:
        shape = tuple(inputs[0].shape)
        if isinstance(module, nn.Linear):
            found[name] = Layer((int(np.prod(shape[:-1])), shape[-1]), tuple(module.weight.shape))
        elif not isinstance(module.padding, str):
            found[name] = Layer(
                shape, tuple(module.weight.shape), module.stride, module.padding, module.dilation, module.groups
            )

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: hook(name, module, inputs))
        for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]  # fmt: skip
    with torch.no_grad():
        call(model, to_device(example, device_of(model)))
    for handle in handles:
        handle.remove()
    return found


@cache
def measured(layer: Layer, seconds: float = 0.06) -> float:
    """Milliseconds of one layer followed by a ReLU: the median of what fits into `seconds`."""
    weight = np.random.default_rng(0).standard_normal(layer.weight).astype(np.float32)
    if layer.stride:
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"], strides=layer.stride, pads=[*layer.padding, *layer.padding],
            dilations=layer.dilation, group=layer.groups,
        )  # fmt: skip
    else:
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["y"], ["z"])], "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.inputs)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), options(1), providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(1).standard_normal(layer.inputs).astype(np.float32)}
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000
