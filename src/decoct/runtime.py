"""Run a `.dct` on ONNX Runtime: no source class, no torch.

>>> runtime = load("lenet.dct")             # doctest: +SKIP
>>> logits = runtime(images)                # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto

from decoct import graph_weights
from decoct.errors import FormatError, TaskError, nearest
from decoct.file import File, open_file
from decoct.graph_weights import DTYPES, size_bytes

SMALLEST_APART = 1024
SHAPE_TYPES = (TensorProto.INT64, TensorProto.INT32)
"""Types of the shapes and indices that the runtime wants to see while it reads a graph."""


class Runtime:
    """A network ready to be called.

    ``runtime(x)``, ``runtime(x, y)`` or ``runtime(name=x)`` with arrays in the shapes of `inputs`; what torch or others
    hold on the CPU is taken too. Returns the output as an array, several as a dict by name. TaskError for inputs that
    do not fit. `normalisation` and `labels` are what the file says of its inputs and outputs; nothing is applied.
    """

    def __init__(self, file: File, threads: int = 1) -> None:
        self.file = file
        self._session, self._weights = _session(file, threads)
        self.inputs: list[dict[str, Any]] = file.meta.get("inputs") or [
            _port(port) for port in self._session.get_inputs()
        ]
        self.outputs: list[dict[str, Any]] = (
            file.meta.get("outputs") or [_port(port) for port in self._session.get_outputs()]
        )  # fmt: skip
        self.normalisation: Mapping[str, Sequence[float]] | None = file.meta.get("normalisation")
        self.labels: Sequence[str] | None = file.meta.get("labels")

    def __repr__(self) -> str:
        takes = ", ".join(f"{port['name']} {port['dtype']}{port['shape']}" for port in self.inputs)
        return f"<Runtime {self.file.label}: {takes}>"

    def __call__(self, *inputs: Any, **named: Any) -> np.ndarray | dict[str, np.ndarray]:
        ports = self._session.get_inputs()
        feeds = named_inputs([port.name for port in ports], inputs, named)
        fitting = {port.name: _fitting(feeds[port.name], port) for port in ports}
        results = self._session.run(None, fitting)
        if len(results) == 1:
            return results[0]
        return dict(zip((port.name for port in self._session.get_outputs()), results, strict=True))

    def onnx(self) -> ModelProto:
        """The network as an ONNX model with its weights; beyond 2 GiB use `decoct.pack.unpack`."""
        graph = self.file.graph()
        assert graph is not None
        return graph_weights.fill(graph, self.file)

    def tensor(self, name: str) -> np.ndarray:
        """A tensor of the file, decoded."""
        return self.file.tensor(name)


def load(path: str | Path | bytes, threads: int = 1, limit_bytes: int | None = None) -> Runtime:
    """Open a self-contained `.dct` to run it on `threads` threads.

    limit_bytes: the most that it may decode to, see `decoct.file.open_file`. FormatError for a file without a graph.
    """
    return Runtime(open_file(path, limit_bytes), threads)


def options(threads: int) -> ort.SessionOptions:
    """How decoct opens every session: one pool of `threads` threads, no messages below errors."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3
    return chosen


def _session(file: File, threads: int) -> tuple[ort.InferenceSession, dict[str, ort.OrtValue]]:
    """The session, and the weights that must live as long as it does: they are lent to the runtime, not copied."""
    graph = file.graph()
    if graph is None:
        kind = "is bare: it" if file.bare else "holds weights only and"
        raise FormatError(f"{file.label} {kind} carries no graph to run; use decoct.load_module with the model's class")
    model, held = graph_weights.join(graph, file)
    lent: dict[str, ort.OrtValue] = {}
    for weight in model.graph.initializer:
        if weight.name not in held:
            continue
        data = graph_weights.raw(file, held[weight.name])
        if size_bytes(weight) < SMALLEST_APART or weight.data_type not in DTYPES or weight.data_type in SHAPE_TYPES:
            weight.raw_data = data.tobytes()
        else:
            lent[weight.name] = _lend(weight, data)
    chosen = options(threads)
    if lent:
        chosen.add_external_initializers(list(lent), list(lent.values()))
    try:
        return ort.InferenceSession(model.SerializeToString(), chosen, providers=["CPUExecutionProvider"]), lent
    except Exception as error:  # onnxruntime's own errors have no common class
        raise FormatError(f"ONNX Runtime does not accept the graph of {file.label}: {error}") from error


def _lend(weight: TensorProto, data: np.ndarray) -> ort.OrtValue:
    """Mark a weight as lying elsewhere and give the value that the runtime is to take for it."""
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="lent")
    values = data.view(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)).reshape(tuple(weight.dims))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values, weight.data_type)


def named_inputs(names: Sequence[str], inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name, from those given in order and those given by name; TaskError unless they are exactly `names`."""
    feeds = dict(zip(names, inputs, strict=False)) | dict(named)
    for name in named:
        if name not in names:
            raise TaskError(f"there is no input {name!r}{nearest(name, names)}; the inputs are {', '.join(names)}")
    if len(inputs) > len(names) or len(inputs) + len(named) != len(feeds) or len(feeds) != len(names):
        raise TaskError(
            f"the inputs are {', '.join(names)}; given were {len(inputs)} in order and {list(named)} by name"
        )
    return feeds


def _fitting(value: Any, port: ort.NodeArg) -> np.ndarray:
    """An input in the dtype and rank of its port."""
    if not port.type.startswith("tensor("):
        return value
    array = np.asarray(value)
    wanted = ORT_DTYPES.get(port.type)
    if wanted is not None and array.dtype != wanted:
        if not np.can_cast(array.dtype, wanted, "same_kind"):
            raise TaskError(f"input {port.name!r} is {wanted}; given was {array.dtype}")
        array = array.astype(wanted)
    wrong = [
        size
        for size, have in zip(port.shape or [], array.shape, strict=False)
        if isinstance(size, int) and size != have
    ]
    if port.shape and (len(port.shape) != array.ndim or wrong):
        raise TaskError(f"input {port.name!r} has the shape {_shape(port)}; given was {list(array.shape)}")
    return array


ORT_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip


def _shape(port: ort.NodeArg) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in port.shape]


def _port(port: ort.NodeArg) -> dict[str, Any]:
    return {"name": port.name, "shape": _shape(port), "dtype": ORT_DTYPES.get(port.type)}
