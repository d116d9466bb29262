"""From what a file keeps of a tensor to its numbers."""

from __future__ import annotations

from math import prod

import numpy as np

from decoct.coding.stored import Stored


def values(stored: Stored) -> np.ndarray:
    """The tensor that `stored` stands for, of its shape and dtype.

    bfloat16 comes as ml_dtypes' bfloat16 where that is installed, and else as its bits in uint16.
    """
    found = {"shared": _shared, "grid": _grid, "plain": _plain}[stored.kind](stored)
    if stored.kept is None:
        return found.reshape(stored.shape)
    dense = np.zeros(stored.size, found.dtype)
    dense[stored.kept] = found
    return dense.reshape(stored.shape)


def _shared(stored: Stored) -> np.ndarray:
    assert stored.table is not None
    return _cast(stored.table, stored.dtype)[stored.data]


def _grid(stored: Stored) -> np.ndarray:
    """scale * (data - zero_point), in float32 or wider."""
    assert stored.table is not None
    scale, zero = stored.table, stored.zero_point
    if stored.axis is not None:
        channel = _channels(stored)
        scale, zero = scale[channel], None if zero is None else zero[channel]
    steps = stored.data if zero is None else stored.data.astype(np.int64) - zero
    return _cast(steps.astype(np.result_type(np.float32, scale.dtype)) * scale, stored.dtype)


def _channels(stored: Stored) -> np.ndarray:
    """The index along the axis of every kept entry."""
    assert stored.axis is not None
    inner = prod(stored.shape[stored.axis + 1 :])
    if stored.kept is not None:
        return stored.kept // inner % stored.shape[stored.axis]
    outer = prod(stored.shape[: stored.axis])
    return np.tile(np.repeat(np.arange(stored.shape[stored.axis]), inner), outer)


def _plain(stored: Stored) -> np.ndarray:
    if stored.data.dtype != np.uint16:
        return _cast(stored.data, stored.dtype)
    if stored.dtype == "bfloat16":
        return _as_bfloat16(stored.data)
    if np.dtype(stored.dtype).kind == "f":
        return _cast((stored.data.astype(np.uint32) << 16).view(np.float32), stored.dtype)
    return stored.data.astype(stored.dtype, copy=False)


def _cast(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers in the dtype of the tensor; to bfloat16 the nearest, ties to even."""
    if dtype != "bfloat16":
        return numbers.astype(dtype, copy=False)
    bits = numbers.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    rounded = np.where(bits << 1 > 0xFF000000, bits >> 16 | 0x40, rounded)  # not a number stays that
    return _as_bfloat16(rounded.astype(np.uint16))


def _as_bfloat16(bits: np.ndarray) -> np.ndarray:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return bits
    return bits.view(bfloat16)
