"""Where the kept entries of a tensor are: sorted flat positions to symbols and back.

    gaps        the distance to the next entry, less one; a symbol of its own says "further on" (ANS)
    fillers     the same in the form of Han 2016: what is too far is bridged by entries of value zero
    bitmap      a bit per entry, eight to a symbol
    neighbours  a bit per entry, its chance learnt from the entries near it (decoct.coding.neighbours)

Gap widths, alphabets and what the symbols of each form mean are in the functions that read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from decoct.coding import neighbours, symbols
from decoct.coding.reader import Reader, varint

GAPS, FILLERS, BITMAP, NEIGHBOURS = range(4)
FORMS = ("gaps", "fillers", "bitmap", "neighbours")
WIDEST_GAP = 12  # bits
BYTE, BYTE_BITS = 256, 8


def encode(kept: np.ndarray, shape: Sequence[int], forms: Sequence[str], coders: Sequence[str]) -> bytes:
    """Write the sorted flat positions (n,) of a tensor's kept entries in the smallest of `forms`."""
    size = prod(shape)
    written = [_write_gaps(kept, coders)] if "gaps" in forms or not size else []
    if "bitmap" in forms and (len(forms) == 1 or BYTE_BITS * len(kept) >= size):
        written.append(bytes([BITMAP]) + symbols.encode(np.packbits(_mask(kept, size)), BYTE, coders))
    if "neighbours" in forms and (found := neighbours.best_mask(_mask(kept, size), shape)) is not None:
        written.append(bytes([NEIGHBOURS]) + found)
    return min(written or [_write_gaps(kept, coders)], key=len)


def decode(reader: Reader, shape: Sequence[int]) -> np.ndarray:
    """Read positions (n,) back, int64, from all that is left of `reader`."""
    size = prod(shape)
    form = read_form(reader)
    if form == BITMAP:
        mask = np.unpackbits(symbols.decode(reader, (size + 7) // BYTE_BITS, BYTE).astype(np.uint8))
        if mask[size:].any():
            reader.fail(f"positions beyond the {size} entries")
        return np.flatnonzero(mask[:size])
    if form == NEIGHBOURS:
        return np.flatnonzero(neighbours.decode_mask(reader, shape))
    if form == FILLERS:
        reader.fail("filler zeros where no value can be one")
    bits, count = read_gaps(reader, size)
    escape = (1 << bits) - 1
    gaps = symbols.decode(reader, count, escape + 1).astype(np.int64)
    after = np.cumsum(np.where(gaps == escape, escape, gaps + 1))
    if count and after[-1] > size:
        reader.fail(f"position {after[-1] - 1} is beyond the {size} entries")
    return after[gaps < escape] - 1


def encode_fillers(kept: np.ndarray, bits: int | None, coders: Sequence[str]) -> tuple[bytes, np.ndarray]:
    """Write positions as Han 2016 does, with gaps of `bits` (the best width where None).

    Returns the bytes and, for every gap written (m,), whether it belongs to a filler zero. Gap g is written as g - 1;
    the first is counted from before the first entry; a filler has the largest gap.
    """
    widths = range(1, WIDEST_GAP + 1) if bits is None else [bits]
    gaps = np.diff(kept, prepend=-1) - 1
    times = np.bincount(gaps, minlength=1)
    best = min(widths, key=lambda width: _filler_bits(times, width))
    codes, filler = _bridge(gaps, 1 << best, (1 << best) - 1)
    head = bytes([FILLERS, best]) + varint(len(codes))
    return head + symbols.encode(codes, 1 << best, coders), filler


def decode_fillers(reader: Reader, size: int) -> np.ndarray:
    """Read the positions (m,) of all entries, fillers too."""
    read_form(reader)
    bits, count = read_gaps(reader, size)
    after = np.cumsum(symbols.decode(reader, count, 1 << bits).astype(np.int64) + 1)
    if count and after[-1] > size:
        reader.fail(f"position {after[-1] - 1} is beyond the {size} entries")
    return after - 1


def are_filled(reader: Reader) -> bool:
    """Whether the positions that begin here have filler zeros among them."""
    return reader.data[reader.at : reader.at + 1] == bytes([FILLERS])


def read_head(reader: Reader) -> tuple[str, int]:
    """The form of the positions that begin here, in words, and the alphabet of their symbols."""
    form = read_form(reader)
    if form == BITMAP:
        return "bitmap", BYTE
    if form == NEIGHBOURS:
        return "neighbours", 0
    bits, _ = read_gaps(reader, 2**63 - 1)
    return f"{FORMS[form]} of {bits} bits", 1 << bits


def _mask(kept: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, np.int8)
    mask[kept] = 1
    return mask


def read_form(reader: Reader) -> int:
    """Which form the positions that begin here have."""
    form = reader.byte("the form of the positions")
    if form >= len(FORMS):
        reader.fail(f"form {form} of positions is unknown; there are {', '.join(FORMS)}")
    return form


def read_gaps(reader: Reader, size: int) -> tuple[int, int]:
    """The width of a gap in bits, and how many there are: at most one for each entry of the tensor."""
    bits = reader.byte("the width of a gap")
    if not 1 <= bits <= WIDEST_GAP:
        reader.fail(f"gaps are 1 to {WIDEST_GAP} bits wide, not {bits}")
    return bits, reader.varint("the number of gaps", size)


def _write_gaps(kept: np.ndarray, coders: Sequence[str]) -> bytes:
    gaps = np.diff(kept, prepend=-1) - 1
    bits = _best_width(gaps)
    escape = (1 << bits) - 1
    codes, _ = _bridge(gaps, escape, escape)
    return bytes([GAPS, bits]) + varint(len(codes)) + symbols.encode(codes, escape + 1, coders)


def _best_width(gaps: np.ndarray) -> int:
    """The widest gap, hence the fewest symbols and the fastest, that is within a thousandth of the smallest."""
    times = np.bincount(gaps, minlength=1)
    sizes = {width: _escape_bits(times, (1 << width) - 1) for width in range(1, WIDEST_GAP + 1)}
    return max(width for width, bits in sizes.items() if bits <= 1.001 * min(sizes.values()))


def _bridge(gaps: np.ndarray, span: int, bridge: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of gaps, long ones bridged by codes `bridge` that stand for `span` entries each; and which are bridges."""
    bridges = gaps // span
    ends = np.cumsum(bridges + 1) - 1
    codes = np.full(int(ends[-1]) + 1 if len(gaps) else 0, bridge, np.uint16)
    codes[ends] = gaps % span
    filler = np.ones(len(codes), bool)
    filler[ends] = False
    return codes, filler


def _escape_bits(times: np.ndarray, escape: int) -> float:
    """The entropy of the codes of gaps seen so many `times`, with what it takes to learn each symbol's share."""
    there = np.flatnonzero(times)
    counts = np.bincount(there % escape, times[there], escape + 1)
    counts[escape] = (there // escape) @ times[there]
    return _entropy_bits(counts) + len(counts) / 2 * float(np.log2(1 + 2 * counts.sum() / len(counts)))


def _filler_bits(times: np.ndarray, width: int) -> float:
    """The entropy of the gap codes, with what each filler costs among the values, and the tables."""
    there = np.flatnonzero(times)
    counts = np.bincount(there & (1 << width) - 1, times[there], 1 << width)
    fillers = (there >> width) @ times[there]
    counts[-1] += fillers
    share = np.array([times.sum(), fillers])
    return _entropy_bits(counts) + _entropy_bits(share) + 4 * np.count_nonzero(counts)


def _entropy_bits(counts: np.ndarray) -> float:
    present = counts[counts > 0].astype(np.float64)
    return float(-(present * np.log2(present / present.sum())).sum())
