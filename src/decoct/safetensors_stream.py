"""`.safetensors` files, one tensor at a time, in every dtype that a `.dct` expresses.

Format: https://github.com/huggingface/safetensors: eight bytes (length of the header), JSON, and the tensors' bytes.
The library itself reads 8-bit floats into numpy only with extra packages, and writes from memory only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from decoct.errors import FormatError
from decoct.file import itemsize, replacing
from decoct.onnx_stream import Raw

LARGEST_HEADER = 100_000_000
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
}  # fmt: skip
NAMES = {name: code for code, name in DTYPES.items()}


@dataclass(frozen=True)
class Part:
    """One tensor of a file: what it is, and a way to read its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: Raw

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * itemsize(self.dtype)


def read(path: str | Path) -> tuple[list[Part], dict[str, str]]:
    """The tensors of a file in the order of their bytes, and its `__metadata__`. FormatError for a damaged file."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise FormatError(f"{path}, byte 0: a header of {length} bytes does not fit in a file of {size}")
        raw_header = file.read(length)
    try:
        header = json.loads(raw_header.decode())
        metadata = dict(header.pop("__metadata__", None) or {})
        items = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        parts = [_part(path, name, item, 8 + length, size) for name, item in items]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path}: the header is not that of a .safetensors: {type(error).__name__}: {error}"
        ) from error
    return parts, metadata


def _part(path: Path, name: str, item: Mapping[str, Any], start: int, size: int) -> Part:
    dtype = DTYPES.get(item["dtype"])
    if dtype is None:
        raise FormatError(f"{path}: tensor {name!r} is {item['dtype']}; decoct knows {', '.join(DTYPES)}")
    shape = tuple(item["shape"])
    first, last = item["data_offsets"]
    whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
    if not whole or last - first != prod(shape) * itemsize(dtype) or start + last > size:
        raise FormatError(
            f"{path}: tensor {name!r} ({item['dtype']}{list(shape)}) does not lie at bytes {first} to {last}"
        )

    def read() -> np.ndarray:
        return np.fromfile(path, np.uint8, last - first, offset=start + first)

    return Part(name, dtype, shape, read)


def write(path: str | Path, parts: Iterable[Part], metadata: Mapping[str, str]) -> int:
    """Write tensors, largest dtypes first and then by name as the library does, and return the bytes of the file."""
    parts = sorted(parts, key=lambda part: (-itemsize(part.dtype), part.name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for part in parts:
        header[part.name] = {
            "dtype": NAMES[part.dtype], "shape": list(part.shape), "data_offsets": [place, place + part.size_bytes],
        }  # fmt: skip
        place += part.size_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            file.write(np.frombuffer(part.raw(), np.uint8).data)
        return file.tell()
