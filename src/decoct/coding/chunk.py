"""One tensor as bytes: a chunk says all that a decoder needs, save the tensor's shape and dtype.

    head        1 byte: kind, whether it is sparse, has zero points, has an axis; 1 byte: dtypes of data and table; [axis]
    table       [length and numbers: codebook or scales, zero points]
    positions   [length and positions of the kept entries]
    values      numbers, or for shared a stream of codes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple, get_args

import numpy as np

from decoct.coding import numbers, positions, symbols
from decoct.coding.reader import Reader, varint, zigzag
from decoct.coding.stored import POSITIONS, Kind, Stored, checked
from decoct.errors import RecipeError, nearest

KINDS: tuple[Kind, ...] = get_args(Kind)
DTYPES = tuple(map(np.dtype, ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")))
SPARSE, ZERO_POINT, AXIS = 4, 8, 16
PARAMETERS = {"auto": (), "fixed": (), "huffman": ("gap_bits",), "ans": ("positions",)}
NOTHING: Mapping[str, Any] = {}


class Parts(NamedTuple):
    """A chunk taken apart, nothing decoded."""

    kind: Kind
    head_bytes: int
    dtype: np.dtype
    table_dtype: np.dtype
    axis: int | None
    codebook: int
    table: Reader | None
    zero_point: Reader | None
    positions: Reader | None
    values: Reader


def encode(stored: Stored, coder: str = "auto", parameters: Mapping[str, Any] = NOTHING) -> bytes:
    """Write a tensor as one chunk; the same tensor gives the same bytes.

    coder: "huffman" (the paper's form), "ans", "fixed" (no model), or "auto", which takes what is smallest.
    parameters: of that coder; huffman: gap_bits; ans: positions, one of "auto" and `stored.POSITIONS`.
    Raises RecipeError for a coder or parameter that does not exist, or a `stored` that contradicts itself.
    """
    check_coder(coder, parameters)
    stored = checked(stored)
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
    size = prod(shape)
    if parts.axis is not None and parts.axis >= len(shape):
        parts.values.fail(f"axis {parts.axis} of a tensor of {len(shape)} dimensions")
    if parts.kind == "plain" and parts.dtype.kind == "f" and not _is_float(dtype):
        parts.values.fail(f"{parts.dtype} numbers of a tensor of {dtype}")
    table, zero_point = _read_table(parts, shape)
    alphabet = len(table) if table is not None and parts.kind == "shared" else None
    if alphabet is not None and alphabet - 1 > np.iinfo(parts.dtype).max:
        parts.values.fail(f"{alphabet} codes do not fit {parts.dtype}")
    if parts.positions is None:
        kept, data = None, _read_values(parts, size, alphabet, dtype)
    elif parts.positions.data[:1] == bytes([positions.FILLERS]):
        kept, data = _read_filled(parts, size, alphabet)
    else:
        kept = positions.decode(parts.positions, shape)
        data = _read_values(parts, len(kept), alphabet, dtype)
    return Stored(tuple(shape), dtype, parts.kind, data, kept, table, zero_point, parts.axis)


def check_coder(coder: str, parameters: Mapping[str, Any]) -> None:
    """Raise RecipeError for a coder or a parameter that does not exist."""
    if coder not in PARAMETERS:
        raise RecipeError(f"coder {coder!r} is unknown; there are {', '.join(PARAMETERS)}{nearest(coder, PARAMETERS)}")
    for name, value in parameters.items():
        allowed = PARAMETERS[coder]
        if name not in allowed:
            there = ", ".join(allowed) or "none"
            raise RecipeError(f"coder {coder!r} has no parameter {name!r}; it has {there}{nearest(name, allowed)}")
        if name == "gap_bits" and not (value is None or value in range(1, positions.WIDEST_GAP + 1)):
            raise RecipeError(f"gap_bits is 1 to {positions.WIDEST_GAP}, not {value!r}")
        if name == "positions" and value not in ("auto", *POSITIONS):
            raise RecipeError(f"positions is one of auto, {', '.join(POSITIONS)}, not {value!r}")


def take_apart(chunk: bytes | memoryview) -> Parts:
    """Split a chunk into its parts. FormatError where it does not hold together."""
    reader = Reader(chunk)
    head, dtypes = reader.byte("the head"), reader.byte("the dtypes")
    if head & 3 >= len(KINDS) or head >> 5 or max(dtypes & 15, dtypes >> 4) >= len(DTYPES):
        reader.fail(f"head {head:#04x} {dtypes:#04x} is not one of this format")
    kind = KINDS[head & 3]
    if kind != "grid" and head & (ZERO_POINT | AXIS):
        reader.fail("an axis or zero points without a grid")
    if kind == "plain" and dtypes >> 4 or kind != "plain" and DTYPES[dtypes & 15].kind not in "iu":
        reader.fail(f"head {head:#04x} {dtypes:#04x} contradicts itself")
    axis = reader.byte("the axis") if head & AXIS else None
    codebook = reader.varint("the size of the codebook", symbols.LARGEST_ALPHABET) if kind == "shared" else 0
    head_bytes = reader.at
    table = _section(reader, "the table") if kind != "plain" else None
    zero_point = _section(reader, "the zero points") if head & ZERO_POINT else None
    kept = _section(reader, "the positions") if head & SPARSE else None
    values = reader.take(reader.left, "the values")
    dtype, table_dtype = DTYPES[dtypes & 15], DTYPES[dtypes >> 4]
    return Parts(kind, head_bytes, dtype, table_dtype, axis, codebook, table, zero_point, kept, values)


def _encode(stored: Stored, coders: tuple[str, ...], parameters: Mapping[str, Any]) -> bytes:
    """The chunk with streams by these coders."""
    plain = stored.kind == "plain"
    table = np.zeros(0, "?") if stored.table is None else stored.table
    head = KINDS.index(stored.kind)
    head |= SPARSE * (stored.kept is not None) | ZERO_POINT * (stored.zero_point is not None)
    head |= AXIS * (stored.axis is not None)
    out = bytes([head, DTYPES.index(stored.data.dtype) | DTYPES.index(table.dtype) << 4])
    out += b"" if stored.axis is None else bytes([stored.axis])
    out += varint(len(table)) if stored.kind == "shared" else b""
    out += b"" if plain else _framed(numbers.encode(table, coders))
    if stored.zero_point is not None:
        zero_dtype = bytes([DTYPES.index(stored.zero_point.dtype)])
        out += _framed(zero_dtype + numbers.encode(stored.zero_point, coders))
    alphabet = len(table) if stored.kind == "shared" else _span(stored.data)
    if stored.kept is None:
        return out + _write_values(stored, alphabet, coders)
    if coders == ("huffman",) and not plain and alphabet < symbols.LARGEST_ALPHABET:
        written, filler = positions.encode_fillers(stored.kept, parameters.get("gap_bits"), coders)
        return out + _framed(written) + _write_filled(stored, filler, alphabet, coders)
    choice = "gaps" if coders == ("huffman",) else parameters.get("positions", "auto")
    forms = POSITIONS if choice == "auto" else (choice,)
    out += _framed(positions.encode(stored.kept, stored.shape, forms, coders))
    return out + _write_values(stored, alphabet, coders)


def _span(data: np.ndarray) -> int:
    """How many integers lie between the least and the largest."""
    return int(data.max()) - int(data.min()) + 1 if len(data) else 1


def _write_values(stored: Stored, alphabet: int, coders: tuple[str, ...]) -> bytes:
    if stored.kind == "shared":
        return symbols.encode(stored.data, alphabet, coders)
    return numbers.encode(stored.data, coders, _turned(stored))


def _write_filled(stored: Stored, filler: np.ndarray, alphabet: int, coders: tuple[str, ...]) -> bytes:
    """Values with the filler zeros among them, which are one symbol more, the last."""
    least = int(stored.data.min()) if stored.kind == "grid" and len(stored.data) else 0
    filled = np.full(len(filler), alphabet, np.uint16)
    filled[~filler] = stored.data.astype(np.int64) - least
    head = varint(zigzag(least)) + varint(alphabet) if stored.kind == "grid" else b""
    return head + symbols.encode(filled, alphabet + 1, coders)


def _read_filled(parts: Parts, size: int, alphabet: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of a tensor with fillers."""
    assert parts.positions is not None
    where = positions.decode_fillers(parts.positions, size)
    least = 0
    if alphabet is None:
        least, alphabet = numbers.read_range(parts.values, parts.dtype)
    filled = symbols.decode(parts.values, len(where), alphabet + 1)
    kept = filled < alphabet
    return where[kept], filled[kept].astype(parts.dtype) + np.array(least, parts.dtype)


def _read_values(parts: Parts, count: int, alphabet: int | None, dtype: str) -> np.ndarray:
    """The values of a tensor without fillers, in the dtype that they had."""
    if alphabet is None:
        turned = parts.kind == "plain" and parts.dtype == np.uint16 and _is_float(dtype)
        return numbers.decode(parts.values, count, parts.dtype, turned)
    if count and not alphabet:
        parts.values.fail("an empty codebook")
    return symbols.decode(parts.values, count, alphabet).astype(parts.dtype, copy=False)


def _turned(stored: Stored) -> bool:
    """Whether the stored integers are the bits of bfloat16."""
    return stored.kind == "plain" and stored.data.dtype == np.uint16 and _is_float(stored.dtype)


def _is_float(dtype: str) -> bool:
    return dtype == "bfloat16" or np.dtype(dtype).kind == "f"


def _read_table(parts: Parts, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The codebook or scales, and the zero points."""
    if parts.table is None:
        return None, None
    count = parts.codebook if parts.kind == "shared" else 1 if parts.axis is None else shape[parts.axis]
    table = numbers.decode(parts.table, count, parts.table_dtype)
    if parts.zero_point is None:
        return table, None
    dtype = parts.zero_point.byte("the dtype of the zero points")
    if dtype >= len(DTYPES) or DTYPES[dtype].kind not in "iu":
        parts.zero_point.fail(f"zero points of dtype {dtype}")
    return table, numbers.decode(parts.zero_point, count, DTYPES[dtype])


def _framed(section: bytes) -> bytes:
    return varint(len(section)) + section


def _streams(parts: Parts) -> Iterator[tuple[str, str, str, int]]:
    """Every stream of a chunk: the section it is in, the form of that section, its coder, and the bytes of its table."""
    if parts.table is not None:
        yield from _number_streams("table", parts.table, parts.table_dtype)
    if parts.zero_point is not None:
        dtype = parts.zero_point.byte("the dtype of the zero points")
        yield from _number_streams("table", parts.zero_point, DTYPES[min(dtype, len(DTYPES) - 1)])
    filled = 0
    if parts.positions is not None:
        form, alphabet = positions.read_head(parts.positions)
        filled = int(form.startswith("fillers"))
        yield "positions", form, *symbols.look(parts.positions, alphabet)
    if parts.kind == "shared":
        yield "values", "", *symbols.look(parts.values, parts.codebook + filled)
    elif filled:
        yield "values", "", *symbols.look(parts.values, numbers.read_range(parts.values)[1] + 1)
    else:
        yield from _number_streams("values", parts.values, parts.dtype)


def _number_streams(section: str, reader: Reader, dtype: np.dtype) -> Iterator[tuple[str, str, str, int]]:
    form = numbers.read_form(reader)
    if form == numbers.VERBATIM:
        yield section, "verbatim", "", 0
    elif form == numbers.RANGE:
        yield section, "", *symbols.look(reader, numbers.read_range(reader)[1])
    else:
        for plane in numbers.planes(reader, dtype.itemsize):
            yield section, "planes", *symbols.look(plane, numbers.BYTE)


def _section(reader: Reader, what: str) -> Reader:
    return reader.take(reader.varint(f"the length of {what}", reader.left), what)


def sections(chunk: bytes | memoryview) -> dict[str, int]:
    """The bytes of a chunk by kind: header, table (codebook, scales), positions, model (Huffman tables), values."""
    parts = take_apart(chunk)
    table = sum(part.left for part in (parts.table, parts.zero_point) if part)
    kept = parts.positions.left if parts.positions else 0
    found = {"table": table, "positions": kept, "values": parts.values.left}
    for kind, _, _, model in _streams(parts):
        found[kind] -= model
        found["model"] = found.get("model", 0) + model
    return {"header": len(chunk) - sum(found.values()), "model": 0, **found}


def describe(chunk: bytes | memoryview) -> str:
    """How a chunk is coded, in words: "shared, values ans, positions gaps of 6 bits ans"."""
    parts = take_apart(chunk)
    ways = {"values": "", "positions": ""}
    for kind, form, coder, _ in _streams(parts):
        if kind in ways:
            ways[kind] += f" {form} {coder}" if form not in ways[kind] else f" {coder}"
    return ", ".join([parts.kind, *(kind + " ".join(["", *way.split()]) for kind, way in ways.items() if way)])
