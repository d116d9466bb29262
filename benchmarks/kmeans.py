"""k-means of 1, 10 and 100 million weights into 16 and 256 clusters; at 1 million beside scikit-learn.

    python benchmarks/kmeans.py [--results results/kmeans.json] [--rounds 3] [--most-steps 5000] [--largest 100000000]

The weights are normal or Laplace, float32. Beside scikit-learn's KMeans (algorithm "lloyd", n_init 1) both start from
the same centres, equally spaced, and run in turn, `rounds` times, on one thread each; medians are given. scikit-learn
runs with its default tolerance, and once more with tolerance 0 until it converges or has made `most-steps` x 16 /
clusters steps; decoct runs until nothing moves. Speed-up and ratio of the sums are to scikit-learn's default tolerance.
Seconds are processor seconds of the one thread; peak memory is of a fresh process, weights included, imports left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

from decoct.bench import resident_peak  # noqa: E402
from decoct.quantize.kmeans1d import kmeans1d  # noqa: E402

MILLION = 1_000_000
LAWS = ("normal", "laplace")
Found = tuple[float, int, bool | None]  # inertia, steps, proved optimal


def weights(law: str, count: int) -> np.ndarray:
    """`count` float32 weights of a law, by a fixed seed, a million at a time."""
    rng = np.random.default_rng(0)
    values = np.empty(count, np.float32)
    for start in range(0, count, MILLION):
        size = min(MILLION, count - start)
        values[start : start + MILLION] = rng.laplace(size=size) if law == "laplace" else rng.standard_normal(size)
    return values


def ours(values: np.ndarray, clusters: int, init: str) -> Found:
    """One clustering of decoct."""
    found = kmeans1d(values, clusters, init, iterations=100_000)
    return found.inertia, found.iterations, found.optimal


def theirs(values: np.ndarray, clusters: int, tolerance: float, steps: int) -> Found:
    """One clustering of scikit-learn from equally spaced centres; its sum in float64."""
    from sklearn.cluster import KMeans

    start = np.linspace(values.min(), values.max(), clusters, dtype=np.float32)[:, None]
    model = KMeans(clusters, init=start, n_init=1, tol=tolerance, max_iter=steps, algorithm="lloyd")
    codes = model.fit_predict(values[:, None])
    distance = values.astype(np.float64) - model.cluster_centers_[:, 0].astype(np.float64)[codes]
    return float(distance @ distance), int(model.n_iter_), None


def timed(run: Callable[[], Found]) -> tuple[float, Found]:
    """Processor seconds of a run, and what it found."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def side_by_side(law: str, clusters: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Rows at one million weights: ours and scikit-learn's in turn."""
    values = weights(law, MILLION)
    runs: dict[str, Callable[[], Found]] = {
        f"decoct {init}": lambda init=init: ours(values, clusters, init)  # type: ignore[misc]
        for init in ("linear", "sketch", *(["exact"] if clusters <= 32 else []))
    }
    runs["scikit-learn, default tolerance"] = lambda: theirs(values, clusters, 1e-4, 300)
    steps = steps * 16 // clusters
    measured: dict[str, list[tuple[float, Found]]] = {name: [] for name in runs}
    measured[f"scikit-learn, tolerance 0, {steps} steps or fewer"] = [
        timed(lambda: theirs(values, clusters, 0.0, steps))
    ]
    for _ in range(rounds):
        for name, run in runs.items():
            measured[name].append(timed(run))
    rows = [
        row(name, law, MILLION, clusters, median(seconds for seconds, _ in found), *found[0][1])
        for name, found in measured.items()
    ]
    reference = next(line for line in rows if line["program"].endswith("default tolerance"))
    for line in rows:
        line["speed-up"] = round(reference["seconds"] / line["seconds"], 2)
        line["sum ratio"] = line["sum"] / reference["sum"]
    return rows


def row(program: str, law: str, count: int, clusters: int, seconds: float, *found: Any) -> dict[str, Any]:
    """One line of the table."""
    inertia, steps, optimal = found
    return {
        "program": program, "weights": count, "law": law, "clusters": clusters, "seconds": round(seconds, 4),
        "seconds per million": round(seconds * MILLION / count, 4), "sum": inertia, "steps": steps, "optimal": optimal,
    }  # fmt: skip


def one(law: str, count: int, clusters: int, init: str) -> dict[str, Any]:
    """A row of decoct alone, with its memory; to be run in a process of its own."""
    before = resident_peak()
    values = weights(law, count)
    seconds, found = timed(lambda: ours(values, clusters, init))
    peak = resident_peak() - before
    return row(f"decoct {init}", law, count, clusters, seconds, *found) | {
        "peak bytes per weight": round(peak / count, 2)
    }


def apart(law: str, count: int, clusters: int, init: str) -> dict[str, Any]:
    """:func:`one` in a fresh process."""
    command = [sys.executable, __file__, "--one", law, str(count), str(clusters), init]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def machine() -> dict[str, Any]:
    """The processor and its share used here."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
        if cpu.exists()
        else []
    )
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "threads": 1}


def show(line: dict[str, Any]) -> None:
    """Print one row."""
    faster = line.get("speed-up")
    extra = f"{faster:8.1f} x  sum x {line['sum ratio']:.6f}" if faster else ""
    extra = f"{line['peak bytes per weight']:8.2f} bytes a weight" if "peak bytes per weight" in line else extra
    what = f"{line['program']:48}{line['weights'] // MILLION:5} M {line['law']:8}{line['clusters']:4}"
    rate = f"{line['seconds']:10.3f} s{line['seconds per million']:9.4f} s/M{line['steps']:6} steps"
    print(f"{what}{rate}  sum {line['sum']:<14.8g}{extra}", flush=True)


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/kmeans.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most-steps", type=int, default=5000)
    parser.add_argument("--largest", type=int, default=100 * MILLION)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        law, count, clusters, init = chosen.one
        print(json.dumps(one(law, int(count), int(clusters), init)))
        return
    table = []
    for law in LAWS:
        for clusters in (16, 256):
            for line in side_by_side(law, clusters, chosen.rounds, chosen.most_steps):
                show(line)
                table.append(line)
    for count in (MILLION, 10 * MILLION, 100 * MILLION):
        for law in LAWS if count <= chosen.largest else ():
            exact = [(16, "exact")] if count < 100 * MILLION else []
            for clusters, init in [(16, "linear"), (16, "sketch"), *exact, (256, "linear"), (256, "sketch")]:
                table.append(apart(law, count, clusters, init))
                show(table[-1])
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("numpy", "scikit-learn", "decoct")
    }
    result = {
        "benchmark": True, "name": "kmeans", "title": "k-means of 1 to 100 million weights",
        "description": __doc__.split("\n\n")[2].replace("\n", " "), "command": "python benchmarks/kmeans.py",
        "versions": versions, "machine": machine(), "table": table,
    }  # fmt: skip
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
