"""Pack and unpack weights with the shapes of VGG-16 (138 million) and BERT-base (110 million), pruned and 5-bit.

    python benchmarks/pack.py [--results results/pack.json] [--only vgg-16]

The weights are random; densities of VGG-16 are those of Han 2016 (arXiv 1510.00149, table 5), BERT's are 10 %; each
weight matrix shares 32 values, everything of one dimension is dense. Every job runs in a fresh process. Its peak memory
is the most resident memory less that of a process that only imports; it is to stay below the weights and two tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from decoct import safetensors_stream
from decoct.safetensors_stream import Part

VALUES = 32
PEAKS = ("pack_peak_bytes", "unpack_peak_bytes", "allowed_peak_bytes")
Shapes = dict[str, tuple[tuple[int, ...], float]]

JOB = """
import json, sys, time
from decoct import pack
from decoct.bench import resident_peak
start = time.perf_counter()
if sys.argv[1] != "import":
    getattr(pack, sys.argv[1])(sys.argv[2], sys.argv[3])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak": resident_peak()}))
"""


def vgg_16() -> Shapes:
    """Names -> shape and density of VGG-16's tensors."""
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    densities = (0.58, 0.22, 0.34, 0.36, 0.53, 0.24, 0.42, 0.32, 0.27, 0.34, 0.35, 0.29, 0.36)
    shapes: Shapes = {}
    for place, density in enumerate(densities):
        shapes[f"conv{place}.weight"] = ((widths[place + 1], widths[place], 3, 3), density)
        shapes[f"conv{place}.bias"] = ((widths[place + 1],), 1.0)
    for name, out, into, density in (("fc6", 4096, 25088, 0.04), ("fc7", 4096, 4096, 0.04), ("fc8", 1000, 4096, 0.23)):
        shapes |= {f"{name}.weight": ((out, into), density), f"{name}.bias": ((out,), 1.0)}
    return shapes


def bert_base() -> Shapes:
    """Names -> shape and density of BERT-base's tensors."""
    matrices = {"embeddings.word": (30522, 768), "embeddings.position": (512, 768), "embeddings.type": (2, 768)}
    for layer in range(12):
        for part in ("query", "key", "value", "output"):
            matrices[f"layer{layer}.attention.{part}"] = (768, 768)
        matrices |= {f"layer{layer}.intermediate": (3072, 768), f"layer{layer}.output": (768, 3072)}
    matrices["pooler"] = (768, 768)
    shapes: Shapes = {f"{name}.weight": (shape, 0.1) for name, shape in matrices.items()}
    shapes |= {f"{name}.bias": ((shape[0],), 1.0) for name, shape in matrices.items() if "embeddings" not in name}
    norms = ["embeddings.norm"] + [
        f"layer{layer}.{place}.norm" for layer in range(12) for place in ("attention", "output")
    ]
    return shapes | {f"{name}.{part}": ((768,), 1.0) for name in norms for part in ("weight", "bias")}


def values(shape: tuple[int, ...], density: float, seed: int) -> np.ndarray:
    """Random weights: of a matrix the share `density`, each one of 32 values; of a vector all."""
    rng = np.random.default_rng(seed)
    if len(shape) < 2:
        return rng.standard_normal(shape, np.float32)
    table = np.sort(rng.standard_normal(VALUES).astype(np.float32))
    weights = np.zeros(prod(shape), np.float32)
    for start in range(0, len(weights), 1 << 20):
        block = weights[start : start + (1 << 20)]
        codes = np.clip(np.rint(rng.standard_normal(len(block), np.float32) * 6 + VALUES / 2), 0, VALUES - 1).astype(
            int
        )
        block[:] = np.where(rng.random(len(block), np.float32) < density, table[codes], 0)
    return weights.reshape(shape)


def synthesise(path: Path, shapes: Shapes) -> None:
    """Write random weights as a `.safetensors`."""

    def raw(seed: int, shape: tuple[int, ...], density: float) -> Any:
        return lambda: values(shape, density, seed).reshape(-1).view(np.uint8)

    parts = [
        Part(name, "float32", shape, raw(seed, shape, density))
        for seed, (name, (shape, density)) in enumerate(shapes.items())
    ]
    safetensors_stream.write(path, parts, {"source": "benchmarks/pack.py"})


def job(*arguments: str | Path) -> dict[str, float]:
    """Run one job in a fresh process: seconds and peak memory in bytes."""
    command = [sys.executable, "-c", JOB, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, shapes: Shapes, folder: Path) -> dict[str, Any]:
    """Pack, unpack and compare one network."""
    source, packed, again = (folder / f"{name}{suffix}" for suffix in (".safetensors", ".dct", "-again.safetensors"))
    synthesise(source, shapes)
    baseline = job("import")["peak"]
    sizes = sorted((4 * prod(shape) for shape, _ in shapes.values()), reverse=True)
    row: dict[str, Any] = {"name": name, "parameters": sum(sizes) // 4, "weights_bytes": sum(sizes)}
    row["allowed_peak_bytes"] = sum(sizes) + 2 * sizes[0]
    for what, first, second in (("pack", source, packed), ("unpack", packed, again)):
        measured = job(what, first, second)
        row[f"{what}_seconds"] = round(measured["seconds"], 2)
        row[f"{what}_peak_bytes"] = int(measured["peak"] - baseline)
    row["file_bytes"] = packed.stat().st_size
    before, after = ({part.name: part for part in safetensors_stream.read(path)[0]} for path in (source, again))
    row["equal"] = before.keys() == after.keys() and all(
        np.array_equal(before[tensor].raw(), after[tensor].raw()) for tensor in before
    )
    row["holds"] = (
        bool(row["equal"]) and max(row["pack_peak_bytes"], row["unpack_peak_bytes"]) <= row["allowed_peak_bytes"]
    )
    for path in (source, packed, again):
        path.unlink()
    return row


def machine() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    names = ("decoct", "numpy", "constriction", "onnx", "onnxruntime")
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "python": platform.python_version(), "system": platform.platform(), "cpu": model, "cores": os.cpu_count(),
        **{name: version(name) for name in names},
    }  # fmt: skip


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _line(row: dict[str, Any]) -> str:
    pack, unpack, allowed = (f"{row[key] / 2**20:6.0f}MiB" for key in PEAKS)
    sizes = f"{row['name']:10}{row['weights_bytes']:13,}{row['file_bytes']:12,}"
    times = f"{row['pack_seconds']:7.1f}s{pack}{row['unpack_seconds']:7.1f}s{unpack}"
    return f"{sizes}{times}{allowed}  {row['equal']!s:5}  {row['holds']}"


def main() -> None:
    """Measure, print a table, write the JSON."""
    networks = {"vgg-16": vgg_16, "bert-base": bert_base}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/pack.json"))
    parser.add_argument("--only", choices=networks)
    chosen = parser.parse_args()
    rows = []
    print(
        f"{'':10}{'weights':>13}{'file':>12}{'pack':>8}{'peak':>9}{'unpack':>8}{'peak':>9}{'allowed':>9}  equal  holds"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in [chosen.only] if chosen.only else networks:
            row = measure(name, networks[name](), Path(folder))
            rows.append(row)
            print(_line(row), flush=True)
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "benchmark": "pack",
        "description": (__doc__ or "").splitlines()[0],
        "command": "python benchmarks/pack.py",
        "machine": machine(),
        "rows": rows,
    }
    chosen.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
