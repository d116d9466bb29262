"""Numbers of any dtype, without loss: as they are, as a range of integers, or as byte planes.

Trained floats of one tensor share few exponents, while the lower bits of their mantissas are noise. So the bits of a
float are turned left by one, which brings the exponent into the top byte and the sign to the end, and the first bytes
of all numbers are coded together, then the second, and so on; each plane by the coder that suits it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoct.coding import symbols
from decoct.coding.reader import Reader, varint, zigzag

VERBATIM, RANGE, PLANES = range(3)
FORMS = ("verbatim", "range", "planes")
BYTE = 256
FARTHEST = 1 << 62


def encode(array: np.ndarray, coders: Sequence[str], turned: bool = False) -> bytes:
    """Write an array (n,) of numbers; n and the dtype must be known to read it.

    turned: the integers are the bits of floats (of bfloat16).
    """
    forms = [bytes([VERBATIM]) + _little(array).tobytes()]
    if len(array) and array.dtype.kind in "iub" and not turned:
        least, most = int(array.min()), int(array.max())
        if is_range(least, most):
            stream = symbols.encode(_offset(array, least), most - least + 1, coders)
            forms.append(bytes([RANGE]) + varint(zigzag(least)) + varint(most - least + 1) + stream)
    if len(array) and (array.dtype.itemsize > 1 or len(forms) == 1):
        forms.append(bytes([PLANES]) + _write_planes(array, coders, turned))
    return min(forms, key=len)


def is_range(least: int, most: int) -> bool:
    """Whether integers of these bounds are few enough to be symbols, and small enough to be written."""
    return most - least < symbols.LARGEST_ALPHABET and abs(least) < FARTHEST


def decode(reader: Reader, count: int, dtype: np.dtype, turned: bool = False) -> np.ndarray:
    """Read `count` numbers of a dtype from all that is left of `reader`."""
    form = read_form(reader)
    if form == VERBATIM:
        part = reader.take(count * dtype.itemsize, f"{count} numbers")
        reader.end()
        array = np.frombuffer(part.rest(), _stored(dtype).newbyteorder("<")).astype(_stored(dtype))
    elif form == RANGE:
        least, alphabet = read_range(reader, dtype)
        if not alphabet:
            reader.fail("a range of no integers")
        found = symbols.decode(reader, count, alphabet)
        array = found.astype(_stored(dtype)) + np.array(least).astype(_stored(dtype))
    else:
        array = _read_planes(reader, count, dtype, turned)
    if dtype.kind == "b" and array.max(initial=0) > 1:
        reader.fail("a truth value that is neither 0 nor 1")
    return array.view(dtype)


def read_form(reader: Reader) -> int:
    """Which form the numbers that begin here have."""
    form = reader.byte("the form of the numbers")
    if form >= len(FORMS):
        reader.fail(f"form {form} of numbers is unknown; there are {', '.join(FORMS)}")
    return form


def read_range(reader: Reader, dtype: np.dtype | None = None) -> tuple[int, int]:
    """The least integer and how many there may be, checked against a dtype."""
    least = reader.signed("the least integer")
    alphabet = reader.varint("the range of integers", symbols.LARGEST_ALPHABET)
    if dtype is not None:
        if dtype.kind not in "iub":
            reader.fail(f"a range of integers where {dtype} is stored")
        info = np.iinfo(_stored(dtype))
        if not info.min <= least <= least + max(alphabet, 1) - 1 <= info.max:
            reader.fail(f"{alphabet} integers from {least} on are outside {dtype}")
    return least, alphabet


def planes(reader: Reader, count: int) -> list[Reader]:
    """The streams of the byte planes that begin here, the first byte's first; all but the last say their length."""
    parts = [reader.take(reader.varint("the length of a plane", reader.left), "a plane") for _ in range(count - 1)]
    return [*parts, reader.take(reader.left, "a plane")]


def _stored(dtype: np.dtype) -> np.dtype:
    """The dtype that is computed with: bytes for truth values."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(_stored(array.dtype).newbyteorder("<"), copy=False)


def _offset(array: np.ndarray, least: int) -> np.ndarray:
    """array - least as small integers, without overflow."""
    bits = array.view(f"u{array.dtype.itemsize}")
    return (bits - np.array(least).astype(array.view(_stored(array.dtype)).dtype).view(bits.dtype)).astype(np.uint16)


def _write_planes(array: np.ndarray, coders: Sequence[str], turned: bool) -> bytes:
    width = array.dtype.itemsize
    bits = array.view(f"u{width}")
    if array.dtype.kind == "f" or turned:
        bits = bits << 1 | bits >> 8 * width - 1
    streams = []
    for place in range(width - 1, -1, -1):
        plane = (bits >> 8 * place).astype(np.uint8)
        streams.append(symbols.encode(plane, BYTE, (*coders, "fixed")))
    return b"".join(varint(len(stream)) + stream for stream in streams[:-1]) + streams[-1]


def _read_planes(reader: Reader, count: int, dtype: np.dtype, turned: bool) -> np.ndarray:
    width = dtype.itemsize
    bits = np.zeros(count, f"u{width}")
    for plane in planes(reader, width):
        bits = (bits << 8 if width > 1 else bits) | symbols.decode(plane, count, BYTE).astype(bits.dtype)
    if dtype.kind == "f" or turned:
        bits = bits >> 1 | bits << 8 * width - 1
    return bits.view(_stored(dtype))
