"""Symbols of a fixed width in bits: what is used where no model pays."""

from __future__ import annotations

import numpy as np

from decoct.errors import FormatError


def width(alphabet: int) -> int:
    """The bits that tell `alphabet` symbols apart."""
    return max(alphabet - 1, 0).bit_length()


def size_bytes(count: int, alphabet: int) -> int:
    """How many bytes `count` symbols take."""
    return (count * width(alphabet) + 7) // 8


def encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """Write symbols (n,) of 0 .. alphabet-1, each in `width(alphabet)` bits, highest bit first."""
    bits = width(alphabet)
    if bits == 8:
        return symbols.astype(np.uint8).tobytes()
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits((symbols.astype(np.uint16)[:, None] >> shifts) & 1).tobytes()


def decode(data: bytes, count: int, alphabet: int) -> np.ndarray:
    """Read `count` symbols back. FormatError for a wrong length, padding that is not zero, or a symbol out of range."""
    bits = width(alphabet)
    if len(data) != size_bytes(count, alphabet):
        raise FormatError(f"{count} symbols of {bits} bits do not take {len(data)} bytes")
    if bits == 8 and alphabet == 256:
        return np.frombuffer(data, np.uint8)
    flat = np.unpackbits(np.frombuffer(data, np.uint8))
    if flat[count * bits :].any():
        raise FormatError("the padding after the last symbol is not zero")
    symbols: np.ndarray = np.zeros(count, np.uint16)
    for place in range(bits):
        symbols = symbols << 1 | flat[place : count * bits : bits]
    if count and symbols.max(initial=0) >= alphabet:
        raise FormatError(f"symbol {symbols.max()} is outside an alphabet of {alphabet}")
    return symbols
