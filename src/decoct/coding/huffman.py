"""Huffman coding in canonical form.

Song Han, Huizi Mao, William J. Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
Quantization and Huffman Coding", ICLR 2016, arXiv 1510.00149, section 4. Frequent codes get short bit strings: the two
rarest symbols are joined into one, again and again, and a symbol's length is the number of joins it took part in. The
paper codes the weight codes and the index gaps so, each with a tree of its own per layer.

Only the lengths travel; the strings follow from them (shorter first, then in the order of the symbols).
Differs: no length exceeds 15 bits (package-merge, Larmore and Hirschberg 1990, where Huffman's tree would be deeper);
the lengths are in the file and are counted. Decoding looks up whole strings in a table of 2^15 entries.

Result: beside ANS and the entropy for every network in docs/results.md (`decoct compress recipes/lenet-5.toml`).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoct.coding.stored import Code, chosen
from decoct.errors import FormatError, RecipeError

LONGEST = 15
RUN = 16  # the longest run of absent symbols that one nibble pair says
SEGMENT = 1 << 16  # symbols at a time when writing, bits when reading
STRIDE_DOUBLINGS = 2
WINDOW, FEW = 12, 4096  # bits that are looked up at once, beyond so many symbols


@dataclass(frozen=True)
class Huffman:
    """Store tensors as the paper does: Huffman codes for values and for index gaps, with filler zeros.

    tensors: which, a glob over their names.
    gap_bits: the width of a gap before Huffman coding, per tensor the best where None; the paper uses 4, 5 or 8.
    """

    tensors: str = "*"
    gap_bits: int | None = None

    def __post_init__(self) -> None:
        if self.gap_bits is not None and not 1 <= self.gap_bits <= 12:
            raise RecipeError(f"coding.huffman: gap_bits is 1 to 12, not {self.gap_bits}")

    def plan(self, draft: Any, task: Any) -> list[Code]:
        """One Code for each tensor of the draft that `tensors` matches."""
        parameters: Mapping[str, Any] = {} if self.gap_bits is None else {"gap_bits": self.gap_bits}
        return [Code(name, "huffman", parameters) for name in chosen(draft.tensors(), self.tensors)]


def lengths(counts: np.ndarray) -> np.ndarray:
    """The code lengths (alphabet,) in bits of symbols with these counts; 0 for what does not occur or is alone."""
    result = np.zeros(len(counts), np.uint8)
    used = np.flatnonzero(counts)
    if len(used) > 1:
        weights = [int(count) for count in counts[used]]
        depths = _tree(weights)
        result[used] = depths if max(depths) <= LONGEST else _package_merge(weights)
    return result


def canonical(lengths: np.ndarray) -> np.ndarray:
    """The bit strings (alphabet,) as integers: counted up, shorter strings first, then by symbol."""
    codes = np.zeros(len(lengths), np.uint32)
    code, last = 0, 0
    for symbol in _order(lengths):
        code <<= int(lengths[symbol]) - last
        codes[symbol] = code
        code, last = code + 1, int(lengths[symbol])
    return codes


def encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """Write symbols (n,) of 0 .. alphabet-1: their code lengths, then their strings, highest bit first."""
    if alphabet < 2:
        return b""
    sizes = lengths(np.bincount(symbols, minlength=alphabet))
    return _write_table(sizes, symbols) + _write_strings(symbols, sizes)


def decode(data: bytes, count: int, alphabet: int) -> np.ndarray:
    """Read `count` symbols back. FormatError where the bytes cannot have come from `encode`."""
    if alphabet < 2:
        if data:
            raise FormatError("bytes where there is but one symbol")
        return np.zeros(count, np.uint16)
    sizes, only, used = _read_table(data, alphabet)
    if only is not None:
        if len(data) > used:
            raise FormatError("bytes where there is but one symbol")
        return np.full(count, only, np.uint16)
    return _read_strings(data[used:], count, sizes)


def table_bytes(data: bytes, alphabet: int) -> int:
    """How many of the encoded bytes are the table of lengths."""
    return _read_table(data, alphabet)[2] if alphabet > 1 else 0


def _order(lengths: np.ndarray) -> np.ndarray:
    """The symbols that have a string, in the order of their strings."""
    used = np.flatnonzero(lengths)
    return used[np.argsort(lengths[used], kind="stable")]


def _tree(weights: list[int]) -> list[int]:
    """The depth of each leaf of Huffman's tree; among equals, what came first is joined first."""
    heap = [(weight, node) for node, weight in enumerate(weights)]
    heapq.heapify(heap)
    parents = [0] * (2 * len(weights) - 1)
    for node in range(len(weights), len(parents)):
        (first, a), (second, b) = heapq.heappop(heap), heapq.heappop(heap)
        parents[a] = parents[b] = node
        heapq.heappush(heap, (first + second, node))
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return depths[: len(weights)]


def _package_merge(weights: list[int]) -> list[int]:
    """The best depths of at most LONGEST: a leaf's depth is how often it is in the cheapest 2n-2 packages."""
    order = sorted(range(len(weights)), key=lambda leaf: (weights[leaf], leaf))
    leaves = [(weights[leaf], np.bincount([leaf], minlength=len(weights))) for leaf in order]
    row = leaves
    for _ in range(LONGEST - 1):
        pairs = [(row[i][0] + row[i + 1][0], row[i][1] + row[i + 1][1]) for i in range(0, len(row) - 1, 2)]
        row = sorted(leaves + pairs, key=lambda package: package[0])
    depths: np.ndarray = sum(package[1] for package in row[: 2 * len(weights) - 2])  # type: ignore[assignment]
    return [int(depth) for depth in depths]


def _write_table(sizes: np.ndarray, symbols: np.ndarray) -> bytes:
    """How many nibbles there are (2 bytes), then lengths as nibbles; after a 0, how many symbols are absent, less one.

    A symbol that is alone has no string: its table is that of a single length of one.
    """
    if not sizes.any():
        sizes = sizes.copy()
        sizes[symbols[:1]] = 1
    nibbles: list[int] = []
    absent = 0
    for size in np.trim_zeros(sizes, "b"):
        if size and absent:
            for start in range(0, absent, RUN):
                nibbles += [0, min(RUN, absent - start) - 1]
            absent = 0
        if size:
            nibbles.append(int(size))
        else:
            absent += 1
    listed = len(nibbles)
    nibbles += [0] * (listed % 2)
    pairs = np.array(nibbles, np.uint8).reshape(-1, 2)
    return listed.to_bytes(2, "little") + (pairs[:, 0] << 4 | pairs[:, 1]).tobytes()


def _read_table(data: bytes, alphabet: int) -> tuple[np.ndarray, int | None, int]:
    """The lengths (alphabet,), the lone symbol if there is but one, and the bytes of the table."""
    listed = int.from_bytes(data[:2], "little")
    used = 2 + (listed + 1) // 2
    if len(data) < used:
        raise FormatError(f"a Huffman table of {used} bytes, but {len(data)} are left")
    packed = np.frombuffer(data[2:used], np.uint8)
    nibbles = np.stack([packed >> 4, packed & 15], 1).ravel().tolist()[:listed]
    sizes = np.zeros(alphabet, np.uint8)
    symbol, place = 0, 0
    while place < listed:
        if nibbles[place]:
            if symbol >= alphabet:
                raise FormatError(f"a Huffman table of more than {alphabet} symbols")
            sizes[symbol] = nibbles[place]
            symbol, place = symbol + 1, place + 1
        else:
            symbol += nibbles[place + 1] + 1 if place + 1 < listed else alphabet
            place += 2
    present = np.flatnonzero(sizes)
    if len(present) == 1 and sizes[present[0]] == 1:
        return sizes, int(present[0]), used
    if len(present) and int((1 << LONGEST - sizes[present].astype(np.int64)).sum()) != 1 << LONGEST:
        raise FormatError("the lengths of a Huffman table do not make a code")
    return sizes, None, used


def _write_strings(symbols: np.ndarray, sizes: np.ndarray) -> bytes:
    """The strings of all symbols, one after the other, padded with zero bits.

    Each string is shifted to its place in a pair of 32-bit words; the words of all strings that meet in one are summed.
    """
    codes, pieces = canonical(sizes).astype(np.uint64), []
    carry, begun = 0, 0
    for start in range(0, len(symbols), SEGMENT):
        part = symbols[start : start + SEGMENT]
        size = sizes[part].astype(np.int64)
        ends = np.cumsum(size) + begun
        first = ends - size
        pair = codes[part] << (64 - size - (first & 31)).astype(np.uint64)
        words = np.bincount(first >> 5, pair >> np.uint64(32), (int(ends[-1]) >> 5) + 2)
        words += np.bincount((first >> 5) + 1, pair & np.uint64(0xFFFFFFFF), len(words))
        words[0] += carry
        whole, begun = int(ends[-1]) >> 5, int(ends[-1]) & 31
        pieces.append(words[:whole].astype(">u4").tobytes())
        carry = int(words[whole])
    return b"".join(pieces) + carry.to_bytes(4, "big")[: (begun + 7) // 8]


def _read_strings(data: bytes, count: int, sizes: np.ndarray) -> np.ndarray:
    """Decode by table, a segment of bits at a time.

    For every bit of a segment, look up the symbols whose strings would lie in the window that begins there, and so
    where the next window would begin. Which windows do occur is then a chain of jumps. It is walked in strides of
    several jumps, and the windows between are found for all strides together.
    """
    if count and not sizes.any():
        raise FormatError("a Huffman table without symbols")
    reach = max(int(sizes.max(initial=1)), WINDOW if count > FEW else 1)
    strings, amounts, spans = _windows_table(sizes, reach) if count else (sizes, sizes, sizes)
    padded = np.frombuffer(data + bytes(4), np.uint8)
    symbols = np.empty(count, np.uint16)
    done, bit, total = 0, 0, 8 * len(data)
    while done < count:
        if bit >= total:
            raise FormatError(f"the Huffman codes end after {done} of {count} symbols")
        base = bit // 8
        windows = _windows(padded[base : base + SEGMENT // 8 + 2], min(SEGMENT, total - 8 * base), reach)
        starts, bit = _chain(spans[windows], bit - 8 * base)
        found = windows[starts]
        part = strings[found][np.arange(strings.shape[1]) < amounts[found][:, None]][: count - done]
        symbols[done : done + len(part)] = part
        done, bit = done + len(part), bit + 8 * base
    used = int(sizes.astype(np.int64) @ np.bincount(symbols, minlength=len(sizes)))
    if (used + 7) // 8 != len(data) or (used % 8 and data[-1] & (0xFF >> used % 8)):
        raise FormatError("the Huffman codes do not end where their bytes end")
    return symbols


def _windows_table(sizes: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each window of `reach` bits: the symbols of the whole strings in it, how many they are, and their bits."""
    order = _order(sizes)
    symbol_at = np.repeat(order, 1 << reach - sizes[order].astype(np.int64)).astype(np.uint16)
    size_at = sizes[symbol_at].astype(np.int64)
    window, used = np.arange(1 << reach), np.zeros(1 << reach, np.int64)
    amounts, columns = np.zeros(1 << reach, np.int64), []
    for _ in range(reach // int(sizes[order[0]])):
        rest = window << used & (1 << reach) - 1
        columns.append(symbol_at[rest])
        fits = used + size_at[rest] <= reach  # once a string does not fit, it never does: the window stays there
        amounts += fits
        used += fits * size_at[rest]
    return np.stack(columns, 1), amounts, used


def _windows(data: np.ndarray, bits: int, reach: int) -> np.ndarray:
    """The `reach` bits that follow each of the first `bits` bits of some bytes (two bytes more)."""
    wide = data.astype(np.int64)
    wide = wide[:-2] << 16 | wide[1:-1] << 8 | wide[2:]
    shifts = np.arange(24 - reach, 24 - reach - 8, -1)
    return (wide[:, None] >> shifts & (1 << reach) - 1).ravel()[:bits]


def _chain(spans: np.ndarray, first: int) -> tuple[np.ndarray, int]:
    """The bits where windows begin, from `first` on, and where the next would, past the last bit.

    spans: (bits,) how far from each bit the next window is.
    """
    bits = len(spans)
    jump = np.arange(bits + LONGEST)
    jump[:bits] += spans
    strides = [jump]
    for _ in range(STRIDE_DOUBLINGS):
        strides.append(strides[-1].take(strides[-1]))
    leap, at, marks = strides[-1].data, first, []
    while at < bits:
        marks.append(at)
        at = leap[at]
    starts = np.array(marks)[:, None]
    for stride in reversed(strides[:-1]):
        starts = np.stack([starts, stride[starts]], 2).reshape(len(marks), -1)
    starts = starts.ravel()
    return starts[starts < bits], at
