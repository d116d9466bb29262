"""k-means on a line: the clustering under weight sharing, with numpy alone.

Song Han, Huizi Mao, William J. Dally: Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
Quantization and Huffman Coding. ICLR 2016, arXiv 1510.00149, section 3.1: the initialisations linear, density, random.
Haizhou Wang, Mingzhou Song: Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming. The R
Journal 3/2, 2011; Xiaolin Wu: Optimal Quantization by Matrix Searching. Journal of Algorithms 12, 1991 (monotone argmins).

Clusters of points on a line are intervals of the sorted points, so a clustering is a row of *cuts* 0 < b_1 < ... < n, and
with prefix sums of the points and of their squares the cost of any interval takes a few operations:

    cost(i, j) = sum_{i <= t < j} (x_t - mean)^2 = (Q_j - Q_i) - (S_j - S_i)^2 / (j - i)

The points are sorted once; a Lloyd step then is k - 1 binary searches for the midpoints between centroids. The optimum is
k layers of F_c(j) = min_i F_{c-1}(i) + cost(i, j), whose argmins rise with j, each layer solved by divide and conquer.

Prefix sums are kept for every 32nd point only, centred on the median and summed outwards from it, in float64: memory
beyond the sorted copy is n / 2 bytes, and a far outlier does not wash out the sums of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoct.errors import RecipeError, TaskError, nearest

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

BLOCK = 32  # points between two stored prefix sums
CHUNK = 1 << 18  # points worked on at once
SKETCH = 1024  # candidate cuts of a sketch, at least; 4 a cluster where that is more
EXACT_WORK = 8_000_000  # distinct values x clusters that the exact search takes on: some seconds
REACH = 8  # steps a cut may move either way in one round of refinement
KEY_BITS = 16  # leading bits of a float32 that look up its code
MAX_DEPTH = 4  # midpoints under one key beyond which a binary search is quicker


@dataclass(frozen=True)
class Clusters:
    """A clustering of n values.

    centroids: (k,) float64, ascending, distinct.
    codes: (n,) smallest unsigned integers; the nearest centroid of every value, the lower of two equally near.
    inertia: the sum of squared distances to the centroids.
    iterations: Lloyd steps that were made.
    optimal: whether no clustering has a smaller sum (up to rounding); False when that is not known.
    """

    centroids: Doubles
    codes: NDArray[np.unsignedinteger[Any]]
    inertia: float
    iterations: int
    optimal: bool


def kmeans1d(
    values: NDArray[Any], clusters: int, init: str = "linear", seed: int = 0, iterations: int = 1000
) -> Clusters:
    """Cluster `values` into at most `clusters` groups with a small within-cluster sum of squares.

    values: any shape, n entries, float16, float32 or float64, finite; read in C order.
    clusters: k; where there are fewer distinct values, each gets its own centroid.
    init: where Lloyd's steps start from, after Han 2016:
        linear: centroids equally spaced from the smallest to the largest value;
        density: equally spaced in the cumulative distribution;
        random: k of the values, drawn without replacement by `seed` (Forgy);
      or the start is (nearly) the end:
        sketch: the best cuts among a thousand or more candidates, by dynamic programming, then refined to single values
          by dynamic programmes in a window about each cut; near the optimum, without a proof;
        exact: the optimum, by dynamic programming over the distinct values. Where distinct values x clusters exceeds
          8 million it would take minutes: then it is the sketch, and the result's `optimal` is False.
    seed: of the random initialisation only; all else is deterministic and blind to the order of the values.
    iterations: most Lloyd steps to make; they end when no value changes its cluster.

    A cluster that runs empty goes, and the cluster of largest within-sum is split at its mean instead, which always lowers
    the sum; so k' = min(k, distinct values) centroids come back (fewer only if the steps ran out just then).

    Raises TaskError for values that are not finite floats or for none; RecipeError for an argument out of range.

    >>> found = kmeans1d(np.array([2.0, 0.0, 2.5, 0.5]), 2)
    >>> found.centroids, found.codes, found.inertia
    (array([0.25, 2.25]), array([1, 0, 1, 0], dtype=uint8), 0.25)
    """
    if init not in STARTS:
        raise RecipeError(f"init is one of {', '.join(STARTS)}, not {init!r}{nearest(str(init), STARTS)}")
    if clusters < 1 or iterations < 1:
        raise RecipeError(f"clusters and iterations are at least 1, not {clusters} and {iterations}")
    values = np.asarray(values).ravel()
    line = _line(values)
    k = _distinct(line.points, clusters)
    cuts, optimal = STARTS[init](line, k, seed)
    cuts, steps = _lloyd(line, _fill(line, cuts, k), iterations)
    centroids = line.means(cuts)
    cuts = line.assign(centroids)
    centroids = centroids[np.diff(cuts) > 0]
    cuts = np.unique(cuts)
    return Clusters(centroids, _codes(values, centroids), line.inertia(cuts, centroids), steps, optimal or k == 1)


@dataclass(frozen=True)
class _Line:
    """Sorted points with prefix sums of y = (x - shift) * scale and of y^2; `scale` is a power of two.

    points: (n,) ascending, float32 or float64.
    sums, squares: (n // BLOCK + 2,) of the points before every BLOCK-th, counted from the middle.
    """

    points: Floats
    shift: float
    scale: float
    sums: Doubles = field(default_factory=lambda: np.zeros(1))
    squares: Doubles = field(default_factory=lambda: np.zeros(1))

    def scaled(self, points: Floats) -> Doubles:
        """y of x: of order one at most, so that no square overflows."""
        return points.astype(np.float64) * self.scale - self.shift * self.scale

    def prefix(self, cuts: Indices) -> tuple[Doubles, Doubles]:
        """Sums of y and of y^2 over the points before each cut, up to one constant each."""
        sums, squares = np.empty(cuts.shape), np.empty(cuts.shape)
        flat = cuts.ravel()
        for low in range(0, flat.size, CHUNK // BLOCK):
            part = slice(low, low + CHUNK // BLOCK)
            block = flat[part] // BLOCK
            members = block[:, None] * BLOCK + np.arange(BLOCK)
            y = self.scaled(self.points[np.minimum(members, self.points.size - 1)])
            y[members >= flat[part, None]] = 0
            sums.flat[part] = self.sums[block] + y.sum(axis=1)
            squares.flat[part] = self.squares[block] + np.einsum("ij,ij->i", y, y)
        return sums, squares

    def means(self, cuts: Indices) -> Doubles:
        """The mean of every interval between two cuts, never outside its points."""
        sums, _ = self.prefix(cuts)
        means = (np.diff(sums) / np.diff(cuts) + self.shift * self.scale) / self.scale
        return np.clip(means, self.points[cuts[:-1]], self.points[cuts[1:] - 1]).astype(np.float64) + 0.0

    def costs(self, cuts: Indices) -> Doubles:
        """The within-sum of every interval between two cuts, in units of y."""
        sums, squares = self.prefix(cuts)
        return _cost(np.diff(cuts), np.diff(sums), np.diff(squares))

    def assign(self, centroids: Doubles) -> Indices:
        """Cuts of the clusters nearest to ascending `centroids`; some may be empty."""
        inner = np.searchsorted(self.points, _midpoints(centroids, self.points.dtype), side="right")
        return np.concatenate(([0], inner, [self.points.size])).astype(np.int64)

    def snap(self, cuts: Indices) -> Indices:
        """Move each cut down to where its value begins, so that equal points stay together."""
        return np.searchsorted(self.points, self.points[np.clip(cuts, 0, self.points.size - 1)])

    def inertia(self, cuts: Indices, centroids: Doubles) -> float:
        """The sum of squared distances, summed directly."""
        total = 0.0
        for low, high, centroid in zip(cuts[:-1], cuts[1:], centroids, strict=True):
            for start in range(low, high, CHUNK):
                part = self.points[start : min(high, start + CHUNK)].astype(np.float64)
                distance = part * self.scale - centroid * self.scale
                total += float(distance @ distance)
        with np.errstate(over="ignore", under="ignore"):
            return float(np.float64(total) / self.scale / self.scale)


def _line(values: NDArray[Any]) -> _Line:
    """Sort the values and sum them up."""
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise TaskError(f"k-means takes float16, float32 or float64 values, not {values.dtype}")
    if not values.size:
        raise TaskError("k-means was given no values")
    points = np.sort(values.astype(np.float32) if values.dtype == np.float16 else values)
    if not np.isfinite(points[[0, -1]]).all():
        raise TaskError(f"k-means takes finite values; {int((~np.isfinite(points)).sum())} of {points.size} are not")
    width = max(abs(float(points[0])), abs(float(points[-1])))
    scale = 2.0 ** float(np.clip(-np.frexp(width)[1], -1000, 1000))
    line = _Line(points, float(points[points.size // 2]), scale)
    whole = points.size // BLOCK * BLOCK
    sums, squares = [], []
    for start in range(0, whole, CHUNK):
        y = line.scaled(points[start : min(whole, start + CHUNK)]).reshape(-1, BLOCK)
        sums.append(y.sum(axis=1))
        squares.append(np.einsum("ij,ij->i", y, y))
    return _Line(points, line.shift, scale, _outwards(sums), _outwards(squares))


def _outwards(parts: list[Doubles]) -> Doubles:
    """Prefix sums, zero in the middle: each is a sum over what lies between it and the median, with that precision."""
    blocks = np.concatenate([*parts, np.zeros(1)])
    middle = blocks.size // 2
    left = -np.cumsum(blocks[:middle][::-1])[::-1]
    return np.concatenate((left, [0.0], np.cumsum(blocks[middle:])))


def _distinct(points: Floats, limit: int) -> int:
    """The number of distinct points, at most `limit`."""
    found, at = 0, 0
    while at < points.size and found < limit:
        at = int(np.searchsorted(points, points[at], side="right"))
        found += 1
    return found


def _midpoints(centroids: Doubles, dtype: np.dtype[Any]) -> Floats:
    """Values of `dtype` such that x <= m just if x is no nearer to the upper of two neighbouring centroids."""
    low, high = centroids[:-1], centroids[1:]
    middle = np.clip(low / 2 + high / 2, low, np.nextafter(high, low))
    rounded = middle.astype(dtype)
    return np.where(rounded > middle, np.nextafter(rounded, dtype.type(-np.inf)), rounded)


def _codes(values: Floats, centroids: Doubles) -> NDArray[np.unsignedinteger[Any]]:
    """The index of the nearest centroid of every value, in the values' own order."""
    codes = np.empty(values.size, np.min_scalar_type(centroids.size - 1))
    dtype = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
    middles = _midpoints(centroids, dtype)
    find = _lookup(middles) if values.size > 1 << KEY_BITS else None
    for start in range(0, values.size, CHUNK // 8):
        part = values[start : start + CHUNK // 8].astype(dtype, copy=False)
        codes[start : start + part.size] = find(part) if find else np.searchsorted(middles, part)
    return codes


def _lookup(middles: Floats) -> Callable[[Floats], NDArray[Any]] | None:
    """A table from the leading bits of a float to its code, compared with the few midpoints that share those bits.

    None where too many share them.
    """
    bits = np.dtype(f"u{middles.dtype.itemsize}")
    shift = bits.type(bits.itemsize * 8 - KEY_BITS)
    keys = np.arange(1 << KEY_BITS, dtype=bits) << shift
    ends = np.stack((keys, keys | ((bits.type(1) << shift) - bits.type(1)))).view(middles.dtype)
    first = np.searchsorted(middles, ends.min(axis=0))  # searchsorted and min take NaN keys, which never occur
    depth = int((np.searchsorted(middles, ends.max(axis=0)) - first).max())
    if depth > MAX_DEPTH:
        return None
    table = first.astype(np.min_scalar_type(middles.size))
    bound = np.append(middles, np.full(depth + 1, np.inf, middles.dtype))
    next_bounds = [bound[first + step] for step in range(depth)]

    def find(part: Floats) -> NDArray[Any]:
        key = part.view(bits) >> shift
        codes = table.take(key)
        for bounds in next_bounds:
            codes += part > bounds.take(key)
        return codes

    return find


def _lloyd(line: _Line, cuts: Indices, iterations: int) -> tuple[Indices, int]:
    """Lloyd's steps until the cuts stay; the cuts and the number of steps."""
    for step in range(1, iterations + 1):
        moved = _fill(line, line.assign(line.means(cuts)), cuts.size - 1)
        if np.array_equal(moved, cuts):
            return cuts, step
        cuts = moved
    return cuts, iterations


def _fill(line: _Line, cuts: Indices, k: int) -> Indices:
    """Drop empty clusters, then split the one of largest within-sum at its mean until there are k."""
    if cuts.size == k + 1 and (np.diff(cuts) > 0).all():
        return cuts
    cuts = np.unique(cuts)
    costs = line.costs(cuts)
    costs[line.points[cuts[:-1]] == line.points[cuts[1:] - 1]] = -1  # nothing to split
    while cuts.size < k + 1:
        worst = int(np.argmax(costs))
        ends = cuts[worst : worst + 2]
        cut = np.searchsorted(line.points, _midpoints(np.repeat(line.means(ends), 2), line.points.dtype), side="right")
        low, high = np.searchsorted(line.points, line.points[ends[0]], side="right"), line.snap(ends[1:] - 1)
        cuts = np.insert(cuts, worst + 1, np.clip(cut, low, high))
        halves = cuts[worst : worst + 3]
        both = line.costs(halves)
        both[line.points[halves[:-1]] == line.points[halves[1:] - 1]] = -1
        costs = np.concatenate((costs[:worst], both, costs[worst + 1 :]))
    return cuts


def _linear(line: _Line, k: int, seed: int) -> tuple[Indices, bool]:
    ends = line.points[[0, -1]].astype(np.float64) * line.scale
    return line.assign(np.unique(np.linspace(ends[0], ends[1], k) / line.scale)), False


def _density(line: _Line, k: int, seed: int) -> tuple[Indices, bool]:
    at = (np.arange(k) * 2 + 1) * line.points.size // (2 * k)
    return line.assign(np.unique(line.points[at].astype(np.float64))), False


def _random(line: _Line, k: int, seed: int) -> tuple[Indices, bool]:
    at = np.random.default_rng(seed).choice(line.points.size, k, replace=False, shuffle=False)
    return line.assign(np.unique(line.points[at].astype(np.float64))), False


def _exact(line: _Line, k: int, seed: int) -> tuple[Indices, bool]:
    limit = EXACT_WORK // k
    if line.points.size > limit and np.count_nonzero(line.points[1:] != line.points[:-1]) >= limit:
        return _sketch(line, k, seed)
    starts = np.flatnonzero(line.points[1:] != line.points[:-1]) + 1
    return _best(line, np.concatenate(([0], starts, [line.points.size])), k), True


def _sketch(line: _Line, k: int, seed: int) -> tuple[Indices, bool]:
    half = max(SKETCH, 4 * k) // 2
    n = line.points.size
    by_count = np.arange(1, half) * n // half
    ends = line.points[[0, -1]].astype(np.float64) * line.scale
    grid = (np.linspace(ends[0], ends[1], half + 1)[1:-1] / line.scale).astype(line.points.dtype)
    by_value = np.searchsorted(line.points, grid)
    cuts = np.unique(np.concatenate(([0], line.snap(by_count), line.snap(by_value), [n])))
    cuts = _best(line, cuts, min(k, cuts.size - 1))
    return _refine(line, _fill(line, cuts, k)), False


def _cost(count: Any, total: Any, squares: Any) -> Doubles:
    """The within-sum of an interval from its count, its sum and its sum of squares."""
    return np.maximum(squares - total * total / count, 0.0)


def _best(line: _Line, cuts: Indices, k: int) -> Indices:
    """The best k intervals with ends among `cuts` (m + 1,): k layers of dynamic programming."""
    sums, squares = line.prefix(cuts)

    def cost(low: Indices, high: Indices) -> Doubles:
        return _cost(cuts[high] - cuts[low], sums[high] - sums[low], squares[high] - squares[low])

    m = cuts.size - 1
    least = cost(np.zeros(m, np.int64), np.arange(1, m + 1))
    least = np.concatenate(([np.inf], least))  # (m + 1,) one cluster over the first j cells
    choices = []
    for layer in range(2, k + 1):
        least, choice = _layer(least, layer, cost)
        choices.append(choice)
    chosen = [m]
    for choice in reversed(choices):
        chosen.append(int(choice[chosen[-1]]))
    return cuts[[0, *reversed(chosen)]]


def _layer(
    before: Doubles, layer: int, cost: Callable[[Indices, Indices], Doubles]
) -> tuple[Doubles, NDArray[np.int32]]:
    """min and argmin over i < j of before[i] + cost(i, j) for every j >= layer; the argmins rise with j.

    Rows are taken at strides m, m / 2, ..., 1: each looks only between the argmins of its neighbours of the stride before.
    """
    m = before.size - 1
    least, choice = np.full(m + 1, np.inf), np.full(m + 1, m, np.int32)
    choice[:layer] = layer - 1
    stride = 1 << (m - layer + 1).bit_length() - 1
    while stride:
        rows = np.arange(layer + stride - 1, m + 1, 2 * stride)
        low = np.maximum(choice[np.maximum(rows - stride, 0)], layer - 1)
        high = np.minimum(choice[np.minimum(rows + stride, m)], rows - 1)
        high = np.where(rows + stride > m, rows - 1, high)
        least[rows], choice[rows] = _least(before, rows, low, high, cost)
        stride //= 2
    return least, choice


def _least(
    before: Doubles, rows: Indices, low: Indices, high: Indices, cost: Callable[[Indices, Indices], Doubles]
) -> tuple[Doubles, Indices]:
    """For every row j the least before[i] + cost(i, j) with low <= i <= high, and the first such i."""
    widths = high - low + 1
    starts = np.cumsum(widths) - widths
    i = np.arange(starts[-1] + widths[-1]) + np.repeat(low - starts, widths)
    sums = before[i] + cost(i, np.repeat(rows, widths))
    least = np.minimum.reduceat(sums, starts)
    hits = np.flatnonzero(sums == np.repeat(least, widths))
    return least, i[hits[np.searchsorted(hits, starts)]]


def _refine(line: _Line, cuts: Indices) -> Indices:
    """Let all cuts move at once, each to the best of 2 REACH + 1 places about it, at ever smaller steps.

    A round is a dynamic programme over the k - 1 inner cuts. It never raises the sum; when nothing moves, steps halve.
    """
    if cuts.size < 3:
        return cuts
    step = np.maximum(np.minimum(np.diff(cuts)[1:], np.diff(cuts)[:-1]) // REACH, 1)
    while True:
        moved = _round(line, cuts, step)
        if np.array_equal(moved, cuts):
            if step.max() == 1:
                return cuts
            step = (step + 1) // 2
        cuts = moved


def _round(line: _Line, cuts: Indices, step: Indices) -> Indices:
    """The best cuts among cuts + step * (-REACH .. REACH)."""
    n = line.points.size
    places = line.snap(cuts[1:-1, None] + step[:, None] * np.arange(-REACH, REACH + 1))
    places = np.concatenate((np.zeros_like(places[:1]), places, np.full_like(places[:1], n)))  # (k + 1, 2 REACH + 1)
    sums, squares = line.prefix(places)
    count, total, square = (a[1:, None, :] - a[:-1, :, None] for a in (places, sums, squares))
    costs = np.where(count > 0, _cost(np.maximum(count, 1), total, square), np.inf)  # (k, from, to)
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


STARTS: dict[str, Callable[[_Line, int, int], tuple[Indices, bool]]] = {
    "linear": _linear,
    "density": _density,
    "random": _random,
    "sketch": _sketch,
    "exact": _exact,
}
