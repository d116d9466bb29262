"""Where the kept entries of a tensor are: sorted flat positions to symbols and back.

    gaps     the distance to the next entry, less one; a symbol of its own says "further on" (ANS)
    fillers  the same in the form of Han 2016: what is too far is bridged by entries of value zero
    bitmap   a bit per entry, eight to a symbol
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoct.coding import symbols
from decoct.coding.reader import Reader, varint

GAPS, FILLERS, BITMAP = range(3)
FORMS = ("gaps", "fillers", "bitmap")
WIDEST_GAP = 12  # bits
BYTE = 256


def encode(kept: np.ndarray, shape: Sequence[int], forms: Sequence[str], coders: Sequence[str]) -> bytes:
    """Write the sorted flat positions (n,) of a tensor's kept entries in the smallest of `forms`."""
    size = int(np.prod(shape, dtype=np.int64))
    written = []
    if "gaps" in forms:
        written.append(_write_gaps(kept, coders))
    if "bitmap" in forms:
        mask = np.zeros(size, np.uint8)
        mask[kept] = 1
        written.append(bytes([BITMAP]) + symbols.encode(np.packbits(mask), BYTE, coders))
    return min(written, key=len)


def decode(reader: Reader, shape: Sequence[int]) -> np.ndarray:
    """Read positions (n,) back, int64, from all that is left of `reader`."""
    size = int(np.prod(shape, dtype=np.int64))
    form = read_form(reader)
    if form == BITMAP:
        bits = np.unpackbits(symbols.decode(reader, (size + 7) // 8, BYTE).astype(np.uint8))
        if bits[size:].any():
            reader.fail(f"positions beyond the {size} entries")
        return np.flatnonzero(bits[:size])
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

    Returns the bytes and, for every gap written (m,), whether it belongs to a filler zero. Gap g is written as g - 1; the
    first is counted from before the first entry; a filler has the largest gap.
    """
    widths = range(1, WIDEST_GAP + 1) if bits is None else [bits]
    gaps = np.diff(kept, prepend=-1) - 1
    best = min(widths, key=lambda width: _filler_bits(gaps, width))
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


def read_head(reader: Reader) -> tuple[str, int]:
    """The form of the positions that begin here, in words, and the alphabet of their symbols."""
    form = read_form(reader)
    if form == BITMAP:
        return "bitmap", BYTE
    bits, _ = read_gaps(reader, 2**63 - 1)
    return f"{FORMS[form]} of {bits} bits", 1 << bits


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
    best = min(range(1, WIDEST_GAP + 1), key=lambda width: _escape_bits(gaps, (1 << width) - 1))
    escape = (1 << best) - 1
    codes, _ = _bridge(gaps, escape, escape)
    return bytes([GAPS, best]) + varint(len(codes)) + symbols.encode(codes, escape + 1, coders)


def _bridge(gaps: np.ndarray, span: int, bridge: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of gaps, long ones bridged by codes `bridge` that stand for `span` entries each; and which are bridges."""
    bridges = gaps // span
    ends = np.cumsum(bridges + 1) - 1
    codes = np.full(int(ends[-1]) + 1 if len(gaps) else 0, bridge, np.uint16)
    codes[ends] = gaps % span
    filler = np.ones(len(codes), bool)
    filler[ends] = False
    return codes, filler


def _escape_bits(gaps: np.ndarray, escape: int) -> float:
    """The entropy of the codes, with a little for learning each symbol's share."""
    counts = np.bincount(gaps % escape, minlength=escape + 1)
    counts[escape] = (gaps // escape).sum()
    return _entropy_bits(counts) + 4 * np.count_nonzero(counts)


def _filler_bits(gaps: np.ndarray, width: int) -> float:
    """The entropy of the gap codes, with what each filler costs among the values, and the tables."""
    counts = np.bincount(gaps & (1 << width) - 1, minlength=1 << width)
    fillers = int((gaps >> width).sum())
    counts[-1] += fillers
    share = np.array([len(gaps), fillers])
    return _entropy_bits(counts) + _entropy_bits(share) + 4 * np.count_nonzero(counts)


def _entropy_bits(counts: np.ndarray) -> float:
    present = counts[counts > 0].astype(np.float64)
    return float(-(present * np.log2(present / present.sum())).sum())
