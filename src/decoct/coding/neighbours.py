"""Masks and signs of weights that have a shape: what lies near is alike.

A hidden unit of a trained network looks at a patch of its input. After pruning its kept weights lie together, and those
that lie together mostly have one sign. Gaps and plain histograms see nothing of this. Here a tensor is a table of steps
by lanes, say input pixels by hidden units, coded step by step and for all lanes at once. The model of an entry is what
followed before when the entries near it in its lane looked as they do now: those one and two steps back, a period back
(the width of the image, found by the encoder) and around there. Finer contexts lean on coarser ones until they have
seen enough (as in Teahan and Cleary's PPM):

    p(bit = 1 | context) = (ones(context) + S p(bit = 1 | coarser context)) / (times(context) + S)

and for masks the odds are then scaled by how much fuller the lane is than was expected of it so far. All of it is sums,
products and quotients of float64, one array operation each, hence the same on every machine.

Result: weights around points of an image, drawn at random, take 7,656 bytes, where gaps take 7,969 and independent
entries and codes 9,540 (`python benchmarks/codec.py`, "patches"). Trained layers gain more: of one LeNet-300-100 pruned
to 5,815 first-layer weights, positions take 3.1 kB (gaps 3.5 kB) and codes of 3 bits 1.6 kB (2.0 kB without signs of
neighbours); for a file of your own add `--files MODEL.dct`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from constriction import stream

from decoct.coding import ans
from decoct.coding.reader import Reader, varint
from decoct.errors import FormatError

MOST_STEPS = 1 << 15
MOST_ENTRIES = 1 << 26
LONGEST_PERIOD = 1 << 12
LONGEST_SEARCH = 256
SURE = 10
CHAINS = ((), (0,), (0, 1), (0, 2, 3))  # by depth: which of the contexts of a mask lean on which
CONTEXTS = (16, 16 * 8, 64, 16 * 5 * 8)
STRENGTH = 16
LANE_STRENGTH = 2
SCALE = 256
EDGE = 2.0**-16

Ask = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How a tensor is seen as (steps, lanes).

    turned: the steps are all dimensions but the first (input pixels), the lanes the first (hidden units); else
        the other way round.
    period: how many steps back lies what is near in the other direction.
    depth: the contexts of a mask's model, an index of CHAINS: none but the lane, the four nearest entries, or more.
    density: about what share of a mask is kept, in units of 1 / SCALE.
    """

    turned: bool
    period: int
    depth: int = len(CHAINS) - 1
    density: int = SCALE // 2

    def __bytes__(self) -> bytes:
        return bytes([self.turned | self.depth << 1, self.density]) + varint(self.period)

    @classmethod
    def read(cls, reader: Reader, shape: Sequence[int]) -> Layout:
        """The layout that is written here, checked against the shape."""
        flags = reader.byte("the layout")
        density = reader.byte("the density")
        period = reader.varint("the period", LONGEST_PERIOD)
        layout = cls(bool(flags & 1), period, flags >> 1, density)
        if layout.depth >= len(CHAINS) or not density or not layout.fits(shape):
            reader.fail(f"layout {flags} of period {period} is not one for shape {tuple(shape)}")
        return layout

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape can be coded so."""
        steps, _ = self.table(shape)
        return 2 <= self.period <= max(2, steps) and steps <= MOST_STEPS and 0 < prod(shape) <= MOST_ENTRIES

    def table(self, shape: Sequence[int]) -> tuple[int, int]:
        """How many steps and lanes."""
        first = shape[0] if shape else 1
        rest = prod(shape[1:])
        return (rest, first) if self.turned else (first, rest)

    def steps(self, flat: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The entries of a tensor (n,) in row-major order as (steps, lanes)."""
        steps, lanes = self.table(shape)
        return np.ascontiguousarray(flat.reshape(lanes, steps).T) if self.turned else flat.reshape(steps, lanes)

    def flat(self, table: np.ndarray) -> np.ndarray:
        """And back."""
        return np.ascontiguousarray(table.T if self.turned else table).ravel()


class Near:
    """What has been coded so far of a table of small integers (steps, lanes); 0 where nothing has been or will be."""

    def __init__(self, steps: int, lanes: int, period: int) -> None:
        self.period = period
        self.margin = 3 * period + 3
        self.seen: np.ndarray = np.zeros((self.margin + steps + 1, lanes), np.int8)

    def __getitem__(self, place: tuple[int, int, int]) -> np.ndarray:
        """The row at `place` = (step, steps before it, periods before it)."""
        step, steps, periods = place
        return self.seen[self.margin + step - steps - periods * self.period]

    def put(self, step: int, row: np.ndarray) -> None:
        """Add what has been coded of a step."""
        self.seen[self.margin + step] = row

    def table(self) -> np.ndarray:
        """All steps (steps, lanes)."""
        return self.seen[self.margin : -1]


class Counts:
    """How often a bit was one in each context, coarser contexts first.

    first: the chance of a one before anything was seen, in units of 1 / SCALE.
    """

    def __init__(self, sizes: Sequence[int], first: int) -> None:
        self.first = first
        self.ones = [np.zeros(size, np.int64) for size in (1, *sizes)]
        self.times = [np.zeros(size, np.int64) for size in (1, *sizes)]

    def chances(self, contexts: Sequence[np.ndarray], count: int) -> np.ndarray:
        """The chance (count,) of a one in each of some contexts (count,)."""
        every, all_times = int(self.ones[0][0]), int(self.times[0][0])
        chance = np.full(count, (SCALE * every + STRENGTH * self.first) / (SCALE * (all_times + STRENGTH)))
        for ones, times, context in zip(self.ones[1:], self.times[1:], contexts, strict=True):
            chance = (ones[context] + STRENGTH * chance) / (times[context] + STRENGTH)
        return chance

    def learn(self, contexts: Sequence[np.ndarray], bits: np.ndarray) -> None:
        """Count bits (count,) that were seen in these contexts."""
        self.ones[0] += np.count_nonzero(bits)
        self.times[0] += len(bits)
        for ones, times, context in zip(self.ones[1:], self.times[1:], contexts, strict=True):
            np.add.at(times, context, 1)
            np.add.at(ones, context[bits != 0], 1)


def encode_mask(mask: np.ndarray, shape: Sequence[int], layout: Layout) -> bytes:
    """Write which entries (n,) of a tensor are kept; `shape` is needed to read it."""
    table = layout.steps(mask, shape).astype(np.int32)
    ask, parts = _teller(table)
    _walk_mask(layout, table.shape, ask)
    return bytes(layout) + ans.push(parts)


def decode_mask(reader: Reader, shape: Sequence[int]) -> np.ndarray:
    """Read which entries (n,) are kept from all that is left of `reader`."""
    layout = Layout.read(reader, shape)
    with reader.placing():
        coder = ans.pull(reader.rest())
        table = _walk_mask(layout, layout.table(shape), _asker(coder))
        ans.finish(coder)
    return layout.flat(table).astype(bool)


def encode_values(
    codes: np.ndarray, negative: np.ndarray, kept: np.ndarray | None, shape: Sequence[int], layout: Layout
) -> bytes:
    """Write codes (kept,): their signs by their neighbours', then which code of that sign.

    negative: (alphabet,) whether a code stands for a negative number.
    """
    signs = np.where(negative[codes], -1, 1).astype(np.int8)
    table = layout.steps(_spread(signs, kept, shape), shape)
    ask, parts = _teller([(row[row != 0] > 0).astype(np.int32) for row in table])
    _walk_signs(layout, table != 0, ask)
    for group, of_group in _groups(negative):
        symbols = np.cumsum(of_group) - 1
        parts += ans.adaptive(symbols[codes[negative[codes] == group]], int(of_group.sum()))
    return bytes(layout) + ans.push(parts)


def decode_values(reader: Reader, negative: np.ndarray, kept: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
    """Read the codes (kept,) of a tensor whose kept entries are known, from all that is left of `reader`."""
    layout = Layout.read(reader, shape)
    count = prod(shape) if kept is None else len(kept)
    there = layout.steps(_spread(np.ones(count, np.int8), kept, shape), shape) != 0
    with reader.placing():
        coder = ans.pull(reader.rest())
        signs = layout.flat(_walk_signs(layout, there, _asker(coder)))
        codes = _pop_codes(coder, (signs if kept is None else signs[kept]) < 0, negative)
        ans.finish(coder)
    return codes


def _pop_codes(coder: Any, below: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Codes of known sign: `below` (kept,) tells which are of negative numbers."""
    codes = np.zeros(len(below), np.int32)
    for group, of_group in _groups(negative):
        where, members = below == group, np.flatnonzero(of_group)
        if not len(members) and where.any():
            raise FormatError("a sign that no code has")
        if len(members):
            codes[where] = members[ans.pop(coder, int(where.sum()), len(members))]
    return codes


def best_mask(mask: np.ndarray, shape: Sequence[int]) -> bytes | None:
    """The shortest that `encode_mask` makes of a mask (n,) over a few layouts; None where none is possible."""
    density = min(SCALE - 1, max(1, SCALE * int(np.count_nonzero(mask)) // max(1, len(mask))))
    best: tuple[bytes, Layout] | None = None
    for layout in _layouts(mask, shape):
        for depth in dict.fromkeys((layout.depth, 0)):
            tried = replace(layout, depth=depth, density=density)
            best = _shorter(best, (encode_mask(mask, shape, tried), tried))
    if best and best[1].depth:
        for depth in range(1, len(CHAINS) - 1):
            tried = replace(best[1], depth=depth)
            best = _shorter(best, (encode_mask(mask, shape, tried), tried))
    return best[0] if best else None


def best_values(codes: np.ndarray, negative: np.ndarray, kept: np.ndarray | None, shape: Sequence[int]) -> bytes | None:
    """The shortest that `encode_values` makes of codes (kept,) over a few layouts; None where none is possible."""
    positive = _spread(~negative[codes], kept, shape)
    written = [encode_values(codes, negative, kept, shape, layout) for layout in _layouts(positive, shape)]
    return min(written, key=len, default=None)


def _layouts(mask: np.ndarray, shape: Sequence[int]) -> Iterator[Layout]:
    """Both directions of a tensor whose entries (n,) of interest are marked, each with its best period.

    Contexts are worth a trial where entries near each other are surely alike: z standard errors make z^2 / 1.4 bits.
    """
    for turned in (True, False):
        layout = Layout(turned, 2)
        if layout.fits(shape) and min(layout.table(shape)) > 1:
            period, errors = _period(layout.steps(mask, shape))
            yield replace(layout, period=period, depth=len(CHAINS) - 1 if errors > SURE else 0)


def _shorter(best: tuple[bytes, Layout] | None, other: tuple[bytes, Layout]) -> tuple[bytes, Layout]:
    return best if best and len(best[0]) <= len(other[0]) else other


def _walk_mask(layout: Layout, table: tuple[int, ...], ask: Ask) -> np.ndarray:
    """Go through a mask (steps, lanes), asking for each row with the chances of its ones."""
    steps, lanes = table
    near = Near(steps, lanes, layout.period)
    counts = Counts([CONTEXTS[place] for place in CHAINS[layout.depth]], layout.density)
    expected, found = np.zeros(lanes), np.zeros(lanes)
    filled = np.zeros(steps, np.int64)
    for step in range(steps):
        contexts = _mask_contexts(near, step, filled, CHAINS[layout.depth]) if layout.depth else []
        chances = counts.chances(contexts, lanes)
        ratio = (found + LANE_STRENGTH) / (expected + LANE_STRENGTH)
        bits = ask(step, (chances * ratio / (1 - chances + chances * ratio)).clip(EDGE, 1 - EDGE))
        counts.learn(contexts, bits)
        expected += chances
        found += bits
        filled[step] = np.count_nonzero(bits)
        near.put(step, bits)
    return near.table()


def _mask_contexts(near: Near, step: int, filled: np.ndarray, chain: Sequence[int]) -> list[np.ndarray]:
    """What a row is seen against: its four nearest rows, with the fullness of steps, six rows, and the farther ones."""
    nearest = near[step, 1, 0] | near[step, 0, 1] << 1 | near[step, 1, 1] << 2 | near[step, -1, 1] << 3
    nearest = nearest.astype(np.int64)
    second, above = near[step, 2, 0], near[step, 0, 2]
    far = near[step, 3, 0] + near[step, 0, 3]
    far = far + near[step, 2, 1] + near[step, -2, 1] + near[step, 1, 2] + near[step, -1, 2]
    around = np.minimum(second + above + far, 4)
    full = int(filled[step - 1] if step else 0) + int(filled[step - near.period] if step >= near.period else 0)
    fullness = min(7, (1 + full).bit_length() - 1)
    six = nearest | second.astype(np.int64) << 4 | above.astype(np.int64) << 5
    contexts = nearest, nearest * 8 + fullness, six, (nearest * 5 + around) * 8 + fullness
    return [contexts[place] for place in chain]


def _walk_signs(layout: Layout, there: np.ndarray, ask: Ask) -> np.ndarray:
    """Go through the signs (-1, 1) of entries that are there (steps, lanes), asking for each row's positive ones."""
    steps, lanes = there.shape
    near = Near(steps, lanes, layout.period)
    counts = Counts((7, 81), SCALE // 2)
    for step in range(steps):
        lane = np.flatnonzero(there[step])
        if len(lane):
            contexts = _sign_contexts(near, step, lane)
            bits = ask(step, counts.chances(contexts, len(lane)).clip(EDGE, 1 - EDGE))
            counts.learn(contexts, bits)
            row = np.zeros(lanes, np.int8)
            row[lane] = 2 * bits - 1
            near.put(step, row)
    return near.table()


def _sign_contexts(near: Near, step: int, lane: np.ndarray) -> tuple[np.ndarray, ...]:
    """What signs are seen against: the sum of the signs around, and each of the four nearest."""
    back = [(1, 0), (0, 1), (1, 1), (-1, 1), (2, 0), (0, 2)]
    left, above, before, after, second, higher = (near[step, *place][lane].astype(np.int64) for place in back)
    around = 2 * (left + above) + before + after + second + higher
    return around.clip(-3, 3) + 3, left + 1 + 3 * (above + 1) + 9 * (before + 1) + 27 * (after + 1)


def _teller(rows: Sequence[np.ndarray] | np.ndarray) -> tuple[Ask, list[ans.Part]]:
    """Answers of an encoder, which knows, and the parts that a decoder will need to know as much."""
    parts: list[ans.Part] = []
    model = stream.model.Bernoulli(perfect=False)

    def tell(step: int, chances: np.ndarray) -> np.ndarray:
        parts.append((rows[step], model, chances))
        return rows[step]

    return tell, parts


def _asker(coder: Any) -> Ask:
    """Answers of a decoder."""
    model = stream.model.Bernoulli(perfect=False)
    return lambda step, chances: coder.decode(model, chances)


def _spread(entries: np.ndarray, kept: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
    """Kept entries among zeros (n,)."""
    if kept is None:
        return entries
    flat = np.zeros(prod(shape), entries.dtype)
    flat[kept] = entries
    return flat


def _groups(negative: np.ndarray) -> tuple[tuple[bool, np.ndarray], ...]:
    """The codes (alphabet,) of negative numbers, and the others."""
    return (True, negative), (False, ~negative)


def _period(table: np.ndarray) -> tuple[int, float]:
    """How many steps apart, from two on, entries of a mask (steps, lanes) are most surely alike.

    Also by how many standard errors there are more such pairs than chance would have, one step apart or a period.
    """
    filled = np.count_nonzero(table, axis=1) / np.sqrt(table.shape[1])
    errors = np.zeros(LONGEST_SEARCH)
    for apart in range(1, min(len(table) // 2, LONGEST_SEARCH)):
        chance = filled[apart:] @ filled[:-apart]
        pairs = np.count_nonzero(table[apart:] & table[:-apart])
        errors[apart] = (pairs - chance) / np.sqrt(chance + 1)
    return 2 + int(errors[2:].argmax()), float(errors.max())
