"""What a `.dct` holds, tensor by tensor, beside what theory and the paper's own accounting say.

>>> print(inspect("lenet.dct").total_bytes)     # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from heapq import heapify, heappop, heapreplace
from pathlib import Path
from typing import Any

import numpy as np

from decoct import coding
from decoct.coding import Stored
from decoct.file import File, itemsize, open_file

PAPER_GAP_BITS = 5
PAPER_TABLE_BITS = 32


@dataclass(frozen=True)
class TensorContents:
    """One tensor of a file.

    coder: how its streams are coded, in words. sections: its chunk's bytes by kind, as `coding.sections` has them.
    bits_per_weight: of the chunk, over all entries. entropy_bytes: what codes (or the plain numbers' bytes, or the
    integers of a grid) and the mask would take at their order-0 entropy. excess: chunk without table over that, less
    1; None where the entropy is 0. paper_bytes: see `paper_bytes`, 0 for tensors that the paper does not count.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    coder: str
    parameters: int
    kept: int
    bytes: int
    sections: dict[str, int]
    bits_per_weight: float
    values_entropy_bytes: float
    mask_entropy_bytes: float
    entropy_bytes: float
    excess: float | None
    paper_bytes: float


@dataclass(frozen=True)
class Contents:
    """A whole file: its tensors and totals.

    tensors: empty for a bare file to which no names were bound. sections: the bytes of the file by kind, which sum to
    `total_bytes`. decoded_bytes: of the tensors when decoded. entropy_bytes, paper_bytes: sums over the tensors.
    """

    label: str
    version: int
    bare: bool
    total_bytes: int
    decoded_bytes: int
    parameters: int
    kept: int
    sections: dict[str, int]
    entropy_bytes: float
    paper_bytes: float
    tensors: tuple[TensorContents, ...]
    meta: dict[str, Any]

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=1)


def inspect(path: str | Path | bytes | File, limit_bytes: int | None = None) -> Contents:
    """Read a `.dct`, one tensor at a time, and say what it holds; FormatError where it is damaged."""
    file = path if isinstance(path, File) else open_file(path, limit_bytes)
    tensors = tuple(describe(file, name) for name in file.names) if file.bound else ()
    return Contents(
        label=file.label,
        version=file.version,
        bare=file.bare,
        total_bytes=file.size_bytes,
        decoded_bytes=sum(tensor.parameters * itemsize(tensor.dtype) for tensor in tensors),
        parameters=sum(tensor.parameters for tensor in tensors),
        kept=sum(tensor.kept for tensor in tensors),
        sections=file.sections(),
        entropy_bytes=sum(tensor.entropy_bytes for tensor in tensors),
        paper_bytes=sum(tensor.paper_bytes for tensor in tensors),
        tensors=tensors,
        meta=file.meta,
    )


def describe(file: File, name: str) -> TensorContents:
    """One tensor of an open file."""
    chunk, stored = file.chunk(name), file.stored(name)
    sections = coding.sections(chunk)
    kept = stored.size if stored.kept is None else len(stored.kept)
    values, mask = values_entropy_bits(stored) / 8, mask_entropy_bits(kept, stored.size) / 8
    coded = len(chunk) - sections.get("table", 0)
    return TensorContents(
        name=name,
        shape=file.shape(name),
        dtype=file.dtype(name),
        kind=stored.kind,
        coder=coding.describe(chunk),
        parameters=stored.size,
        kept=kept,
        bytes=len(chunk),
        sections=sections,
        bits_per_weight=8 * len(chunk) / max(stored.size, 1),
        values_entropy_bytes=values,
        mask_entropy_bytes=mask,
        entropy_bytes=values + mask,
        excess=coded / (values + mask) - 1 if values + mask else None,
        paper_bytes=paper_bytes(stored),
    )


def coded_bytes(file: File, coder: str) -> int:
    """The bytes of the file if every tensor were coded by `coder`, everything else as it is."""
    others = file.size_bytes - sum(len(file.chunk(name)) for name in file.names)
    return others + sum(len(coding.encode(file.stored(name), coder, {})) for name in file.names)


def values_entropy_bits(stored: Stored) -> float:
    """Order-0 entropy of the kept entries, bits in all: codes and integers as symbols, numbers by byte planes."""
    data = stored.data
    if stored.kind != "plain" or data.dtype.itemsize == 1:
        return entropy_bits(np.unique(data, return_counts=True)[1])
    planes = np.ascontiguousarray(data).view(np.uint8).reshape(-1, data.dtype.itemsize)
    return sum(entropy_bits(np.bincount(planes[:, place])) for place in range(planes.shape[1]))


def mask_entropy_bits(kept: int, size: int) -> float:
    """Entropy of a mask that keeps `kept` of `size` entries anywhere, bits in all.

    >>> mask_entropy_bits(2, 4)
    4.0
    """
    return entropy_bits(np.array([kept, size - kept]))


def entropy_bits(counts: np.ndarray) -> float:
    """Bits that symbols with these counts take in all at their entropy.

    >>> entropy_bits(np.array([2, 1, 1]))
    6.0
    """
    counts = counts[counts > 0].astype(np.float64)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) + 0.0


def paper_bytes(stored: Stored) -> float:
    """The bytes of a weight matrix by the accounting of Han 2016 (arXiv 1510.00149, tables 2-5).

    Huffman-coded codes and gaps of 5 bits, filler zeros among both, and a codebook of 32-bit floats. Huffman tables,
    shapes and whatever is no shared weight matrix (biases, ...) are not counted, as there.
    """
    if stored.kind != "shared" or len(stored.shape) < 2 or stored.table is None:
        return 0.0
    codes = np.bincount(stored.data, minlength=len(stored.table))
    table = PAPER_TABLE_BITS * len(stored.table)
    if stored.kept is None:
        return (huffman_bits(codes) + table) / 8
    largest = 2**PAPER_GAP_BITS
    distances = np.diff(stored.kept, prepend=-1) - 1  # zeros before each kept entry
    gaps = np.bincount(distances % largest, minlength=largest)
    fillers = int((distances // largest).sum())
    gaps[largest - 1] += fillers
    return (huffman_bits(np.append(codes, fillers)) + huffman_bits(gaps) + table) / 8


def huffman_bits(counts: Iterable[int]) -> int:
    """Bits that symbols with these counts take in all with their Huffman code: the sum of all merged weights.

    >>> huffman_bits([4, 2, 1, 1])
    14
    >>> huffman_bits([5])
    0
    """
    heap = [int(count) for count in counts if count]
    heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heappop(heap) + heap[0]
        total += merged
        heapreplace(heap, merged)
    return total
