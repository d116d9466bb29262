"""k-means on a line: the clustering under weight sharing, with numpy alone.

Song Han, Huizi Mao, William J. Dally: Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
Quantization and Huffman Coding. ICLR 2016, arXiv 1510.00149, section 3.2: the initialisations linear, density, random.

The points are sorted once. A Lloyd step is k means by prefix sums and k - 1 binary searches for the midpoints between
them, so hundreds of steps cost less than the sort.

Differs: no cluster stays empty; the optimum (:mod:`decoct.quantize.cuts`) is there too, and a sketch of it that comes
closer to it than Lloyd's steps from any of the three.

Result: see results/kmeans.json; `python benchmarks/kmeans.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoct.errors import RecipeError, nearest
from decoct.quantize.cuts import exact, fill, sketch
from decoct.quantize.line import CHUNK, Doubles, Floats, Indices, Line, ascending, distinct, line_of, midpoints

KEY_BITS = 16  # leading bits of a float that look up its code
INITS = ("linear", "density", "random", "sketch", "exact")
MAX_DEPTH = 4  # midpoints under one key beyond which a binary search is quicker


@dataclass(frozen=True)
class Clusters:
    """A clustering of n values.

    centroids: (k,) float64, ascending, distinct.
    codes: (n,) smallest unsigned integers; the nearest centroid of every value, the lower of two equally near.
    inertia: the sum of squared distances to the centroids.
    iterations: Lloyd steps that were made.
    optimal: whether no clustering has a smaller sum, up to rounding (1e-9 of it and 1e-14 of the sum of squares about
      the median); False when that is not known.
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
        sketch: the best among some thousand places by dynamic programming, then refined to single values; no proof, but
          within 0.05 % of the optimum wherever that was computed on normal and Laplace weights;
        exact: the optimum, proved, by dynamic programming: under a second for 16 or 32 clusters of a million values,
          five for 256 clusters of 100,000. Where it would take minutes (256 clusters of a million) the sketch takes its
          place, and the result's `optimal` is False.
    seed: of the random initialisation only; all else is deterministic and blind to the order of the values.
    iterations: most Lloyd steps to make; they end when no value changes its cluster.

    A cluster that runs empty goes, and the cluster of largest within-sum is split at its mean instead, which lowers the
    sum; so k' = min(k, distinct values) centroids come back (fewer only if `iterations` ran out just then).

    Raises TaskError for values that are not finite floats or for none; RecipeError for an argument out of range.

    >>> found = kmeans1d(np.array([2.0, 0.0, 2.5, 0.5]), 2)
    >>> found.centroids, found.codes, found.inertia
    (array([0.25, 2.25]), array([1, 0, 1, 0], dtype=uint8), 0.25)
    """
    if init not in INITS:
        raise RecipeError(f"init is one of {', '.join(INITS)}, not {init!r}{nearest(str(init), INITS)}")
    if clusters < 1 or iterations < 1:
        raise RecipeError(f"clusters and iterations are at least 1, not {clusters} and {iterations}")
    values = np.asarray(values).ravel()
    line = line_of(values)
    k = distinct(line.points, clusters)
    cuts, optimal = exact(line, k) if init == "exact" else (_start(line, k, init, seed), k == 1)
    cuts, steps = _lloyd(line, fill(line, cuts, k), iterations)
    centroids = line.means(cuts)
    cuts = line.assign(centroids)
    centroids = centroids[np.diff(cuts) > 0]
    cuts = ascending(cuts)
    return Clusters(centroids, _codes(values, centroids), line.inertia(cuts, centroids), steps, optimal)


def _lloyd(line: Line, cuts: Indices, iterations: int) -> tuple[Indices, int]:
    """Lloyd's steps until the cuts stay; the cuts and the number of steps."""
    for step in range(1, iterations + 1):
        moved = fill(line, line.assign(line.means(cuts)), cuts.size - 1)
        if np.array_equal(moved, cuts):
            return cuts, step
        cuts = moved
    return cuts, iterations


def _start(line: Line, k: int, init: str, seed: int) -> Indices:
    """The cuts that the first centroids make."""
    if init == "sketch":
        return sketch(line, k)
    if init == "linear":
        return line.assign(np.unique(line.even(k)))
    if init == "density":
        at = (np.arange(k) * 2 + 1) * line.points.size // (2 * k)
    else:
        at = np.random.default_rng(seed).choice(line.points.size, k, replace=False, shuffle=False)
    return line.assign(np.unique(line.points[at].astype(np.float64)))


def _codes(values: Floats, centroids: Doubles) -> NDArray[np.unsignedinteger[Any]]:
    """The index of the nearest centroid of every value, in the values' own order."""
    codes = np.empty(values.size, np.min_scalar_type(centroids.size - 1))
    dtype = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
    middles = midpoints(centroids, dtype)
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
