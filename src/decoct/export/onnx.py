"""A module as an ONNX graph whose initializers bear the names of the state dict, so that coded weights can fill it."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Set
from copy import deepcopy
from typing import Any

import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from decoct.errors import MissingExtraError, TraceError
from decoct.task import first_line, to_device

OPSET = 20


def to_onnx(model: nn.Module, example: Any) -> onnx.ModelProto:
    """Trace `model` on `example` (its first dimension, the batch, is left free) into an ONNX model.

    Nothing is folded: convolution and BatchNorm stay apart, so that every tensor is the model's own; the runtime fuses
    them when it loads. Raises TraceError where torch cannot export the model.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError('exporting needs onnxscript: pip install "decoct[compress]"') from error
    model = deepcopy(model).cpu().eval()
    args, kwargs, names = _arguments(model, to_device(example, torch.device("cpu")))
    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            program = torch.onnx.export(
                model, args, kwargs=kwargs, dynamo=True, optimize=False, verbose=False, opset_version=OPSET,
                input_names=names, dynamic_shapes=_shapes(args, kwargs, batch),
            )  # fmt: skip
        except Exception as error:
            cause = error.__cause__ or error
            raise TraceError(f"torch cannot export {type(model).__name__} to ONNX: {first_line(cause)}") from error
    assert program is not None
    return _named_outputs(_without_zero_biases(program.model_proto, set(model.state_dict())))


def _arguments(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    """Positional and keyword arguments, and the names of the inputs."""
    parameters = list(inspect.signature(model.forward).parameters)
    if isinstance(example, Mapping):
        given = {name: _batched(value) for name, value in example.items()}
        return (), given, [name for name in parameters if name in given]
    args = tuple(_batched(value) for value in (example if isinstance(example, tuple | list) else (example,)))
    return args, {}, ["input"] if len(args) == 1 else parameters[: len(args)]


def _batched(value: Any) -> Any:
    """A tensor with at least two rows: an example of one row would have its batch taken for a constant."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.dim() and value.shape[0] == 1 else value


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any) -> Any:
    free = {0: batch}
    if kwargs:
        return {name: free if isinstance(value, Tensor) else None for name, value in kwargs.items()}
    return tuple(free if isinstance(value, Tensor) else None for value in args)


def _named_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Call a lone output "output"; torch names it after the last operation."""
    if len(proto.graph.output) == 1 and "output" not in {name for node in proto.graph.node for name in node.input}:
        old = proto.graph.output[0].name
        proto.graph.output[0].name = "output"
        for node in proto.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = "output"
    return proto


def _without_zero_biases(proto: onnx.ModelProto, own: Set[str]) -> onnx.ModelProto:
    """Take away the zeros that the exporter computes for the bias of a convolution that has none.

    They hide from the runtime that convolution, BatchNorm and ReLU can be one operation: it would lose a third of its
    speed.

    own: the names of the model's tensors, which stay even where they are zero.
    """
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    values = {each.name: each for each in graph.initializer if each.name not in own}
    freed = []
    for node in graph.node:
        if (
            node.op_type in ("Conv", "ConvTranspose")
            and len(node.input) == 3
            and _is_zero(node.input[2], makers, values)
        ):
            freed.append(node.input.pop())
    for name in freed:
        _drop(graph, name, makers)
    return proto


def _drop(graph: onnx.GraphProto, name: str, makers: Mapping[str, onnx.NodeProto]) -> None:
    """Remove what makes a value, and what is made for it alone, if nothing reads it."""
    node = makers.get(name)
    if node is None or node not in graph.node or set(_read(graph)) & set(node.output):
        return
    inputs = list(node.input)
    graph.node.remove(node)
    for each in inputs:
        _drop(graph, each, makers)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a graph, or a subgraph in it, reads."""
    yield from (port.name for port in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read(inner)


def _is_zero(name: str, makers: Mapping[str, onnx.NodeProto], values: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a value is a single constant zero, spread over a shape."""
    if name in values:
        return _all_zero(values[name])
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type == "Constant":
        (held,) = node.attribute
        return (
            _all_zero(held.t)
            if held.HasField("t")
            else held.name in ("value_float", "value_int") and not held.f + held.i
        )
    return node.op_type in ("Expand", "CastLike", "Cast") and _is_zero(node.input[0], makers, values)


def _all_zero(tensor: onnx.TensorProto) -> bool:
    return bool(len(tensor.dims) == 0 or list(tensor.dims) == [1]) and not onnx.numpy_helper.to_array(tensor).any()


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's own chatter from the user's screen; errors still come as exceptions."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
