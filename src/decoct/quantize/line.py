"""Points on a line, sorted, with prefix sums: the cost of any interval of them takes a few operations.

Clusters on a line are intervals of the sorted points. A clustering is a row of *cuts* 0 = b_0 < ... < b_k = n;
cluster c holds the points b_c to b_{c+1} - 1. With prefix sums S of the points and Q of their squares

    within-sum of i..j-1 = sum_{i <= t < j} (x_t - mean)^2 = (Q_j - Q_i) - (S_j - S_i)^2 / (j - i)

Prefix sums are kept for every 32nd point only, centred on the median and summed outwards from it, in float64: memory
beyond the sorted copy is n / 2 bytes, and a far outlier does not wash out the sums of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoct.errors import TaskError

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

BLOCK = 32  # points between two stored prefix sums
CHUNK = 1 << 18  # points worked on at once


@dataclass(frozen=True)
class Line:
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
            left = block < (self.sums.size - 1) // 2  # of the middle: counted from the block's end, which is nearer
            y[(members >= flat[part, None]) ^ left[:, None]] = 0
            sign = np.where(left, -1.0, 1.0)
            sums.flat[part] = self.sums[block + left] + sign * y.sum(axis=1)
            squares.flat[part] = self.squares[block + left] + sign * np.einsum("ij,ij->i", y, y)
        return sums, squares

    def means(self, cuts: Indices) -> Doubles:
        """The mean of every interval between two cuts, never outside its points."""
        sums, _ = self.prefix(cuts)
        means = (np.diff(sums) / np.diff(cuts) + self.shift * self.scale) / self.scale
        return np.clip(means, self.points[cuts[:-1]], self.points[cuts[1:] - 1]).astype(np.float64) + 0.0

    def costs(self, cuts: Indices) -> Doubles:
        """The within-sum of every interval between two cuts, in units of y."""
        sums, squares = self.prefix(cuts)
        return within_sum(np.diff(cuts), np.diff(sums), np.diff(squares))

    def margin(self) -> float:
        """What rounding may add to a sum of costs, in units of y^2."""
        return 1e-14 * float(np.abs(self.squares).max()) + 1e-300

    def even(self, count: int) -> Doubles:
        """`count` equally spaced values from the smallest point to the largest."""
        ends = self.points[[0, -1]].astype(np.float64) * self.scale
        return np.linspace(ends[0], ends[1], count) / self.scale

    def assign(self, centroids: Doubles) -> Indices:
        """Cuts of the clusters nearest to ascending `centroids`; some may be empty."""
        inner = np.searchsorted(self.points, midpoints(centroids, self.points.dtype), side="right")
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


def line_of(values: NDArray[Any]) -> Line:
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
    line = Line(points, float(points[points.size // 2]), scale)
    whole = points.size // BLOCK * BLOCK
    sums, squares = [], []
    for start in range(0, whole, CHUNK):
        y = line.scaled(points[start : min(whole, start + CHUNK)]).reshape(-1, BLOCK)
        sums.append(y.sum(axis=1))
        squares.append(np.einsum("ij,ij->i", y, y))
    return Line(points, line.shift, scale, _outwards(sums), _outwards(squares))


def _outwards(parts: list[Doubles]) -> Doubles:
    """Prefix sums, zero in the middle: each is a sum over what lies between it and the median, with that precision."""
    blocks = np.concatenate([*parts, np.zeros(1)])
    middle = blocks.size // 2
    left = -np.cumsum(blocks[:middle][::-1])[::-1]
    return np.concatenate((left, [0.0], np.cumsum(blocks[middle:])))


def ascending(cuts: Indices) -> Indices:
    """Sorted, without repeats (numpy 2.4's unique hashes and is ten times slower)."""
    cuts = np.sort(cuts)
    return cuts[np.concatenate(([True], cuts[1:] != cuts[:-1]))]


def distinct(points: Floats, limit: int) -> int:
    """The number of distinct points, at most `limit`."""
    found, at = 0, 0
    while at < points.size and found < limit:
        at = int(np.searchsorted(points, points[at], side="right"))
        found += 1
    return found


def midpoints(centroids: Doubles, dtype: np.dtype[Any]) -> Floats:
    """Values of `dtype` such that x <= m just if x is no nearer to the upper of two neighbouring centroids."""
    low, high = centroids[:-1], centroids[1:]
    middle = np.clip(low / 2 + high / 2, low, np.nextafter(high, low))
    rounded = middle.astype(dtype)
    return np.where(rounded > middle, np.nextafter(rounded, dtype.type(-np.inf)), rounded)


def within_sum(count: Any, total: Any, squares: Any) -> Doubles:
    """The within-sum of an interval from its count, its sum and its sum of squares.

    One point has none: without that word the rounding of a far outlier's square would drown all other sums.
    """
    return np.maximum(squares - total * total / count, 0.0) * (count > 1)
