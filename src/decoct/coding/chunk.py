"""One tensor as bytes and back: a chunk says all that a decoder needs, save the tensor's shape and dtype.

The layout of a chunk is told in `decoct.coding.parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from decoct.coding import codes, numbers, positions, symbols
from decoct.coding.parts import AXIS, DTYPES, KINDS, SPARSE, ZERO_POINT, Parts, framed, read_zero_dtype, take_apart
from decoct.coding.reader import varint, zigzag
from decoct.coding.stored import POSITIONS, Stored, checked
from decoct.errors import RecipeError, nearest

PARAMETERS = {"auto": (), "fixed": (), "huffman": ("gap_bits",), "ans": ("positions",)}
LARGEST_SEARCH = 1 << 19  # entries up to which the model of neighbours, slow and small, is tried unasked
NOTHING: Mapping[str, Any] = {}

LARGE_MASK = 1 << 20


def encode(stored: Stored, coder: str = "auto", parameters: Mapping[str, Any] = NOTHING) -> bytes:
    """Write a tensor as one chunk; the same tensor gives the same bytes.

    coder: "huffman" (the paper's form), "ans", "fixed" (no model), or "auto", which takes what is smallest; but a mask
        of LARGE_MASK entries or more goes as a bitmap, which on VGG-16's fc6 is 0.005 % larger than the smallest form,
        decoded 6 times as fast and in a tenth of the memory.
    parameters: of that coder; huffman: gap_bits; ans: positions, "auto" or one of `stored.POSITIONS`.
    Raises RecipeError for a coder or parameter that does not exist, or a `stored` that contradicts itself.
    """
    check_coder(coder, parameters)
    stored = checked(stored)
    _check_limits(stored)
    if coder == "auto" and stored.kept is not None and stored.size >= LARGE_MASK:
        coder, parameters = "ans", {"positions": "bitmap"}
    coders = ("fixed", "huffman", "ans") if coder == "auto" else (coder,)
    written = [_encode(stored, coders, parameters)]
    if coder == "auto" and len(stored.data) <= symbols.LONG:
        written.append(_encode(stored, ("huffman",), parameters))
    return min(written, key=len)


def decode(chunk: bytes | memoryview, shape: tuple[int, ...], dtype: str) -> Stored:
    """Read back what `encode` was given, every field of it, for a tensor of this shape and dtype.

    Raises FormatError, with the byte of the chunk, for anything that does not hold. Memory is bounded by a small
    multiple of the tensor's entries.
    """
    parts = take_apart(chunk)
    if parts.axis is not None and parts.axis >= len(shape):
        parts.values.fail(f"axis {parts.axis} of a tensor of {len(shape)} dimensions")
    if parts.kind == "plain" and parts.dtype.kind == "f" and not _is_float(dtype):
        parts.values.fail(f"{parts.dtype} numbers in a tensor of {dtype}")
    table, zero_point = _read_table(parts, shape)
    kept: np.ndarray | None
    if parts.positions is not None and positions.are_filled(parts.positions):
        kept, data = _read_filled(parts, prod(shape))
    else:
        kept = None if parts.positions is None else positions.decode(parts.positions, shape)
        data = _read_values(parts, kept, shape, dtype, table)
    return Stored(tuple(shape), dtype, parts.kind, data, kept, table, zero_point, parts.axis)


def check_coder(coder: str, parameters: Mapping[str, Any]) -> None:
    """Raise RecipeError for a coder or a parameter that does not exist."""
    if coder not in PARAMETERS:
        raise RecipeError(f"coder {coder!r} is unknown; there are {', '.join(PARAMETERS)}{nearest(coder, PARAMETERS)}")
    allowed = PARAMETERS[coder]
    for name, value in parameters.items():
        if name not in allowed:
            there = ", ".join(allowed) or "none"
            raise RecipeError(f"coder {coder!r} has no parameter {name!r}; it has {there}{nearest(name, allowed)}")
        if name == "gap_bits" and not (value is None or value in range(1, positions.WIDEST_GAP + 1)):
            raise RecipeError(f"gap_bits is 1 to {positions.WIDEST_GAP}, not {value!r}")
        if name == "positions" and value not in ("auto", *POSITIONS):
            raise RecipeError(f"positions is one of auto, {', '.join(POSITIONS)}, not {value!r}")


def _check_limits(stored: Stored) -> None:
    """Raise RecipeError for what is sound but what a chunk cannot hold."""
    for array in (stored.data, stored.table, stored.zero_point):
        if array is not None and array.dtype not in DTYPES:
            raise RecipeError(f"{array.dtype} cannot be stored; dtypes are {', '.join(map(str, DTYPES))}")
    if stored.kind == "shared" and _range(stored)[1] > symbols.LARGEST_ALPHABET:
        raise RecipeError(f"a codebook has at most {symbols.LARGEST_ALPHABET} values, not {_range(stored)[1]}")


def _encode(stored: Stored, coders: tuple[str, ...], parameters: Mapping[str, Any]) -> bytes:
    """The chunk with streams by these coders."""
    head = _write_head(stored) + _write_table(stored, coders)
    forms = _forms(stored.size, coders, parameters)
    if stored.kept is None:
        return head + _write_values(stored, coders, "neighbours" in forms)
    if coders == ("huffman",) and 0 < _range(stored)[1] < symbols.LARGEST_ALPHABET:
        written, filler = positions.encode_fillers(stored.kept, parameters.get("gap_bits"), coders)
        return head + framed(written) + _write_filled(stored, filler, coders)
    kept = positions.encode(stored.kept, stored.shape, forms, coders)
    return head + framed(kept) + _write_values(stored, coders, "neighbours" in forms)


def _forms(size: int, coders: tuple[str, ...], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The forms of positions to be tried."""
    if "ans" not in coders:
        return ("gaps",) if "huffman" in coders else ("gaps", "bitmap")
    choice = parameters.get("positions", "auto")
    if choice != "auto":
        return (choice,)
    return POSITIONS if size <= LARGEST_SEARCH else tuple(form for form in POSITIONS if form != "neighbours")


def _write_head(stored: Stored) -> bytes:
    flags = SPARSE * (stored.kept is not None) | ZERO_POINT * (stored.zero_point is not None)
    flags |= AXIS * (stored.axis is not None)
    table = DTYPES.index(stored.table.dtype) << 4 if stored.table is not None else 0
    head = bytes([KINDS.index(stored.kind) | flags, DTYPES.index(stored.data.dtype) | table])
    head += b"" if stored.axis is None else bytes([stored.axis])
    return head + (varint(_range(stored)[1]) if stored.kind == "shared" else b"")


def _write_table(stored: Stored, coders: tuple[str, ...]) -> bytes:
    """The codebook or scales, and the zero points."""
    out = b"" if stored.table is None else framed(numbers.encode(stored.table, coders))
    if stored.zero_point is not None:
        dtype = bytes([DTYPES.index(stored.zero_point.dtype)])
        out += framed(dtype + numbers.encode(stored.zero_point, coders))
    return out


def _read_table(parts: Parts, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    if parts.table is None:
        return None, None
    count = parts.codebook if parts.kind == "shared" else 1 if parts.axis is None else shape[parts.axis]
    table = numbers.decode(parts.table, count, parts.table_dtype)
    if parts.zero_point is None:
        return table, None
    return table, numbers.decode(parts.zero_point, count, read_zero_dtype(parts.zero_point))


def _range(stored: Stored) -> tuple[int, int]:
    """The least integer of a tensor of codes, and how many there may be from it on; none where they are no codes."""
    if stored.kind == "shared" and stored.table is not None:
        return 0, len(stored.table)
    if stored.kind == "plain":
        return 0, 0
    if not len(stored.data):
        return 0, 1
    least, most = int(stored.data.min()), int(stored.data.max())
    return (least, most - least + 1) if numbers.is_range(least, most) else (0, 0)


def _write_range(stored: Stored) -> bytes:
    least, alphabet = _range(stored)
    return varint(zigzag(least)) + varint(alphabet) if stored.kind == "grid" else b""


def _read_range(parts: Parts) -> tuple[int, int]:
    """As `_range`, checked to fit the dtype."""
    if parts.kind == "shared":
        if parts.codebook - 1 > np.iinfo(parts.dtype).max:
            parts.values.fail(f"{parts.codebook} codes do not fit {parts.dtype}")
        return 0, parts.codebook
    return numbers.read_range(parts.values, parts.dtype)


def _write_values(stored: Stored, coders: tuple[str, ...], near: bool) -> bytes:
    least, alphabet = _range(stored)
    if not alphabet and stored.kind != "shared":
        turned = stored.kind == "plain" and _are_bfloat16(stored.data.dtype, stored.dtype)
        return _write_range(stored) + numbers.encode(stored.data, coders, turned)
    symbols_of = stored.data if not least else stored.data.astype(np.int64) - least
    symbols_of = symbols_of.astype(np.int32)
    negative = _negative(stored.kind, stored.table, least, alphabet)
    return _write_range(stored) + codes.encode(symbols_of, negative, stored.kept, stored.shape, coders, near)


def _read_values(
    parts: Parts, kept: np.ndarray | None, shape: tuple[int, ...], dtype: str, table: np.ndarray | None
) -> np.ndarray:
    """The values of a tensor without fillers, in the dtype that they had."""
    count = prod(shape) if kept is None else len(kept)
    if parts.kind == "plain":
        return numbers.decode(parts.values, count, parts.dtype, _are_bfloat16(parts.dtype, dtype))
    least, alphabet = _read_range(parts)
    if not alphabet and parts.kind == "grid":
        return numbers.decode(parts.values, count, parts.dtype)
    if count and not alphabet:
        parts.values.fail("codes into an empty codebook")
    negative = _negative(parts.kind, table, least, alphabet)
    return _with_least(codes.decode(parts.values, negative, kept, shape, count), least, parts.dtype)


def _write_filled(stored: Stored, filler: np.ndarray, coders: tuple[str, ...]) -> bytes:
    """Codes with the filler zeros among them, which are one symbol more, the last."""
    least, alphabet = _range(stored)
    filled = np.full(len(filler), alphabet, np.uint16)
    filled[~filler] = stored.data.astype(np.int64) - least
    return _write_range(stored) + symbols.encode(filled, alphabet + 1, coders)


def _read_filled(parts: Parts, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions and codes of a tensor with fillers, which are dropped."""
    if parts.positions is None or parts.kind == "plain":
        parts.values.fail("filler zeros among numbers")
    where = positions.decode_fillers(parts.positions, size)
    least, alphabet = _read_range(parts)
    if not alphabet and parts.kind == "grid":
        parts.values.fail("filler zeros among numbers")
    filled = symbols.decode(parts.values, len(where), alphabet + 1)
    kept = filled < alphabet
    return where[kept], _with_least(filled[kept], least, parts.dtype)


def _with_least(symbols_of: np.ndarray, least: int, dtype: np.dtype) -> np.ndarray:
    return symbols_of.astype(dtype, copy=False) + np.array(least).astype(dtype)


def _negative(kind: str, table: np.ndarray | None, least: int, alphabet: int) -> np.ndarray:
    """Which codes stand for negative numbers (alphabet,): by the codebook, or for a grid by their own sign."""
    if kind == "shared" and table is not None:
        return table < 0
    return np.arange(least, least + alphabet) < 0


def _are_bfloat16(stored: np.dtype, dtype: str) -> bool:
    """Whether integers that are stored for a tensor of a dtype are the bits of bfloat16."""
    return stored == np.uint16 and _is_float(dtype)


def _is_float(dtype: str) -> bool:
    return dtype == "bfloat16" or np.dtype(dtype).kind == "f"
