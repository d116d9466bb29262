"""A chunk taken apart: where its sections lie and how each is coded, without decoding any.

    head        kind, whether it is sparse, has zero points, has an axis    1 byte
                dtypes of the data (low half) and of the table (high half)  1 byte
                the axis, where there is one                                1 byte
                shared: the size of the codebook                            varint
    table       codebook or scales                  a varint of its length, then numbers; not for plain
    zero points their dtype (1 byte) and numbers    likewise; where the head says so
    positions   of the kept entries                 likewise; where the head says sparse
    values      plain: numbers. shared: codes. grid: the least integer and how many there may be from it on, then codes;
                or where that is 0, numbers                                 all that is left

Numbers, codes and positions begin with a byte that names their form: `numbers.FORMS`, `codes.FORMS`, `positions.FORMS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, get_args

import numpy as np

from decoct.coding import codes, numbers, positions, symbols
from decoct.coding.reader import Reader, varint
from decoct.coding.stored import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
DTYPES = tuple(map(np.dtype, ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")))
SPARSE, ZERO_POINT, AXIS = 4, 8, 16


class Parts(NamedTuple):
    """The sections of a chunk, each as a reader of its own."""

    kind: Kind
    dtype: np.dtype
    table_dtype: np.dtype
    axis: int | None
    codebook: int
    table: Reader | None
    zero_point: Reader | None
    positions: Reader | None
    values: Reader


class Stream(NamedTuple):
    """How one stream of a chunk is coded: its section, form and coder, and the bytes that are a table of the coder."""

    section: str
    form: str
    coder: str
    model_bytes: int = 0


def take_apart(chunk: bytes | memoryview) -> Parts:
    """Split a chunk into its sections. FormatError where it does not hold together."""
    reader = Reader(chunk)
    head, dtypes = reader.byte("the head"), reader.byte("the dtypes")
    if head & 3 >= len(KINDS) or head >> 5 or max(dtypes & 15, dtypes >> 4) >= len(DTYPES):
        reader.fail(f"head {head:#04x} {dtypes:#04x} is not one of this format")
    kind, dtype, table_dtype = KINDS[head & 3], DTYPES[dtypes & 15], DTYPES[dtypes >> 4]
    if kind != "grid" and head & (ZERO_POINT | AXIS):
        reader.fail(f"a {kind} tensor with an axis or zero points")
    if kind == "plain" and dtypes >> 4:
        reader.fail("a plain tensor with a table")
    if kind != "plain" and (dtype.kind not in "iu" or table_dtype.kind != "f"):
        reader.fail(f"a {kind} tensor of {dtype} with a table of {table_dtype}")
    axis = reader.byte("the axis") if head & AXIS else None
    codebook = reader.varint("the size of the codebook", symbols.LARGEST_ALPHABET) if kind == "shared" else 0
    table = _section(reader, "the table") if kind != "plain" else None
    zero_point = _section(reader, "the zero points") if head & ZERO_POINT else None
    kept = _section(reader, "the positions") if head & SPARSE else None
    values = reader.take(reader.left, "the values")
    return Parts(kind, dtype, table_dtype, axis, codebook, table, zero_point, kept, values)


def read_zero_dtype(reader: Reader) -> np.dtype:
    """The dtype of the zero points that follow."""
    number = reader.byte("the dtype of the zero points")
    if number >= len(DTYPES) or DTYPES[number].kind not in "iu":
        reader.fail(f"zero points of dtype number {number}")
    return DTYPES[number]


def framed(section: bytes) -> bytes:
    """A section with its length before it."""
    return varint(len(section)) + section


def sections(chunk: bytes | memoryview) -> dict[str, int]:
    """The bytes of a chunk by kind; they sum to its length.

    header; table (codebook, scales, zero points); positions; model (tables of Huffman codes); values.
    """
    parts = take_apart(chunk)
    bytes_of = {"table": 0, "positions": 0, "values": parts.values.left}
    bytes_of["table"] = sum(part.left for part in (parts.table, parts.zero_point) if part)
    bytes_of["positions"] = parts.positions.left if parts.positions else 0
    header = len(chunk) - sum(bytes_of.values())
    model = 0
    for stream in streams(parts):
        bytes_of[stream.section] -= stream.model_bytes
        model += stream.model_bytes
    return {"header": header, "model": model, **bytes_of}


def describe(chunk: bytes | memoryview) -> str:
    """How a chunk is coded, in words, such as "shared, values ans, positions gaps of 6 bits ans"."""
    parts = take_apart(chunk)
    said: list[str] = [parts.kind]
    found = list(streams(parts))
    for section in ("values", "positions"):
        forms = {stream.form: None for stream in found if stream.section == section}
        coders = {stream.coder: None for stream in found if stream.section == section}
        words = [word for word in (*forms, *coders) if word]
        said += [" ".join([section, *words])] if words else []
    return ", ".join(said)


def streams(parts: Parts) -> Iterator[Stream]:
    """Every stream of a chunk; the readers of `parts` are used up."""
    if parts.table is not None:
        yield from _of_numbers("table", parts.table, parts.table_dtype)
    if parts.zero_point is not None:
        yield from _of_numbers("table", parts.zero_point, read_zero_dtype(parts.zero_point))
    filled = False
    if parts.positions is not None:
        form, alphabet = positions.read_head(parts.positions)
        filled = form.startswith("fillers")
        yield Stream("positions", form, *(symbols.look(parts.positions, alphabet) if alphabet else ("ans",)))
    alphabet = parts.codebook
    if parts.kind == "grid":
        alphabet = numbers.read_range(parts.values)[1]
    if parts.kind == "plain" or not (alphabet or parts.kind == "shared"):
        yield from _of_numbers("values", parts.values, parts.dtype)
    elif codes.is_near(parts.values):
        yield Stream("values", "neighbours", "ans")
    else:
        yield Stream("values", "", *symbols.look(parts.values, alphabet + filled))


def _of_numbers(section: str, reader: Reader, dtype: np.dtype) -> Iterator[Stream]:
    form = numbers.read_form(reader)
    if form == numbers.VERBATIM:
        yield Stream(section, "verbatim", "")
    elif form == numbers.RANGE:
        yield Stream(section, "", *symbols.look(reader, numbers.read_range(reader)[1]))
    else:
        for plane in numbers.planes(reader, dtype.itemsize):
            yield Stream(section, "planes", *symbols.look(plane, numbers.BYTE))


def _section(reader: Reader, what: str) -> Reader:
    return reader.take(reader.varint(f"the length of {what}", reader.left), what)
