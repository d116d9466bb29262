"""k-means on a line: worked by hand, against slow twins, by its properties, and on awkward values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decoct.errors import RecipeError, TaskError
from decoct.quantize import cuts as cutting
from decoct.quantize.kmeans1d import INITS, Clusters, _lookup, kmeans1d
from decoct.quantize.line import line_of, midpoints

FIGURE_3 = np.array(
    [[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12], [-0.91, 1.92, 0, -1.03], [1.87, 0, 1.53, 1.49]], np.float32
)
floats = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60).map(lambda v: np.array(v, np.float32))
small = st.lists(st.integers(-8, 8), min_size=1, max_size=9).map(lambda v: np.array(v, np.float64) / 4)
ks = st.integers(1, 12)
inits = st.sampled_from(INITS)


def sum_of_squares(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum())


def brute_force(values: np.ndarray, clusters: int) -> float:
    """The least within-sum over every way to cut the sorted values."""
    points = np.sort(values.astype(np.float64))
    k = min(clusters, points.size)
    ways = combinations(range(1, points.size), k - 1)
    return min(sum(sum_of_squares(part) for part in np.split(points, way)) for way in ways)


def plain_lloyd(values: list[float], centroids: list[float]) -> tuple[list[float], list[int]] | None:
    """Lloyd's algorithm as one would write it down, the lower of two equally near; None once a cluster is empty."""
    while True:
        codes = [min(range(len(centroids)), key=lambda c: (abs(v - centroids[c]), c)) for v in values]
        members = [[v for v, code in zip(values, codes, strict=True) if code == c] for c in range(len(centroids))]
        if not all(members):
            return None
        means = [sum(group) / len(group) for group in members]
        if means == centroids:
            return centroids, codes
        centroids = means


def check_form(values: np.ndarray, clusters: int, found: Clusters) -> None:
    """What holds of every result: sorted centroids, all in use, nearest codes, the sum that is claimed."""
    exact_values = values.ravel().astype(np.float64)
    assert found.centroids.dtype == np.float64
    assert found.centroids.size == min(clusters, np.unique(exact_values).size)
    assert (np.diff(found.centroids) > 0).all()
    assert found.codes.shape == exact_values.shape
    assert found.codes.dtype == np.min_scalar_type(found.centroids.size - 1)
    assert np.unique(found.codes).size == found.centroids.size
    distance = np.abs(exact_values[:, None] - found.centroids)
    chosen = distance[np.arange(exact_values.size), found.codes]
    assert (chosen <= distance.min(axis=1) + 1e-12 * np.abs(exact_values)).all()
    assert found.inertia == pytest.approx((chosen**2).sum(), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("init", ["linear", "density", "sketch", "exact"])
def test_figure_3_of_the_paper(init: str) -> None:
    found = kmeans1d(FIGURE_3, 4, init)
    np.testing.assert_allclose(found.centroids, [-1.00, 0.00, 1.50, 2.00], atol=1e-7)
    expected = [[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]]
    np.testing.assert_array_equal(found.codes.reshape(4, 4), expected)
    # about -1: .02^2 + .08^2 + .09^2 + .03^2 = 0.0158; about 0: .09^2 + .05^2 + .14^2 = 0.0302
    # about 1.5: .02^2 + .03^2 + .01^2 = 0.0014; about 2: .09^2 + .12^2 + .08^2 + .13^2 = 0.0458
    assert found.inertia == pytest.approx(0.0158 + 0.0302 + 0.0014 + 0.0458, rel=1e-5)
    assert found.optimal == (init == "exact")


def test_one_step_by_hand() -> None:
    # linear: centroids 0, 5, 10; midpoints 2.5 and 7.5; 2.5 is as near to 0 as to 5 and goes down
    found = kmeans1d(np.array([10.0, 0.0, 2.5, 4.5, 7.5, 9.5]), 3, "linear", iterations=1)
    np.testing.assert_array_equal(found.centroids, [1.25, 6.0, 9.75])
    np.testing.assert_array_equal(found.codes, [2, 0, 0, 1, 1, 2])
    assert found.inertia == 2 * 1.25**2 + 2 * 1.5**2 + 2 * 0.25**2


def test_density_starts_at_quantiles() -> None:
    # eight of ten values lie in [0, 1]: quantiles at 1/4 and 3/4 are 0.2 and 0.7; the first step cuts at 0.45
    values = np.array([0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.65, 0.7, 8, 9])
    assert kmeans1d(values, 2, "density", iterations=1).iterations == 1
    assert kmeans1d(values, 2, "density").codes.sum() == 2  # and goes on to {.., 0.7}, {8, 9}


@given(st.lists(st.integers(-60, 60), min_size=6, max_size=60, unique=True), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_linear_is_plain_lloyd(values: list[int], k: int) -> None:
    points = np.array(values, np.float64)
    expected = plain_lloyd(points.tolist(), np.linspace(points.min(), points.max(), k).tolist())
    assume(expected is not None)  # where a cluster runs empty, ours splits another
    found = kmeans1d(points, k, "linear")
    np.testing.assert_allclose(found.centroids, expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.codes, expected[1])


@given(small, ks)
@settings(max_examples=150, deadline=None)
def test_exact_is_the_least_of_all_partitions(values: np.ndarray, k: int) -> None:
    found = kmeans1d(values, k, "exact")
    check_form(values, k, found)
    assert found.optimal
    assert found.inertia == pytest.approx(brute_force(values, k), rel=1e-9, abs=1e-12)


@given(floats, ks, inits, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_form_and_optimality(values: np.ndarray, k: int, init: str, seed: int) -> None:
    found = kmeans1d(values, k, init, seed)
    check_form(values, k, found)
    assert kmeans1d(values, k, "exact").inertia <= found.inertia * (1 + 1e-9) + 1e-12


@given(floats, ks, inits, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_the_values_does_not_matter(values: np.ndarray, k: int, init: str, random: object) -> None:
    order = np.random.default_rng(random.randrange(1 << 30)).permutation(values.size)  # type: ignore[attr-defined]
    found, shuffled = kmeans1d(values, k, init), kmeans1d(values[order], k, init)
    np.testing.assert_array_equal(found.centroids, shuffled.centroids)
    np.testing.assert_array_equal(found.codes[order], shuffled.codes)
    assert found.inertia == shuffled.inertia


@given(st.lists(st.integers(-400, 400), min_size=1, max_size=40), ks, inits, st.integers(-20, 20))
@settings(max_examples=80, deadline=None)
def test_powers_of_two_scale_it(values: list[int], k: int, init: str, power: int) -> None:
    points = np.array(values, np.float64)
    found, scaled = kmeans1d(points, k, init), kmeans1d(points * 2.0**power, k, init)
    np.testing.assert_array_equal(found.codes, scaled.codes)
    np.testing.assert_array_equal(found.centroids * 2.0**power, scaled.centroids)
    assert found.inertia * 4.0**power == scaled.inertia


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40), ks, st.integers(-1000, 1000))
@settings(max_examples=60, deadline=None)
def test_shift_moves_the_optimum_along(values: list[int], k: int, shift: int) -> None:
    points = np.array(values, np.float64)
    found, moved = kmeans1d(points, k, "exact"), kmeans1d(points + shift, k, "exact")
    assert found.inertia == pytest.approx(moved.inertia, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("law", ["normal", "laplace", "uniform", "modes"])
@pytest.mark.parametrize("k", [2, 16, 40])
def test_bounds_find_what_the_full_programme_finds(law: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(k)
    values = rng.normal(rng.integers(0, 5, 3000) * 10, 1) if law == "modes" else getattr(rng, law)(size=3000)
    monkeypatch.setattr(cutting, "FINISH", 10**9)  # no bounds: every place at once
    full = kmeans1d(values, k, "exact")
    monkeypatch.setattr(cutting, "FINISH", 0)  # bounds until every cell is one value
    monkeypatch.setattr(cutting, "GRID", 64)
    bounded = kmeans1d(values, k, "exact")
    assert full.optimal and bounded.optimal
    assert bounded.inertia == pytest.approx(full.inertia, rel=1e-12)
    sketch = kmeans1d(values, k, "sketch")
    assert full.inertia <= sketch.inertia <= 1.01 * full.inertia


def test_exact_says_when_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=5000)
    monkeypatch.setattr(cutting, "EXACT_WORK", 10_000)
    found = kmeans1d(values, 8, "exact")
    assert not found.optimal
    assert found.inertia == kmeans1d(values, 8, "sketch").inertia


def test_many_clusters_are_split_off() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    found = kmeans1d(values, 700, "sketch")
    check_form(values, 700, found)
    assert found.codes.dtype == np.uint16
    assert found.inertia < 0.5 * kmeans1d(values, 700, "density").inertia


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    ("values", "clusters"),
    [
        (np.full(50, 0.1), 4),
        (np.full(50, np.float32(-3.3)), 1),
        (np.array([0.3]), 3),
        (np.repeat([0.1, 0.7], [1, 99]), 8),
        (np.linspace(0, 1, 7), 1),
        (np.linspace(0, 1, 7), 7),
        (np.linspace(0, 1, 7), 300),
        (np.zeros(10, np.float32), 2),
        (np.array([0.0, -0.0, -0.0, 1.0], np.float32), 3),
        (np.array([*np.linspace(-1, 1, 99), 1e30]), 8),
        (np.array([*np.linspace(-1, 1, 99), -3e38], np.float32), 8),
        (np.array([-1.7e308, 1.7e308, 1e308, 0.0]), 3),
        (np.array([5e-324, 1e-323, 1.5e-323, 4e-323]), 2),
        (np.array([5e-324, 1e-323, 1.5e-323, 4e-323]), 4),
        (np.array([1e-45, 3e-45, 6e-45, -1e-45], np.float32), 3),
        (np.array([1.0, np.nextafter(1.0, 2), 2.0]), 3),
        (np.repeat(np.arange(5, dtype=np.float16), [1000, 1, 1, 500, 3]), 4),
        (np.random.default_rng(0).normal(size=70_000).astype(np.float16), 20),
        (1e8 + np.random.default_rng(0).normal(size=500), 6),
    ],
    ids=lambda value: None if isinstance(value, int) else f"{value.dtype}-{value.size}",
)
def test_awkward_values(init: str, values: np.ndarray, clusters: int) -> None:
    found = kmeans1d(values, clusters, init)
    distinct = np.unique(values).size
    assert found.centroids.size == min(clusters, distinct)
    assert not np.signbit(found.centroids[found.centroids == 0]).any()
    assert np.isfinite(found.centroids).all()
    nearest = np.abs(values.astype(np.float64)[:, None] / 2 - found.centroids / 2)
    np.testing.assert_array_equal(nearest[np.arange(values.size), found.codes], nearest.min(axis=1))
    if clusters >= distinct:
        np.testing.assert_array_equal(found.centroids, np.unique(values))
        assert found.inertia == 0


def test_an_outlier_does_not_spoil_the_others() -> None:
    others = np.random.default_rng(1).normal(size=2000)
    for outlier in (1e30, -1e30):
        found = kmeans1d(np.append(others, outlier), 9, "exact")
        assert found.inertia == pytest.approx(kmeans1d(others, 8, "exact").inertia, rel=1e-6)


def test_tables_give_the_codes_that_searching_gives() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.normal(size=100_000), [0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38])).astype(np.float32)
    centroids = kmeans1d(values[:100_000], 200, "sketch").centroids
    middles = midpoints(centroids, np.dtype(np.float32))
    values = np.concatenate(
        (values, middles, np.nextafter(middles, np.float32(9)), np.nextafter(middles, np.float32(-9)))
    )
    find = _lookup(middles)
    assert find is not None
    np.testing.assert_array_equal(find(values), np.searchsorted(middles, values))
    assert _lookup(1 + middles * np.float32(1e-3)) is None


def test_prefix_sums_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).laplace(size=1234).astype(np.float32)
    line = line_of(values)
    cuts = np.array([0, 1, 31, 32, 33, 600, 1233, 1234])
    points = np.sort(values).astype(np.float64)
    expected = [sum_of_squares(part) for part in np.split(points, cuts[1:-1])]
    np.testing.assert_allclose(line.costs(cuts) / line.scale**2, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(line.means(cuts), [part.mean() for part in np.split(points, cuts[1:-1])], rtol=1e-13)


def test_random_is_by_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    one, again, other = (kmeans1d(values, 16, "random", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.centroids, again.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    with pytest.raises(TaskError, match="1 of 4 are not"):
        kmeans1d(np.array([0.0, 1.0, value, 2.0]), 2)


def test_bad_arguments() -> None:
    values = np.arange(4.0)
    with pytest.raises(RecipeError, match="did you mean 'linear'"):
        kmeans1d(values, 2, "liner")
    with pytest.raises(RecipeError, match="at least 1, not 0"):
        kmeans1d(values, 0)
    with pytest.raises(RecipeError, match="at least 1"):
        kmeans1d(values, 2, iterations=0)
    with pytest.raises(TaskError, match="no values"):
        kmeans1d(np.zeros(0), 2)
    with pytest.raises(TaskError, match="not int64"):
        kmeans1d(np.arange(4), 2)
