"""ONNX files whose weights pass through memory one at a time.

An `.onnx` is a protobuf message; its weights are byte fields far inside. `split` walks the fields of a file, leaves the
large weights where they lie and parses the rest; `write` puts such a model down again, weights coming one by one.
Field numbers and wire types are those of onnx.proto3 and of protobuf's encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from decoct.coding.reader import varint
from decoct.errors import FormatError
from decoct.file import replacing

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW = 7, 5, 9
LENGTH_DELIMITED = 2
FIXED_BYTES = {1: 8, 5: 4}
SMALLEST_SPLIT = 65_536
LARGEST_PROTO = 2**31 - 2**20
"""Protobuf ends at 2 GiB; beyond, the weights of an `.onnx` lie in a second file."""
ALIGNMENT = 4096

Raw = Callable[[], bytes | np.ndarray]


def parse(data: bytes, label: str) -> ModelProto:
    """An ONNX model from bytes; FormatError where they are none."""
    try:
        model = ModelProto.FromString(data)
    except DecodeError as error:
        raise FormatError(f"{label} is not an ONNX model: {error}") from error
    if not model.HasField("graph"):
        raise FormatError(f"{label} is not an ONNX model: it has no graph")
    return model


def split(path: str | Path) -> tuple[ModelProto, dict[str, Raw]]:
    """A model without the raw data of its larger weights, and a way to read each of these by name.

    Weights in files beside the model count as larger weights. Raises FormatError for what is no ONNX model.
    """
    path = Path(path)
    spans: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise FormatError(f"{path} is empty, not an ONNX model")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                model = parse(_without_weights(data, spans), str(path))
            except (IndexError, KeyError, DecodeError) as error:
                raise FormatError(f"{path} is not an ONNX model: {error}") from error
    raws: dict[str, Raw] = {name: _reader(path, *span) for name, span in spans.items()}
    for weight in model.graph.initializer:
        if weight.data_location == TensorProto.EXTERNAL:
            raws[weight.name] = _external(path, weight)
            weight.ClearField("external_data")
            weight.ClearField("data_location")
    return model, raws


def _without_weights(data: mmap.mmap, spans: dict[str, tuple[int, int]]) -> bytes:
    """The model's bytes, large raw data cut; `spans` gets name -> (start, length) of what was cut."""
    model = bytearray()
    for number, start, body, end in _fields(data, 0, len(data)):
        if number != MODEL_GRAPH:
            model += data[start:end]
            continue
        graph = bytearray()
        for inner, inner_start, inner_body, inner_end in _fields(data, body, end):
            if inner == GRAPH_INITIALIZER and inner_end - inner_body >= SMALLEST_SPLIT:
                graph += field(GRAPH_INITIALIZER, _cut(data, inner_body, inner_end, spans))
            else:
                graph += data[inner_start:inner_end]
        model += field(MODEL_GRAPH, graph)
    return bytes(model)


def _cut(data: mmap.mmap, start: int, end: int, spans: dict[str, tuple[int, int]]) -> bytes:
    kept, span = bytearray(), None
    for number, first, body, last in _fields(data, start, end):
        if number == TENSOR_RAW:
            span = (body, last - body)
        else:
            kept += data[first:last]
    if span is not None:
        spans[TensorProto.FromString(bytes(kept)).name] = span
    return bytes(kept)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, where the field starts, where its body starts, where it ends."""
    while start < end:
        tag, place = _read_varint(data, start)
        if tag & 7 == LENGTH_DELIMITED:
            length, place = _read_varint(data, place)
            last = place + length
        elif tag & 7 == 0:
            _, last = _read_varint(data, place)
        else:
            last = place + FIXED_BYTES[tag & 7]
        if last > end:
            raise IndexError(f"a field at byte {start} goes on beyond its message")
        yield tag >> 3, start, place, last
        start = last


def _read_varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
        if shift > 63:
            raise IndexError(f"a number before byte {place} has no end")


def field(number: int, body: bytes | bytearray) -> bytes:
    """A length-delimited field of a message."""
    return _head(number, len(body)) + body


def _head(number: int, length: int) -> bytes:
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length)


def _reader(path: Path, start: int, length: int) -> Raw:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    return read


def _external(path: Path, weight: TensorProto) -> Raw:
    """Reads a weight that lies in a file beside the model; onnx itself refuses paths that lead elsewhere."""
    place = TensorProto()
    place.CopyFrom(weight)

    def read() -> bytes:
        loaded = TensorProto()
        loaded.CopyFrom(place)
        try:
            onnx.external_data_helper.load_external_data_for_tensor(loaded, str(path.parent.absolute()))
        except (onnx.checker.ValidationError, ValueError) as error:
            raise FormatError(f"{path}: the data of {place.name!r} beside it cannot be read: {error}") from error
        return loaded.raw_data

    return read


def write(path: str | Path, model: ModelProto, weights: Mapping[str, tuple[int, Raw]]) -> int:
    """Write a model whose initializers named in `weights` (name -> size in bytes, reader) lack their data; its bytes.

    Beyond protobuf's 2 GiB the weights go to a second file, the name with ".data" behind it, which the first refers to.
    """
    path = Path(path)
    if sum(size for size, _ in weights.values()) + model.ByteSize() > LARGEST_PROTO:
        return _write_apart(path, model, weights)
    stubs = [weight for weight in model.graph.initializer if weight.name in weights]
    heads = [stub.SerializeToString(deterministic=True) for stub in stubs]
    rest = ModelProto()
    rest.CopyFrom(model)
    del rest.graph.initializer[:]
    rest.graph.initializer.extend(weight for weight in model.graph.initializer if weight.name not in weights)
    graph = rest.graph.SerializeToString(deterministic=True)
    rest.ClearField("graph")
    raw_heads = [_head(TENSOR_RAW, weights[stub.name][0]) for stub in stubs]
    lengths = [
        len(head) + len(raw_head) + weights[stub.name][0]
        for stub, head, raw_head in zip(stubs, heads, raw_heads, strict=True)
    ]
    total = len(graph) + sum(len(_head(GRAPH_INITIALIZER, length)) + length for length in lengths)
    with replacing(path) as file:
        file.write(rest.SerializeToString(deterministic=True) + _head(MODEL_GRAPH, total) + graph)
        for stub, head, raw_head, length in zip(stubs, heads, raw_heads, lengths, strict=True):
            file.write(_head(GRAPH_INITIALIZER, length) + head + raw_head)
            _write_raw(file, stub.name, *weights[stub.name])
        return file.tell()


def _write_apart(path: Path, model: ModelProto, weights: Mapping[str, tuple[int, Raw]]) -> int:
    beside = path.with_name(path.name + ".data")
    with replacing(beside) as file, replacing(path) as head:
        for weight in model.graph.initializer:
            if weight.name not in weights:
                continue
            file.write(bytes(-file.tell() % ALIGNMENT))
            size, raw = weights[weight.name]
            place: dict[str, Any] = {"location": beside.name, "offset": file.tell(), "length": size}
            weight.data_location = TensorProto.EXTERNAL
            del weight.external_data[:]
            for key, value in place.items():
                weight.external_data.add(key=key, value=str(value))
            _write_raw(file, weight.name, size, raw)
        head.write(model.SerializeToString(deterministic=True))
        return file.tell() + head.tell()


def _write_raw(file: BinaryIO, name: str, size: int, raw: Raw) -> None:
    data = raw()
    count = data.nbytes if isinstance(data, np.ndarray) else len(data)
    if count != size:
        raise FormatError(f"the weight {name!r} has {count} bytes; its shape and dtype call for {size}")
    file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data if isinstance(data, np.ndarray) else data)
