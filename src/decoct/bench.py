"""How long models take to answer, side by side: `.dct`, `.onnx`, and `.pt2` where torch is there.

All of them live in one process and take turns in rounds, each round in a random order, so that whatever else the
machine does falls on all alike. Memory is measured apart: a fresh process for each loads it and runs it once.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from decoct.errors import FormatError, MissingExtraError, RecipeError
from decoct.file import numpy_dtype
from decoct.runtime import ORT_DTYPES, load, options

KINDS = (".dct", ".onnx", ".pt2")
WARM_UP = 5
LEAST_ROUNDS = 10
MOST_ROUNDS = 100_000


@dataclass(frozen=True)
class Latency:
    """What one model took. ratio: its median over that of the first model. Latencies are of one call, in ms.

    peak_bytes: the most resident memory of a fresh process that loads it and runs it once, with the interpreter.
    size_bytes: on disk, with the weights that lie beside an `.onnx`.
    """

    name: str
    threads: int
    batch: int
    rounds: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    peak_bytes: int
    size_bytes: int


def bench(
    paths: Sequence[str | Path], threads: int = 1, seconds: float = 5.0, batch: int = 1, seed: int = 0
) -> list[Latency]:
    """Time models on random inputs, each for about `seconds`, on `threads` threads; free dimensions are `batch`.

    Raises RecipeError for another kind of file or none, FormatError for damaged ones, MissingExtraError for a `.pt2`
    without torch.
    """
    if not paths:
        raise RecipeError("bench needs at least one file")
    if threads < 1 or batch < 1 or not seconds > 0:
        raise RecipeError(f"threads, batch and seconds are above 0, not {threads}, {batch}, {seconds}")
    files = [Path(path) for path in paths]
    calls = [caller(path, threads, batch) for path in files]
    times = interleave(calls, seconds * len(calls), random.Random(seed))
    first = float(np.median(times[0]))
    return [
        Latency(
            name=str(path),
            threads=threads,
            batch=batch,
            rounds=len(taken),
            median_ms=float(np.median(taken)),
            p10_ms=float(np.percentile(taken, 10)),
            p90_ms=float(np.percentile(taken, 90)),
            ratio=float(np.median(taken)) / first,
            peak_bytes=peak_bytes(path, threads, batch),
            size_bytes=size_bytes(path),
        )
        for path, taken in zip(files, times, strict=True)
    ]


def interleave(calls: Sequence[Callable[[], object]], seconds: float, order: random.Random) -> list[list[float]]:
    """Milliseconds of each call, in rounds of all of them in random order, until `seconds` have passed."""
    for call in calls:
        for _ in range(WARM_UP):
            call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    places = list(range(len(calls)))
    for number in range(MOST_ROUNDS):
        order.shuffle(places)
        for place in places:
            start = time.perf_counter()
            calls[place]()
            times[place].append(1000 * (time.perf_counter() - start))
        if number + 1 >= LEAST_ROUNDS and time.perf_counter() > end:
            break
    return times


def caller(path: Path, threads: int, batch: int) -> Callable[[], object]:
    """Load a model and return a call of it on random inputs."""
    kind = path.suffix.lower()
    if kind == ".dct":
        runtime = load(path, threads)
        feeds = {port["name"]: _random(port["shape"], port["dtype"], batch) for port in runtime.inputs}
        return lambda: runtime(**feeds)
    if kind == ".onnx":
        return _onnx_caller(path, threads, batch)
    if kind == ".pt2":
        return _pt2_caller(path, threads)
    raise RecipeError(f"{path}: cannot bench {kind or 'a file without a suffix'}; known: {', '.join(KINDS)}")


def _onnx_caller(path: Path, threads: int, batch: int) -> Callable[[], object]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        session = ort.InferenceSession(str(path), options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common class
        raise FormatError(f"ONNX Runtime does not accept {path}: {error}") from error
    feeds = {port.name: _random(port.shape, ORT_DTYPES.get(port.type), batch) for port in session.get_inputs()}
    return lambda: session.run(None, feeds)


def _pt2_caller(path: Path, threads: int) -> Callable[[], object]:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError('a .pt2 needs torch: pip install "decoct[compress]"') from error
    torch.set_num_threads(threads)
    program = torch.export.load(str(path))
    args, kwargs = program.example_inputs or ((), {})
    module = program.module()

    def call() -> object:
        with torch.inference_mode():
            return module(*args, **kwargs)

    return call


def _random(shape: Sequence[Any] | None, dtype: str | None, batch: int) -> np.ndarray:
    """Normal numbers for floats, zeros for all else, which are valid indices."""
    sizes = [size if isinstance(size, int) else batch for size in shape or []]
    if dtype is None or dtype == "text":
        raise RecipeError(f"bench makes inputs of numbers only, not of {dtype or 'another type'}")
    if dtype.startswith(("float", "bfloat")):
        return np.random.default_rng(0).standard_normal(sizes).astype(numpy_dtype(dtype))
    return np.zeros(sizes, dtype)


def size_bytes(path: Path) -> int:
    """Bytes on disk of a model and of the weights beside it."""
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if path.suffix == ".onnx" and beside.is_file() else 0)


_CHILD = """
import sys
from pathlib import Path
from decoct.bench import caller, resident_peak
caller(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))()
print(resident_peak())
"""


def peak_bytes(path: Path, threads: int, batch: int) -> int:
    """The most resident memory of a fresh process that loads a model and runs it once; 0 where nobody says."""
    command = [sys.executable, "-c", _CHILD, str(path.absolute()), str(threads), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FormatError(f"{path} does not run in a process of its own: {done.stderr.strip()[-500:]}")
    return int(done.stdout.splitlines()[-1])


def resident_peak() -> int:
    """The most resident memory that this process has had, in bytes; 0 where the system does not say.

    Linux is asked for the program's own peak: that of `getrusage` has the parent's memory in it, from before the start.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
