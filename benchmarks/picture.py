"""Draw docs/results.svg, the README's picture: file size against error, our results beside published points.

    python benchmarks/picture.py [--results results] [--out docs/results.svg]

Points come from results/*.json: our own, and those published ones that give a size (bytes or ratio) and an error; to
these come the points of PUBLISHED, each read at its source.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from decoct.report import plots, results
from decoct.report.page import replace_text
from decoct.report.published import compare

Point = tuple[float, float, str, bool]

PUBLISHED: dict[str, list[Point]] = {
    "LeNet-300-100": [(27_000, 1.58, "Han et al. 2016", False)],
    "LeNet-5": [(44_000, 0.74, "Han et al. 2016", False), (3_100, 0.69, "Havasi et al. 2019", False)],
}
"""Bytes and error: Deep Compression, arXiv 1510.00149, table 1; MIRACLE, arXiv 1810.00440 (size to two digits)."""


def panels(found: list[dict[str, Any]]) -> dict[str, list[Point]]:
    """Points by network, from results that have a size and an error; networks without a published size are left out."""
    drawn: dict[str, list[Point]] = {}
    for result in found:
        if results.is_benchmark(result) or result.get("error_percent") is None:
            continue
        title = network(result)
        drawn.setdefault(title, [])
        drawn[title].append((result["bytes"], result["error_percent"], _label(result["name"], title), True))
        others = [*published(result), *PUBLISHED.get(title, ())]
        drawn[title].extend(point for point in others if point[2] not in {known[2] for known in drawn[title]})
    return {title: points for title, points in drawn.items() if not all(ours for *_, ours in points)}


def network(result: Mapping[str, Any]) -> str:
    """The network's name, from the recipe's factory: ``decoct.models:lenet_5`` is lenet 5."""
    model = (result.get("recipe") or {}).get("model") or {}
    factory = str(model.get("factory", result["name"]))
    return factory.rpartition(":")[2].replace("_", "-").replace("lenet", "LeNet")


def published(result: Mapping[str, Any]) -> Iterator[Point]:
    """The published points that give both size and error, one per source, from a result's own recipe."""
    by_source: dict[str, dict[str, float]] = {}
    for claim in compare(result.get("published"), {}):
        by_source.setdefault(claim.source, {})[claim.key] = claim.published_value
    for source, figures in by_source.items():
        size = figures.get("bytes") or ("ratio" in figures and result["bytes_raw"] / figures["ratio"])
        if size and "error_percent" in figures:
            yield size, figures["error_percent"], source.partition(",")[0], False


def _label(name: str, title: str) -> str:
    """Our own point: what its name says beyond the network's."""
    rest = name.lower().removeprefix(title.lower()).strip("-")
    return f"decoct, {rest}" if rest else "decoct"


def main() -> int:
    """Read the results, draw, write."""
    parser = argparse.ArgumentParser(description="Draw the README's picture from results/*.json.")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs/results.svg"))
    chosen = parser.parse_args()
    drawn = panels(results.load(chosen.results))
    if not drawn:
        sys.stderr.write(f"{chosen.results} holds no result with a size and an error\n")
        return 1
    replace_text(chosen.out, plots.picture(drawn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
