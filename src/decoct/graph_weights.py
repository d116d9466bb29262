"""An ONNX model parted from its weights, and joined with them again.

    slots(model)            the weights that a model carries, each with a name
    strip(model, held)      the model as bytes, without the weights that are held elsewhere
    join(graph, file)       the model again, with places for its weights; fill(graph, file): with the weights

What is left of a stripped model is small: node names, doc strings and shape hints are dropped and the values that pass
between nodes get short names; inputs, outputs, weights and the model's own metadata keep theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count
from math import prod
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper

from decoct import onnx_stream
from decoct.errors import FormatError
from decoct.file import File, itemsize

PREFIX = "graph."
SMALLEST_SLOT = 1024
"""Bytes from which a constant of the graph is worth a tensor of the file."""

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.UINT16: "uint16",
    TensorProto.INT16: "int16", TensorProto.INT32: "int32", TensorProto.INT64: "int64", TensorProto.BOOL: "bool",
    TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64", TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E5M2: "float8_e5m2", TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz", TensorProto.COMPLEX64: "complex64",
}  # fmt: skip
"""The ONNX types that a file expresses; others (4-bit integers, ...) are held as their raw bytes."""

ONNX_TYPES = {name: code for code, name in DTYPES.items()}


def signature(model: ModelProto) -> dict[str, list[dict[str, Any]]]:
    """The "inputs" and "outputs" of a model, as the meta of a file gives them."""
    held = {weight.name for weight in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in held]
    return {"inputs": [_port(port) for port in inputs], "outputs": [_port(port) for port in model.graph.output]}


def _port(port: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = port.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    dtype = "text" if kind.elem_type == TensorProto.STRING else DTYPES.get(kind.elem_type)
    return {"name": port.name, "shape": dims if kind.HasField("shape") else None, "dtype": dtype}


# --------------------------------------------------------------------------------------------------------- taking apart


def slots(model: ModelProto) -> dict[str, TensorProto]:
    """The weights of the main graph by name: its dense initializers that are no text.

    Large Constant nodes are turned into initializers first, in place, where the model's version allows it.
    """
    if model.ir_version >= 4:
        _lift_constants(model.graph)
    return {weight.name: weight for weight in model.graph.initializer if weight.data_type != TensorProto.STRING}


def _lift_constants(graph: GraphProto) -> None:
    large = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.attribute[0].name == "value":
            value = node.attribute[0].t
            if value.data_type != TensorProto.STRING and size_bytes(value) >= SMALLEST_SLOT:
                large.append(node)
    for node in large:
        value = graph.initializer.add()
        value.CopyFrom(node.attribute[0].t)
        value.name = node.output[0]
        graph.node.remove(node)


def size_bytes(weight: TensorProto) -> int:
    """Bytes of a weight's numbers as `raw_data` would hold them."""
    return (prod(weight.dims) * _bits(weight.data_type) + 7) // 8


def _bits(kind: int) -> int:
    if kind in DTYPES:
        return 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    name = TensorProto.DataType.Name(kind)
    return {"COMPLEX128": 128, "FLOAT8E8M0": 8}.get(name, 2 if name.endswith("INT2") else 4)


def constants(model: ModelProto, held: Collection[str]) -> dict[str, np.ndarray]:
    """The weights of a graph that are not among `held`, of 1 KiB or more, as tensors for the file ("graph." + name)."""
    return {
        PREFIX + name: numpy_helper.to_array(weight)
        for name, weight in slots(model).items()
        if name not in held and weight.data_type in DTYPES and size_bytes(weight) >= SMALLEST_SLOT
    }


def strip(model: ModelProto, held: Collection[str]) -> bytes:
    """Serialise a model without the weights named in `held`; the model given is left so, and tidied.

    held: names of initializers that the file holds, as they are or behind the prefix "graph.".
    """
    graph = model.graph
    held = {name.removeprefix(PREFIX) for name in held} | set(held)
    ports = {port.name for port in graph.input}
    left = []
    for weight in graph.initializer:
        if weight.name not in held:
            left.append(weight)
        elif weight.name in ports or weight.data_type not in DTYPES:
            left.append(TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims))
    kept = GraphProto(initializer=left)
    del graph.initializer[:]
    graph.initializer.extend(kept.initializer)
    tidy(model)
    return model.SerializeToString(deterministic=True)


def tidy(model: ModelProto) -> None:
    """Drop, in place, what no runtime needs, and shorten names.

    That is: who wrote it, doc strings, node names and metadata, shape hints, attributes that state the default.
    """
    for part in ("doc_string", "producer_name", "producer_version"):
        model.ClearField(part)
    for graph in _graphs(model.graph):
        for part in ("doc_string", "value_info", "metadata_props"):
            graph.ClearField(part)
        for port in [*graph.input, *graph.output, *graph.initializer]:
            port.ClearField("doc_string")
            port.ClearField("metadata_props")
    for function in model.functions:
        function.ClearField("doc_string")
        function.ClearField("value_info")
    versions = {opset.domain: opset.version for opset in model.opset_import}
    for node in [node for graph in _graphs(model.graph) for node in graph.node]:
        for part in ("doc_string", "name", "metadata_props"):
            node.ClearField(part)
        _drop_defaults(node, versions.get("", versions.get("ai.onnx", 0)))
    _shorten(model.graph)


def _drop_defaults(node: onnx.NodeProto, version: int) -> None:
    """Drop attributes with the operation's default value, for versions of the operations that onnx knows."""
    known = node.domain in ("", "ai.onnx") and 0 < version <= onnx.defs.onnx_opset_version()
    if not known:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return
    for attribute in list(node.attribute):
        stated = schema.attributes.get(attribute.name)
        attribute.ClearField("doc_string")
        if stated is not None and stated.default_value.type and stated.default_value == attribute:
            node.attribute.remove(attribute)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and every graph within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from _graphs(inner)


def _shorten(graph: GraphProto) -> None:
    """Give the values between nodes short names. Graphs with subgraphs, which see outer names, keep theirs."""
    if len(list(_graphs(graph))) > 1 or graph.quantization_annotation:
        return
    fixed = {port.name for port in [*graph.input, *graph.output]} | {""}
    made = [name for node in graph.node for name in node.output if name not in fixed]
    taken = fixed | {name for node in graph.node for name in node.input} | {weight.name for weight in graph.initializer}
    taken.difference_update(made)
    free = (name for number in count() if (name := _short(number)) not in taken)
    short = dict(zip(made, free, strict=False))
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = short.get(name, name)


def _short(number: int) -> str:
    """The names a, b, ..., z, aa, ab, ...

    >>> _short(0), _short(25), _short(26)
    ('a', 'z', 'aa')
    """
    letter = chr(97 + number % 26)
    return letter if number < 26 else _short(number // 26 - 1) + letter


# ------------------------------------------------------------------------------------------------------ joining again


def join(graph: bytes, file: File) -> tuple[ModelProto, dict[str, str]]:
    """A stripped model with an initializer, still without data, for each weight that it lacks.

    Also which tensor of the file each of them is: name in the graph -> name in the file. FormatError where the graph
    reads a name that nobody defines, or a tensor does not fit its initializer.
    """
    model = onnx_stream.parse(graph, f"{file.label}, graph")
    weights = {weight.name: weight for weight in model.graph.initializer if is_empty(weight)}
    for name in _undefined(model.graph, set()):
        weights[name] = TensorProto(name=name)
    held = {name: _held(name, file) for name in weights}
    for name, weight in weights.items():
        dtype, shape = file.dtype(held[name]), file.shape(held[name])
        if not weight.data_type:
            weight.data_type = ONNX_TYPES.get(dtype) or _no_type(file, name, dtype)
            weight.dims.extend(shape)
            model.graph.initializer.append(weight)
        if size_bytes(weight) != prod(shape) * itemsize(dtype):
            raise FormatError(f"{file.label}: {name!r} is {dtype}{list(shape)} in the file, another size in its graph")
    return model, held


def _held(name: str, file: File) -> str:
    for held in (name, PREFIX + name):
        if held in file:
            return held
    raise FormatError(f"{file.label}: its graph reads {name!r}, which neither the graph nor the file defines")


def _no_type(file: File, name: str, dtype: str) -> NoReturn:
    raise FormatError(f"{file.label}: {name!r} is {dtype}, which ONNX does not have")


def raw(file: File, name: str) -> np.ndarray:
    """The bytes of a tensor as ONNX's `raw_data` and `.safetensors` have them, uint8."""
    return np.ascontiguousarray(file.tensor(name)).reshape(-1).view(np.uint8)


def fill(graph: bytes, file: File) -> ModelProto:
    """A stripped model with all its weights again. Beyond protobuf's 2 GiB it can be held, but not serialised."""
    model, held = join(graph, file)
    for weight in model.graph.initializer:
        if weight.name in held:
            weight.raw_data = raw(file, held[weight.name]).tobytes()
    return model


def is_empty(weight: TensorProto) -> bool:
    """Whether an initializer stands for numbers that are held elsewhere."""
    return weight.data_type != TensorProto.STRING and prod(weight.dims) > 0 and not (
        weight.HasField("raw_data") or weight.external_data
        or weight.float_data or weight.int32_data or weight.int64_data or weight.double_data or weight.uint64_data
    )  # fmt: skip


def _undefined(graph: GraphProto, outer: set[str]) -> list[str]:
    """Names that the graph or a graph within it reads and nobody defines, in the order of reading, each once."""
    defined = outer | {""} | {port.name for port in graph.input} | {weight.name for weight in graph.initializer}
    defined |= {weight.values.name for weight in graph.sparse_initializer}
    made = {name for node in graph.node for name in node.output}
    reads = dict.fromkeys(name for node in graph.node for name in node.input)
    reads |= dict.fromkeys(port.name for port in graph.output)
    found = [name for name in reads if name not in defined | made]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                found += [name for name in _undefined(inner, defined | made) if name not in found]
    return found
