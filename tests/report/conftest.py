"""A run directory as `decoct compress` leaves it, small and made up, with every kind of line there is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

RECIPE = """\
name = "lenet-300-100"
seed = 7

[model]
factory = "decoct.models:lenet_300_100"
weights = "lenet.safetensors"

[task]
factory = "decoct.data:mnist"

[[step]]
method = "prune.magnitude"
density = 0.05

[[step]]
method = "quantize.kmeans"
bits = 5

[published]
ratio = 40
error_percent = 1.58
bytes = 26600
source = "Han et al. 2016, table 1, arXiv 1510.00149"
tag = "read"
"""

SHAPES = {
    "fc1.weight": (300, 784), "fc1.bias": (300,), "fc2.weight": (100, 300), "fc2.bias": (100,),
    "fc3.weight": (10, 100), "fc3.bias": (10,),
}  # fmt: skip
DENSITY = {"fc1.weight": 0.04, "fc2.weight": 0.06, "fc3.weight": 0.3}


def layer(name: str) -> dict[str, Any]:
    shape = SHAPES[name]
    count = math.prod(shape)
    kept = round(count * DENSITY.get(name, 1.0))
    values = kept * 5 // 8 if name in DENSITY else 4 * count
    positions = kept * 4 // 8 if name in DENSITY else 0
    kinds = {"positions": positions, "values": values, "table": 64 if name in DENSITY else 0,
             "model": 24 if name in DENSITY else 0, "header": 6}  # fmt: skip
    coder = "shared, values ans, positions gaps of 3 bits ans" if name in DENSITY else "plain, values verbatim"
    return {"name": name, "shape": list(shape), "parameters": count, "nonzeros": kept,
            "macs": count if name in DENSITY else 0, "bytes": kinds, "coder": coder}  # fmt: skip


def rows() -> list[dict[str, Any]]:
    layers = [layer(name) for name in SHAPES]
    kept = sum(each["nonzeros"] for each in layers)
    sections: dict[str, int] = {}
    for each in layers:
        for kind, count in each["bytes"].items():
            sections[kind] = sections.get(kind, 0) + count
    base = {"score_split": "validation", "score_name": "accuracy", "bytes_raw": 1066440, "parameters": 266610,
            "macs": 266200, "latency_ms": None, "reference_ms": None, "warnings": []}  # fmt: skip
    densities = [dict.fromkeys(DENSITY, 1.0), DENSITY, DENSITY]
    stages = [
        {"stage": "start", "score": 98.36, "bytes_zipped": 985213, "bytes_coded": 893410, "nonzeros": 266610,
         "macs_nonzero": 266200, "seconds": 0.0},
        {"stage": "1 prune.magnitude", "score": 98.4, "bytes_zipped": 74210, "bytes_coded": 61030, "nonzeros": kept,
         "macs_nonzero": kept - 410, "seconds": 214.31},
        {"stage": "2 quantize.kmeans", "score": 98.38, "bytes_zipped": 30412, "bytes_coded": 14876, "nonzeros": kept,
         "macs_nonzero": kept - 410, "seconds": 65.5},
    ]  # fmt: skip
    widths = {"fc1.weight": 300, "fc2.weight": 100, "fc3.weight": 10}
    stages = [base | row | {"densities": each, "widths": widths} for row, each in zip(stages, densities, strict=True)]
    last = base | {
        "stage": "file", "score": 98.43, "score_split": "test", "bytes_zipped": 30412,
        "bytes_coded": 16104, "bytes_bare": 14903, "nonzeros": kept, "macs_nonzero": kept - 410, "seconds": 279.81,
        "latency_ms": {"median": 0.0612, "p10": 0.0604, "p90": 0.0655, "threads": 1},
        "reference_ms": {"median": 0.0431, "p10": 0.0425, "p90": 0.0460, "threads": 1},
        "peak_bytes": 639328256, "warnings": ["the threads were shared with another process"],
        "layers": layers, "sections": sections | {"graph": 1201}, "bytes_paper": 13120, "bytes_huffman": 17201,
        "bytes_ans": 16104, "bytes_entropy": 14480.4, "onnx_bytes": 1068011,
    }  # fmt: skip
    return [*stages, last]


def widths(groups: dict[str, tuple[int, int]], macs: int) -> dict[str, Any]:
    """What a round of structured pruning tells."""
    listed = [{"name": name, "before": before, "after": after} for name, (before, after) in groups.items()]
    return {"kind": "widths", "groups": listed, "macs_before": macs, "macs_after": macs - 26620}


def events() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"kind": "environment", "decoct": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "machine": "A processor",
         "platform": "Linux", "cores": 2, "threads": 2, "seed": 7, "recipe_hash": "0123456789abcdef"},
    ]  # fmt: skip
    for name, fall in (("fc1.weight", 0.3), ("fc2.weight", 0.12), ("fc3.weight", 0.05)):
        densities = [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]
        found.append({"kind": "sensitivity", "tensor": name, "density": densities,
                      "score": [98.3 - 100 * fall * (0.02 / share) ** 1.5 for share in densities]})  # fmt: skip
    for step, (method, epochs) in enumerate((("prune.magnitude", 12), ("quantize.kmeans", 5)), start=1):
        for epoch in range(1, epochs + 1):
            loss, score = 0.05 * math.exp(-epoch / 4) + 0.004, 98.4 - 1.2 * math.exp(-epoch / 3)
            found.append({"kind": "epoch", "epoch": epoch, "epochs": epochs, "loss": loss, "validation": score,
                          "lr": 0.01, "seconds": 3.1})  # fmt: skip
        if method.startswith("prune."):
            found += [
                widths({"fc1": (300, 270), "fc2": (100, 100)}, 266200),
                widths({"fc1": (270, 240), "fc2": (100, 90)}, 239580),
            ]
        found.append({"kind": "step", "step": step, "method": method, "seconds": 200.0})
    for name, share in DENSITY.items():
        count = math.prod(SHAPES[name])
        for stage, kept, reach in (("start", 1.0, 0.4), ("2 quantize.kmeans", share, 0.5)):
            edges = [-reach + 2 * reach * place / 61 for place in range(62)]
            middle = [(one + other) / 2 for one, other in pairwise(edges)]
            bell = [
                math.exp(-((value / 0.09) ** 2) / 2) * (1.0 if kept == 1 or abs(value) > 0.1 else 0.0)
                for value in middle
            ]
            if kept < 1:
                bell = [value if place % 2 else 0.0 for place, value in enumerate(bell)]
            total = sum(bell)
            counts = [round(count * kept * value / total) for value in bell]
            found.append({"kind": "histogram", "stage": stage, "tensor": name, "edges": edges, "counts": counts})
    return found


ROWS, EVENTS = rows(), events()


def write_run(
    folder: Path,
    rows: list[Any] | None = ROWS,
    events: list[Any] | None = EVENTS,
    recipe: str | None = RECIPE,
    size: int | None = 16104,
) -> Path:
    """Write a run directory; None leaves that file out."""
    folder.mkdir(parents=True)
    for file, lines in (("rows.jsonl", rows), ("log.jsonl", events)):
        if lines is not None:
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if recipe is not None:
        (folder / "recipe.toml").write_text(recipe)
    if size is not None:
        (folder / "model.dct").write_bytes(bytes(size))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run directory of a name: ``make_run(name, rows=, events=, recipe=, size=)``."""
    return lambda name="run", **parts: write_run(tmp_path / name, **parts)


@pytest.fixture
def cut() -> Callable[[dict[str, tuple[int, int]], int], dict[str, Any]]:
    """Makes an event of widths: ``cut({"fc1": (300, 270)}, macs)``."""
    return widths


@pytest.fixture(scope="session")
def run_of_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run directory, to be read only."""
    return write_run(tmp_path_factory.mktemp("session") / "run")
