"""Latency of pruned networks beside the networks that they were pruned from: ONNX Runtime, one example, one thread.

    python benchmarks/latency.py RUN... [--results results/latency.json] [--seconds 20]

A RUN is the folder of a finished `decoct compress`: its model.dct is timed in turn with the uncompressed model that
the run kept (drafts/reference.dct), call by call, so that a noisy machine slows both. Medians of `seconds` of calls for
each file; "times faster" is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from decoct.bench import bench
from decoct.report.page import replace_text
from decoct.report.results import machine
from decoct.run import read_rows


def row(run: Path, seconds: float) -> dict[str, Any]:
    """One run's line of the table."""
    before, after = bench([run / "drafts" / "reference.dct", run / "model.dct"], threads=1, seconds=seconds)
    rows = read_rows(run / "rows.jsonl")
    return {
        "result": run.name,
        "MACs before": rows[0]["macs"], "MACs after": rows[-1]["macs"],
        "times fewer MACs": round(rows[0]["macs"] / rows[-1]["macs"], 3),
        "ms before": round(before.median_ms, 3), "ms after": round(after.median_ms, 3),
        "times faster": round(before.median_ms / after.median_ms, 3),
        "p10-p90 before": f"{before.p10_ms:.2f}-{before.p90_ms:.2f}",
        "p10-p90 after": f"{after.p10_ms:.2f}-{after.p90_ms:.2f}",
    }  # fmt: skip


def main() -> None:
    """Time every run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--results", type=Path, default=Path("results/latency.json"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of calls, for each file")
    chosen = parser.parse_args()
    table = [row(run, chosen.seconds) for run in chosen.runs]
    for line in table:
        print(f"{line['result']:20} {line['times fewer MACs']:.2f}x fewer MACs, {line['times faster']:.2f}x faster")
    found = {
        "benchmark": True, "name": "latency", "title": "Latency of pruned networks",
        "description": " ".join((__doc__ or "").split("\n\n")[2].split()),
        "command": "python benchmarks/latency.py " + " ".join(f"runs/{run.name}" for run in chosen.runs),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("decoct", "onnxruntime")},
        "machine": machine() | {"threads": 1},
        "table": table,
    }  # fmt: skip
    replace_text(chosen.results, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
