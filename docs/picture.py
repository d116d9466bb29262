"""Draw docs/results.svg from results/*.json: size against error, one panel per result that has a published figure.

    python docs/picture.py

Every point is a number of a results file: what came in, what was published (its ratio of the same input), and ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decoct.report.plots import picture

ROOT = Path(__file__).parents[1]

Point = tuple[float, float, str, bool]


def points(result: dict[str, Any]) -> list[Point]:
    """The points of one result: (bytes, error in percent, label, whether it is ours); none if nothing was published."""
    published = result.get("published") or {}
    size = published.get("bytes") or (published.get("ratio") and result["bytes_raw"] / published["ratio"])
    if not size or published.get("error_percent") is None or result.get("error_percent") is None:
        return []
    label = published["source"].split(",")[0]
    return [
        (size, published["error_percent"], label, False),
        (result["bytes"], result["error_percent"], "decoct", True),
    ]


def main() -> None:
    """Write the picture, or say that there is nothing to draw."""
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))]
    panels = {result["name"]: found for result in results if "name" in result and (found := points(result))}
    if not panels:
        raise SystemExit("results/ holds no result with a published size and error yet: nothing was drawn")
    path = ROOT / "docs" / "results.svg"
    path.write_text(picture(panels))
    print(path)


if __name__ == "__main__":
    main()
