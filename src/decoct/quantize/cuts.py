"""Where to cut a line into k clusters of least within-sum: dynamic programming, near the optimum or at it.

Haizhou Wang, Mingzhou Song: Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming. The R
Journal 3/2, 2011; Xiaolin Wu: Optimal Quantization by Matrix Searching. Journal of Algorithms 12, 1991.

    F_c(j) = min_i F_{c-1}(i) + cost(i, j)

is the least sum of c clusters over the first j points. Its argmins rise with j (Wu), so a layer of m places is solved
by divide and conquer in m log m, level by level in numpy.

Differs: a full programme over n points takes k n log n, some seconds for 200,000 points and 32 clusters. Bounds on a
grid of cells first confine every cut to a window (see :func:`exact`), and only the windows are searched: several times
quicker there, the more so for more points, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from decoct.quantize.line import Doubles, Indices, Line, ascending, midpoints, within_sum

Cost = Callable[[Indices, Indices], Doubles]

SKETCH = 1024  # places of a sketch, at least; 8 a cluster where that is more
SKETCH_WORK = 1_000_000  # places x clusters of a sketch
REACH = 8  # steps a cut may move either way in one round of refinement
GRID = 8192  # cells of the first bounds on where cuts lie, at least; 32 a cluster where that is more
FINISH = 4  # with so many points a cell, or fewer, bounds no longer pay
EXACT_WORK = 16_000_000  # places of all cuts together that one programme takes on: some ten seconds


def fill(line: Line, cuts: Indices, k: int) -> Indices:
    """Drop empty clusters, then split the one of largest within-sum at its mean until there are k."""
    if cuts.size == k + 1 and (np.diff(cuts) > 0).all():
        return cuts
    cuts = ascending(cuts)
    costs = line.costs(cuts)
    costs[line.points[cuts[:-1]] == line.points[cuts[1:] - 1]] = -1  # nothing to split
    while cuts.size < k + 1:
        worst = int(np.argmax(costs))
        ends = cuts[worst : worst + 2]
        cut = np.searchsorted(line.points, midpoints(np.repeat(line.means(ends), 2), line.points.dtype), side="right")
        low, high = np.searchsorted(line.points, line.points[ends[0]], side="right"), line.snap(ends[1:] - 1)
        cuts = np.insert(cuts, worst + 1, np.clip(cut, low, high))
        halves = cuts[worst : worst + 3]
        both = line.costs(halves)
        both[line.points[halves[:-1]] == line.points[halves[1:] - 1]] = -1
        costs = np.concatenate((costs[:worst], both, costs[worst + 1 :]))
    return cuts


def sketch(line: Line, k: int) -> Indices:
    """Good cuts quickly: the best among some thousand places, then refined to single points; unproved.

    For large k the places would be too many, and splitting the worst cluster k - 1 times takes their part.
    """
    grid = _grid(line, max(SKETCH, 8 * k))
    last = grid.size - 1
    if k * last > SKETCH_WORK:
        return _refine(line, fill(line, np.array([0, line.points.size]), k))
    windows = np.array([[0, 0], *[[0, last]] * (min(k, last) - 1), [last, last]])
    return _refine(line, fill(line, _best(line, grid, windows), k))


def exact(line: Line, k: int) -> tuple[Indices, bool]:
    """The best cuts of all by branch and bound, and True; or those of the sketch, where EXACT_WORK would be exceeded.

    A cluster whose ends lie somewhere in cells a and b of a grid costs no less than the whole cells between a and b.
    Two dynamic programmes over cells, one from either end, so bound the sum of any clustering whose c-th cut lies in a
    given cell; a cell whose bound exceeds the sum of the sketch is out. What stays is divided more finely, again and
    again, until cells are single values.
    """
    cuts = sketch(line, k)
    if k == 1:
        return cuts, True
    limit = line.margin() + (1 + 1e-9) * float(line.costs(cuts).sum())
    grid = _grid(line, max(GRID, 32 * k))
    last = grid.size - 1
    windows = np.array([[-1, -1], *[[0, last - 1]] * (k - 1), [last, last]])  # of cells; cell a begins at grid[a]
    whole = False
    while not whole:
        places = int((windows[1:-1, 1] - windows[1:-1, 0] + 1).sum())
        points = int((grid[windows[1:-1, 1] + 1] - grid[windows[1:-1, 0]]).sum())
        if places > EXACT_WORK:
            return cuts, False
        whole = points <= FINISH * places
        if not whole:
            windows = _narrow(line, grid, windows, limit)
        cells = grid.size
        grid, windows = _divide(line, grid, windows, whole)
        whole = whole or grid.size == cells
    if int((windows[1:-1, 1] - windows[1:-1, 0] + 1).sum()) > EXACT_WORK:
        return cuts, False
    return _best(line, grid, np.concatenate(([[0, 0]], windows[1:]))), True


def _grid(line: Line, cells: int) -> Indices:
    """Cuts into about so many cells, half of them of equal numbers of points and half of equal width."""
    half, n = cells // 2, line.points.size
    by_value = np.searchsorted(line.points, line.even(half + 1)[1:-1].astype(line.points.dtype))
    return ascending(np.concatenate(([0], line.snap(np.arange(1, half) * n // half), by_value, [n])))


def _divide(line: Line, grid: Indices, windows: Indices, whole: bool) -> tuple[Indices, Indices]:
    """Divide every cell in a window, into parts of like numbers of points or into single values; grid and windows."""
    inside = np.zeros(grid.size + 1, np.int64)
    np.add.at(inside, windows[1:-1, 0], 1)
    np.add.at(inside, windows[1:-1, 1] + 1, -1)
    cells = np.flatnonzero(np.cumsum(inside)[: grid.size - 1])
    low, widths = grid[cells], grid[cells + 1] - grid[cells]
    if whole:
        more = np.repeat(low - np.cumsum(widths) + widths, widths) + np.arange(widths.sum())
        more = more[line.points[more] != line.points[more - 1]]
    else:
        second = np.minimum(np.searchsorted(line.points, line.points[low], side="right"), low + widths)
        more = np.concatenate([second, *(line.snap(low + widths * part // 4) for part in (1, 2, 3))])
    finer = ascending(np.concatenate((grid, more)))
    begins = np.searchsorted(finer, grid[windows[1:-1, 0]])
    ends = np.searchsorted(finer, grid[windows[1:-1, 1] + 1]) - 1
    return finer, np.concatenate((windows[:1], np.stack((begins, ends), axis=1), [[finer.size - 1] * 2]))


def _narrow(line: Line, grid: Indices, windows: Indices, limit: float) -> Indices:
    """The cells (k + 1, 2) in which cuts can lie for a sum of at most `limit`."""
    sums, squares = line.prefix(grid)
    m = grid.size - 1
    mirrored = m - 1 - windows[::-1, ::-1]
    before = [least for least, _ in _program(windows, _inner(grid, sums, squares), 0)]
    after = [least for least, _ in _program(mirrored, _inner(-grid[::-1], -sums[::-1], -squares[::-1]), 0)]
    narrowed = windows.copy()
    for c in range(1, len(windows) - 1):
        possible = np.flatnonzero(before[c] + after[-1 - c][::-1] <= limit)
        if possible.size:  # none only by rounding
            narrowed[c] = windows[c, 0] + possible[[0, -1]]
    narrowed[:, 0] = np.maximum.accumulate(narrowed[:, 0])
    narrowed[:, 1] = np.minimum.accumulate(narrowed[::-1, 1])[::-1]
    return narrowed


def _best(line: Line, grid: Indices, windows: Indices) -> Indices:
    """The best cuts, the c-th one from places windows[c, 0] to windows[c, 1] of `grid`."""
    sums, squares = line.prefix(grid)
    layers = _program(windows, _between(grid, sums, squares), 1)
    chosen = [int(windows[-1, 0])]
    for (first, _), (_, choice) in zip(windows[:0:-1], layers[:0:-1], strict=True):
        chosen.append(int(choice[chosen[-1] - first]))
    return grid[chosen[::-1]]


def _between(grid: Indices, sums: Doubles, squares: Doubles) -> Cost:
    """The within-sum of the points between two cuts of a grid; 0 for none."""

    columns = np.stack((grid.astype(np.float64), sums, squares))

    def cost(low: Indices, high: Indices) -> Doubles:
        count, total, square = columns.take(high, axis=1) - columns.take(low, axis=1)
        return within_sum(np.maximum(count, 1), total, square)

    return cost


def _inner(grid: Indices, sums: Doubles, squares: Doubles) -> Cost:
    """The within-sum of the whole cells between two cells: no cluster with a cut in either costs less."""
    cost = _between(grid, sums, squares)
    return lambda low, high: cost(low + 1, np.maximum(high, low + 1))


def _program(windows: Indices, cost: Cost, gap: int) -> list[tuple[Doubles, Indices]]:
    """F_c(j) = min_i F_{c-1}(i) + cost(i, j) with i + gap <= j, and its argmin, for j in the c-th window; F_0 = 0."""
    layers = [(np.zeros(1), np.zeros(1, np.int64))]
    for (first, _), (low, high) in pairwise(windows):
        layers.append(_layer(layers[-1][0], int(first), int(low), int(high), cost, gap))
    return layers


def _layer(before: Doubles, first: int, low: int, high: int, cost: Cost, gap: int) -> tuple[Doubles, Indices]:
    """min and argmin over i of before[i - first] + cost(i, j) for every j from `low` to `high`; the argmins rise.

    Rows are taken at strides m, m / 2, ..., 1: each looks only between the argmins of its neighbours of the stride
    before.
    """
    skipped = max(first + gap - low, 0)  # rows before which no i lies
    m = high - low - skipped + 1
    least, choice = np.full(m + 2, np.inf), np.full(m + 2, first)
    choice[-1] = first + before.size - 1
    stride = 1 << m.bit_length() - 1 if m > 0 else 0
    while stride:
        rows = np.arange(stride, m + 1, 2 * stride)
        j = rows + (low + skipped - 1)
        least[rows], choice[rows] = _least(
            before, first, j, choice[rows - stride], np.minimum(choice[np.minimum(rows + stride, m + 1)], j - gap), cost
        )
        stride //= 2
    empty = min(skipped, high - low + 1)
    return (
        np.concatenate((np.full(empty, np.inf), least[1 : m + 1])),
        np.concatenate((np.full(empty, first), choice[1 : m + 1])),
    )


def _least(before: Doubles, first: int, j: Indices, low: Indices, high: Indices, cost: Cost) -> tuple[Doubles, Indices]:
    """For every row j the least before[i - first] + cost(i, j) with low <= i <= high, and the first such i."""
    widths = high - low + 1
    starts = np.cumsum(widths) - widths
    i = np.arange(starts[-1] + widths[-1]) + np.repeat(low - starts, widths)
    sums = before[i - first] + cost(i, np.repeat(j, widths))
    least = np.minimum.reduceat(sums, starts)
    hits = np.flatnonzero(sums == np.repeat(least, widths))
    return least, i[hits[np.searchsorted(hits, starts)]]


def _refine(line: Line, cuts: Indices) -> Indices:
    """Let all cuts move at once, each to the best of 2 REACH + 1 places about it, at ever smaller steps.

    A round is a dynamic programme over the k - 1 inner cuts. It never raises the sum; when nothing moves, steps halve.
    """
    if cuts.size == 2:
        return cuts
    step = np.maximum(np.minimum(np.diff(cuts)[1:], np.diff(cuts)[:-1]) // REACH, 1)
    while True:
        moved = _round(line, cuts, step)
        if np.array_equal(moved, cuts):
            if step.max() == 1:
                return cuts
            step = (step + 1) // 2
        cuts = moved


def _round(line: Line, cuts: Indices, step: Indices) -> Indices:
    """The best cuts among cuts + step * (-REACH .. REACH)."""
    n = line.points.size
    places = line.snap(cuts[1:-1, None] + step[:, None] * np.arange(-REACH, REACH + 1))
    places = np.concatenate((np.zeros_like(places[:1]), places, np.full_like(places[:1], n)))  # (k + 1, 2 REACH + 1)
    sums, squares = line.prefix(places)
    count, total, square = (a[1:, None, :] - a[:-1, :, None] for a in (places, sums, squares))
    costs = np.where(count > 0, within_sum(np.maximum(count, 1), total, square), np.inf)  # (k, from, to)
    least, choices = np.zeros(places.shape[1]), []
    for cost in costs:
        both = least[:, None] + cost
        choices.append(both.argmin(axis=0))
        least = both.min(axis=0)
    at, chosen = REACH, [n]
    for row, choice in zip(places[-2::-1], choices[::-1], strict=True):
        at = choice[at]
        chosen.append(row[at])
    return np.array(chosen[::-1], np.int64)
