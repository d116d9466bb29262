"""Speed of the coders, and their bytes beside the entropy.

    python benchmarks/codec.py [--results results/codec.json] [--entries 10000000] [--files results/lenet-300-100.dct]

Speed: a tensor of 10 million weights with 5-bit codes, dense and 8 % dense, coded and decoded in turns by every coder;
medians of weights (entries, kept or not) in a second of one core's time.

Size: those and smaller tensors; their entropy is that of independent entries (of the mask) and of codes drawn alike.
"patches" is a first layer of 300 units on 28 x 28 pixels, each of which kept weights around a point of its own, mostly
of one sign. With --files, the weights that files hold are coded again in every way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from decoct import coding
from decoct.coding import Stored
from decoct.file import open_file

CODES = 32
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "huffman": ("huffman", {}),
    "ans, gaps": ("ans", {"positions": "gaps"}),
    "ans": ("ans", {}),
    "auto": ("auto", {}),
}


def tensor(shape: tuple[int, int], density: float, seed: int = 0) -> Stored:
    """Codes drawn alike at positions drawn alike."""
    rng = np.random.default_rng(seed)
    size = shape[0] * shape[1]
    kept = None if density == 1 else np.flatnonzero(rng.random(size) < density)
    codes = rng.binomial(CODES - 1, 0.5, size if kept is None else len(kept)).astype(np.uint8)
    return Stored(shape, "float32", "shared", codes, kept, np.linspace(-1, 1, CODES).astype(np.float32))


def patches(units: int = 300, side: int = 28, seed: int = 0) -> Stored:
    """Weights that lie together, and share a sign where they do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centres = rng.normal(side / 2, side / 6, (units, 2))
    near = np.stack([np.exp(-((y - a) ** 2 + (x - b) ** 2) / 12).ravel() for a, b in centres])
    kept = np.flatnonzero(rng.random(near.shape) < 0.6 * near)
    sign = rng.choice([-1, 1], (units, 1)) * np.where(rng.random(near.shape) < 0.15, -1, 1)
    size = rng.integers(0, CODES // 2, len(kept))
    codes = np.where(sign.ravel()[kept] > 0, CODES // 2 + size, CODES // 2 - 1 - size).astype(np.uint8)
    table = (np.arange(CODES) - CODES / 2 + 0.5).astype(np.float32)
    return Stored(near.shape, "float32", "shared", codes, kept, table)


def entropy_bytes(stored: Stored) -> float:
    """Of the codes, and of a mask of independent entries."""
    bits = entropy_bits(np.bincount(stored.data))
    if stored.kept is not None:
        bits += entropy_bits(np.array([len(stored.kept), stored.size - len(stored.kept)]))
    return bits / 8


def entropy_bits(counts: np.ndarray) -> float:
    """The bits of symbols that occur so often."""
    there = counts[counts > 0]
    return float(-(there * np.log2(there / there.sum())).sum())


def speeds(stored: Stored, repeats: int) -> dict[str, dict[str, float]]:
    """Million weights per second of processor time by coder, interleaved."""
    seconds: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in WAYS}
    for _ in range(repeats):
        for way, (coder, parameters) in WAYS.items():
            start = time.process_time()
            chunk = coding.encode(stored, coder, parameters)
            middle = time.process_time()
            found = coding.decode(chunk, stored.shape, stored.dtype)
            end = time.process_time()
            if not np.array_equal(found.data, stored.data):
                raise SystemExit(f"{way} does not give back what it was given")
            seconds[way][0].append(middle - start)
            seconds[way][1].append(end - middle)
    million = stored.size / 1e6
    return {
        way: {"encode": million / statistics.median(encode), "decode": million / statistics.median(decode)}
        for way, (encode, decode) in seconds.items()
    }


def sizes(name: str, stored: Stored) -> dict[str, Any]:
    """The bytes of a tensor in every way, beside its entropy; codebook and header are counted."""
    chunks = {way: coding.encode(stored, *how) for way, how in WAYS.items()}
    entropy = entropy_bytes(stored)
    streams = coding.sections(chunks["ans, gaps"])
    above = (streams["values"] + streams["positions"]) / entropy - 1 if entropy else 0.0
    return {
        "tensor": name,
        "entries": stored.size,
        "kept": len(stored.data),
        "entropy_bytes": round(entropy, 1),
        "ans_gaps_above_entropy": round(above, 6),
        **{f"{way} bytes": len(chunk) for way, chunk in chunks.items()},
        "auto_is": coding.describe(chunks["auto"]),
    }


def tensors(entries: int, files: list[Path]) -> Iterator[tuple[str, Stored]]:
    """What is measured for size."""
    side = int(entries**0.5)
    yield "dense", tensor((side, side), 1)
    yield "8 % dense", tensor((side, side), 0.08)
    for shape in ((400, 500), (100, 300), (10, 100)):
        yield f"8 % of {shape[0]} x {shape[1]}", tensor(shape, 0.08)
    yield "patches", patches()
    bias = np.random.default_rng(0).normal(size=10).astype(np.float32)
    yield "bias of 10 floats", Stored((10,), "float32", "plain", bias)
    for path in files:
        file = open_file(path)
        for name in file.names:
            yield f"{path.name} {name}", file.stored(name)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/codec.json"))
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    rows = []
    side = int(options.entries**0.5)
    for name, density in (("dense", 1), ("8 % dense", 0.08)):
        for way, found in speeds(tensor((side, side), density), options.repeats).items():
            rows.append({"tensor": name, "way": way, **{key: round(value, 1) for key, value in found.items()}})
            print(f"{name:12} {way:12} encode {found['encode']:7.1f} M/s   decode {found['decode']:7.1f} M/s")
    table = []
    for name, stored in tensors(options.entries, options.files):
        row = sizes(name, stored) if stored.kind != "plain" else plain_sizes(name, stored)
        table.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    options.results.parent.mkdir(exist_ok=True)
    options.results.write_text(json.dumps(result(options, rows, table), indent=1) + "\n")


def plain_sizes(name: str, stored: Stored) -> dict[str, Any]:
    """The bytes of plain numbers in every way, beside what they take as they are."""
    chunks = {way: coding.encode(stored, *how) for way, how in WAYS.items()}
    return {
        "tensor": name,
        "entries": stored.size,
        "kept": len(stored.data),
        "raw_bytes": stored.data.nbytes,
        **{f"{way} bytes": len(chunk) for way, chunk in chunks.items()},
        "auto_is": coding.describe(chunks["auto"]),
    }


def result(options: argparse.Namespace, rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> dict[str, Any]:
    """What is written."""
    files = " ".join(["", "--files", *map(str, options.files)]) if options.files else ""
    known = {name: version(name) for name in ("decoct", "numpy", "constriction")}
    return {
        "benchmark": "codec",
        "description": "Coders: million weights per second of one core, and bytes beside the entropy.",
        "command": f"python benchmarks/codec.py --entries {options.entries} --repeats {options.repeats}{files}",
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cpu": cpu(),
                    "cores": os.cpu_count(), **known},
        "rows": rows,
        "sizes": table,
    }  # fmt: skip


def cpu() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
