"""A model file without its source class or data, coded: `.safetensors` or `.onnx` to `.dct` and back.

    lossless   every bit comes back; tensors with few distinct values are stored as codes, zeros as positions
    half       32-bit weights are rounded to float16
    bits       weight matrices are rounded to N bits, symmetric, a scale per output channel (per row of an embedding)
    step       weight matrices are rounded to multiples of one step

What a mode does not apply to stays lossless. Tensors pass one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

import decoct
from decoct import events, graph_weights, onnx_stream, safetensors_stream
from decoct.coding import Stored
from decoct.errors import FormatError, RecipeError, nearest
from decoct.file import Entry, File, coded_dtype, itemsize, open_file, write
from decoct.onnx_stream import Raw

Mode = Literal["lossless", "half", "bits", "step"]
MODES = ("lossless", "half", "bits", "step")
KINDS = (".safetensors", ".onnx")
FLOATS = ("float32", "float16", "bfloat16")
MOST_SHARED = 4096
SAMPLE = 65_536
BLOCK = 1 << 20
SMALLEST_TENSOR = 64
"""Bytes below which integers of an ONNX graph stay in the graph, as numbers without dimensions do."""
LARGEST_HALF = 65_504.0
DENSEST_SPARSE = 0.9
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the source: its values are read when asked for. axis: its output channels; None: no weight matrix."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    raw: Raw

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return int(np.prod(self.shape, dtype=object)) * itemsize(self.dtype)

    def bits(self) -> np.ndarray:
        """Its numbers, flat, in the dtype in which they are coded; bfloat16 as uint16."""
        known = coded_dtype(self.dtype)
        return np.frombuffer(self.raw(), "uint16" if known == "bfloat16" else known)


def pack(
    source: str | Path,
    target: str | Path,
    *,
    mode: Mode = "lossless",
    bits: int | None = None,
    step: float | None = None,
    coder: str = "auto",
) -> int:
    """Write a `.safetensors` or `.onnx` as a `.dct` and return its bytes; of an `.onnx` the result runs.

    bits: 1-8 with mode "bits" (16 is "half"); step: with mode "step". coder: of all tensors; "auto": the smallest.
    Emits a warning when the mode applied to less than half of the bytes. Raises RecipeError for arguments that cannot
    be, FormatError for a damaged source.
    """
    mode, round_to = _mode(mode, bits, step)
    source = Path(source)
    kind = _kind(source, "pack")
    if kind == ".onnx":
        tensors, meta, graph, total = _from_onnx(source)
    else:
        tensors, meta, graph, total = _from_safetensors(source)
    touched = 0

    def entries() -> Iterator[Entry]:
        nonlocal touched
        for done, tensor in enumerate(tensors):
            stored, coarse = store(tensor, round_to)
            touched += tensor.size_bytes if coarse or mode == "lossless" else 0
            yield Entry(tensor.name, stored, coder, dtype=tensor.dtype)
            del stored
            events.emit("progress", what=f"pack {source.name}", done=done + 1, total=len(tensors))

    size = write(target, entries(), meta, graph)
    if touched < total / 2:
        what = "was coded" if mode == "lossless" else f"took {mode}"
        events.emit(
            "warning", text=f"{source.name}: only {touched:,} of {total:,} bytes {what}; the rest stayed as it was"
        )
    return size


def unpack(source: str | Path, target: str | Path, limit_bytes: int | None = None) -> int:
    """Write a `.dct` as `.safetensors` or `.onnx` and return the bytes.

    Beyond 2 GiB the weights of an `.onnx` go to a second file beside it, ".data". Raises FormatError for a damaged or
    bare file, or for an `.onnx` of a file without a graph; RecipeError for another kind of target.
    """
    kind = _kind(Path(target), "unpack to")
    file = open_file(source, limit_bytes)
    return _to_onnx(file, Path(target)) if kind == ".onnx" else _to_safetensors(file, Path(target))


def _mode(mode: str, bits: int | None, step: float | None) -> tuple[Mode, Rounding]:
    if mode not in MODES:
        raise RecipeError(f"mode is one of {', '.join(MODES)}, not {mode!r}{nearest(mode, MODES)}")
    if (bits is not None) != (mode == "bits") or (step is not None) != (mode == "step"):
        raise RecipeError(f"bits is given with mode 'bits' and step with mode 'step', each alone; mode is {mode!r}")
    if bits == 16 or mode == "half":
        return "half", _half
    if bits is not None:
        if not isinstance(bits, int) or not 1 <= bits <= 8:
            raise RecipeError(f"bits is 1 to 8, or 16, not {bits}")
        return "bits", lambda tensor, values, stored: _grid(tensor, values, stored, bits)
    if step is not None:
        if not 0 < step < float("inf"):
            raise RecipeError(f"step is above 0, not {step}")
        return "step", lambda tensor, values, _: _steps(tensor, values, step)
    return "lossless", lambda tensor, values, stored: None


def _kind(path: Path, what: str) -> str:
    suffix = path.suffix.lower()
    if suffix in KINDS:
        return suffix
    hint = "; it is a pickle, which decoct does not read: save it as .safetensors" if suffix in PICKLES else ""
    raise RecipeError(f"{path}: cannot {what} {suffix or 'a file without a suffix'}; known: {', '.join(KINDS)}{hint}")


# ----------------------------------------------------------------------------------------------------- sources, targets


Source = tuple[list[Tensor], dict[str, Any], bytes | None, int]
"""The tensors, the meta, the graph without them, and the bytes of all weights."""


def _from_safetensors(source: Path) -> Source:
    parts, metadata = safetensors_stream.read(source)
    tensors = [
        Tensor(part.name, part.dtype, part.shape, 0 if len(part.shape) > 1 else None, part.raw) for part in parts
    ]
    meta: dict[str, Any] = {"decoct": decoct.__version__} | ({"safetensors": metadata} if metadata else {})
    return tensors, meta, None, sum(tensor.size_bytes for tensor in tensors)


def _from_onnx(source: Path) -> Source:
    model, raws = onnx_stream.split(source)
    weights = graph_weights.slots(model)
    axes = output_axes(model)
    tensors = []
    for name, weight in weights.items():
        size = graph_weights.size_bytes(weight)
        dtype = graph_weights.DTYPES.get(weight.data_type)
        small = not weight.dims or (size < SMALLEST_TENSOR and "float" not in (dtype or ""))
        if small and name not in raws:
            continue
        shape = tuple(weight.dims)
        if dtype is None:
            if name not in raws and not weight.raw_data:
                continue
            dtype, shape = "uint8", (size,)
        tensors.append(Tensor(name, dtype, shape, axes.get(name), raws.get(name) or _inline(weight)))
    left = sum(graph_weights.size_bytes(weight) for weight in weights.values())
    meta = {"decoct": decoct.__version__, **graph_weights.signature(model)}
    graph = graph_weights.strip(model, [tensor.name for tensor in tensors])
    return tensors, meta, graph, left + len(graph)


def _inline(weight: TensorProto) -> Raw:
    """Reads a weight that the model carries; a copy, since the model is about to lose it."""
    data = weight.raw_data or numpy_helper.to_array(weight).tobytes()
    return lambda: data


def output_axes(model: ModelProto) -> dict[str, int]:
    """The dimension of output channels of every weight matrix of a graph, by initializer."""
    axes: dict[str, int] = {}
    ranks = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            rank = ranks.get(name, 0)
            rule = WEIGHTS.get((node.op_type, place)) if rank > 1 else None
            if rule is not None:
                transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
                axes.setdefault(name, rule(rank, transposed))
    return axes


WEIGHTS: Mapping[tuple[str, int], Callable[[int, bool], int]] = {
    ("Conv", 1): lambda rank, _: 0,
    ("ConvTranspose", 1): lambda rank, _: 1,
    ("Gemm", 1): lambda rank, transposed: 0 if transposed else 1,
    ("MatMul", 1): lambda rank, _: rank - 1,
    ("Transpose", 0): lambda rank, _: 0,
    ("Gather", 0): lambda rank, _: 0,
    **{(kind, place): (lambda rank, _: 1) for kind in ("LSTM", "GRU", "RNN") for place in (1, 2)},
}
"""(operation, input) -> the rule for its output channels, from the tensor's rank and Gemm's transB."""


def _to_safetensors(file: File, target: Path) -> int:
    names = [name for name in file.names if not (file.graph() and name.startswith(graph_weights.PREFIX))]
    owners = {name: name for name in names} | dict(file.aliases)
    parts = [
        safetensors_stream.Part(name, file.dtype(owner), file.shape(owner), _raw(file, owner))
        for name, owner in owners.items()
    ]
    return safetensors_stream.write(target, parts, file.meta.get("safetensors", {}))


def _to_onnx(file: File, target: Path) -> int:
    graph = file.graph()
    if graph is None:
        raise FormatError(f"{file.label} carries no graph, so that it can be unpacked to .safetensors only")
    model, held = graph_weights.join(graph, file)
    weights = {
        weight.name: (graph_weights.size_bytes(weight), _raw(file, held[weight.name]))
        for weight in model.graph.initializer
        if weight.name in held
    }
    return onnx_stream.write(target, model, weights)


def _raw(file: File, name: str) -> Raw:
    return lambda: graph_weights.raw(file, name)


# ---------------------------------------------------------------------------------------------------- one tensor's form

Rounding = Callable[[Tensor, np.ndarray, Stored], Stored | None]


def store(tensor: Tensor, round_to: Rounding) -> tuple[Stored, bool]:
    """How the file keeps a tensor, and whether that is coarse: rounded, or of few distinct values as it came."""
    values = tensor.bits()
    exact = lossless(tensor, values)
    rounded = round_to(tensor, values, exact) if tensor.dtype in FLOATS and tensor.shape else None
    return rounded or exact, rounded is not None or exact.kind == "shared"


def lossless(tensor: Tensor, values: np.ndarray) -> Stored:
    """A tensor bit by bit: codes where it has few distinct values, positions where zeros are many.

    values: (size,), as `Tensor.bits` gives them. Minus zero is a value like any other; only all bits zero is a zero.
    """
    patterns = values.view(f"u{values.dtype.itemsize}") if values.dtype.kind in "fc" else values
    kept = _kept(patterns)
    plain = Stored(tensor.shape, coded_dtype(tensor.dtype), "plain", values if kept is None else values[kept], kept)
    brain = tensor.dtype == "bfloat16"
    if not brain and tensor.dtype not in ("float16", "float32"):
        return plain
    data = patterns if kept is None else patterns[kept]
    table = distinct(data)
    if table is None or len(table) * 8 > len(data):
        return plain
    codebook = (table.astype(np.uint32) << 16).view(np.float32) if brain else table.view(values.dtype)
    if brain and np.isnan(codebook).any():  # a conversion may change the bits of what is not a number
        return plain
    return replace(plain, kind="shared", data=_codes(data, table), table=codebook)


def _kept(patterns: np.ndarray) -> np.ndarray | None:
    """Where a tensor is not zero, or None where too little of it is zero to be worth positions."""
    if not len(patterns) or np.count_nonzero(patterns) > DENSEST_SPARSE * len(patterns):
        return None
    return np.flatnonzero(patterns)


def distinct(patterns: np.ndarray) -> np.ndarray | None:
    """The distinct values, sorted, or None when there are more than 4,096; a sample is looked at first."""
    if not len(patterns):
        return None
    found = np.unique(patterns[:: max(1, len(patterns) // SAMPLE)])
    for start in range(0, len(patterns), BLOCK):
        if len(found) > MOST_SHARED:
            return None
        block = patterns[start : start + BLOCK]
        places = np.searchsorted(found, block).clip(max=len(found) - 1)
        found = np.union1d(found, block[found[places] != block])
    return found if len(found) <= MOST_SHARED else None


def _codes(patterns: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The place of every value in a sorted table that has them all."""
    codes = np.empty(len(patterns), np.uint8 if len(table) <= 256 else np.uint16)
    for start in range(0, len(patterns), BLOCK):
        codes[start : start + BLOCK] = np.searchsorted(table, patterns[start : start + BLOCK])
    return codes


def _half(tensor: Tensor, values: np.ndarray, exact: Stored) -> Stored | None:
    """float16 numbers, cast back when read; None for what is 16 bits already, shared, or outside float16's range."""
    if tensor.dtype != "float32" or exact.kind == "shared" or not _within(values, LARGEST_HALF):
        return None
    with np.errstate(under="ignore"):
        data = exact.data.astype(np.float16)
    return replace(exact, data=data)


def _within(values: np.ndarray, largest: float) -> bool:
    """Whether all are finite and none is larger; NaN fails."""
    return bool(not len(values) or max(values.max(), -values.min()) <= largest)


def _numbers(tensor: Tensor, values: np.ndarray) -> np.ndarray | None:
    """A weight matrix as float32 in its shape, or None for what no grid is laid over."""
    if tensor.axis is None or not values.size:
        return None
    if tensor.dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return (
        values.astype(np.float32, copy=False).reshape(tensor.shape)
        if _within(values, float(np.finfo("f4").max))
        else None
    )


def _grid(tensor: Tensor, values: np.ndarray, exact: Stored, bits: int) -> Stored | None:
    """Integers of `bits` bits times a scale per channel; None where the tensor already has no more distinct values."""
    if exact.kind == "shared" and exact.table is not None and len(exact.table) <= 2**bits:
        return None
    numbers = _numbers(tensor, values)
    if numbers is None or tensor.axis is None:
        return None
    channels = np.moveaxis(numbers, tensor.axis, 0).reshape(
        numbers.shape[tensor.axis], -1
    )  # (channels, weights of each)
    scale = scales(channels, bits)
    codes = np.empty(channels.shape, np.int8)
    largest = max(1, 2 ** (bits - 1) - 1)
    for start in range(0, len(channels), max(1, BLOCK // channels.shape[1])):
        rows = slice(start, start + max(1, BLOCK // channels.shape[1]))
        scaled = channels[rows] / scale[rows, None]
        codes[rows] = np.sign(scaled) if bits == 1 else np.rint(scaled).clip(-largest, largest)
    moved = (numbers.shape[tensor.axis], *np.delete(numbers.shape, tensor.axis))
    flat = np.ascontiguousarray(np.moveaxis(codes.reshape(moved), 0, tensor.axis)).reshape(-1)
    kept = _kept(flat)
    data = flat if kept is None else flat[kept]
    return Stored(tensor.shape, tensor.dtype, "grid", data, kept, table=scale, axis=tensor.axis)


CLIPS = np.linspace(0.3, 1.0, 29, dtype=np.float32)
SCALE_SAMPLE = 4096


def scales(channels: np.ndarray, bits: int) -> np.ndarray:
    """The scale of each channel (channels, weights) -> (channels,), with the least squared error.

    One bit: the mean size of the weights, which is optimal for signs (Rastegari 2016, arXiv 1603.05279). More: the best
    of 29 shares of the largest weight, judged on up to 4,096 weights of a channel. A channel of zeros has the scale 1.
    """
    largest = np.maximum(channels.max(axis=1), -channels.min(axis=1))
    if bits == 1:
        counts = np.maximum(np.count_nonzero(channels, axis=1), 1)
        best = np.abs(channels).sum(axis=1, dtype=np.float64) / counts
    else:
        levels = 2 ** (bits - 1) - 1
        sample = channels[:, :: -(-channels.shape[1] // SCALE_SAMPLE)]
        best, least = largest / levels, np.full(len(channels), np.inf)
        for clip in CLIPS if bits < 8 else CLIPS[-1:]:
            scale = np.maximum(largest * clip / levels, np.finfo("f4").tiny)
            error = ((np.rint(sample / scale[:, None]).clip(-levels, levels) * scale[:, None] - sample) ** 2).sum(
                axis=1
            )
            best, least = np.where(error <= least, scale, best), np.minimum(error, least)
    return np.where(largest > 0, np.maximum(best, np.finfo("f4").tiny), 1).astype(np.float32)


def _steps(tensor: Tensor, values: np.ndarray, step: float) -> Stored | None:
    """Multiples of one step; None where they would need more than 24 bits, which float32 does not have."""
    numbers = _numbers(tensor, values)
    if numbers is None or not _within(numbers, step * 2**23):
        return None
    table = np.array([step], np.float32)
    flat = np.rint(numbers.reshape(-1) / table[0]).astype(np.int32)
    largest = int(np.abs(flat).max(initial=0))
    flat = flat.astype(np.int8 if largest < 128 else np.int16 if largest < 32_768 else np.int32)
    kept = _kept(flat)
    return Stored(tensor.shape, tensor.dtype, "grid", flat if kept is None else flat[kept], kept, table=table)
