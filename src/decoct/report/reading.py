"""What a run directory says: its rows, its log and its recipe, read back with every field checked.

A run directory holds ``rows.jsonl`` (one line per stage, needed), ``log.jsonl`` (events), ``recipe.toml`` and
``model.dct``; what is missing is left out of the account, what is damaged is an error that names file, line and field.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from decoct.errors import FormatError, RecipeError

KINDS = ("values", "positions", "table", "model", "header")
"""The kinds of bytes of a coded tensor: codes, where they stand, codebooks and scales, symbol tables, the rest."""

_NUMBERS = (
    "score", "bytes_raw", "bytes_zipped", "bytes_coded", "bytes_bare", "parameters", "nonzeros", "macs", "macs_nonzero",
    "seconds", "bytes_paper", "bytes_huffman", "bytes_ans", "bytes_entropy", "onnx_bytes", "score_before",
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one inference: the median and the 10th and 90th percentiles."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Layer:
    """One tensor of the file. `kinds`: its bytes by kind; `macs`: multiply-accumulates of one example."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    nonzeros: int
    macs: int
    kinds: dict[str, int]
    coder: str
    bytes_raw: int

    @property
    def bytes_coded(self) -> int:
        """All bytes of the tensor in the file."""
        return sum(self.kinds.values())

    @property
    def density(self) -> float:
        """Share of the entries that are not zero."""
        return self.nonzeros / max(self.parameters, 1)

    @property
    def rate_bits(self) -> float:
        """Bits per entry, zeros counted."""
        return 8 * self.bytes_coded / max(self.parameters, 1)

    @property
    def touched(self) -> bool:
        """Whether the tensor lost at least a tenth of its bytes."""
        return self.bytes_coded < 0.9 * self.bytes_raw


@dataclass(frozen=True)
class Row:
    """One stage of a run, as `rows.jsonl` has it; what the line does not say is None or empty.

    score_scale: what a perfect accuracy reads: 1, or 100 where it is given in percent (`decoct.accuracy`).
    score_before: of what came in, on the same data as `score`, where the stage measured it.
    widths, densities: output channels, and share of non-zero weights, by layer.
    """

    stage: str
    score: float | None = None
    score_name: str = "score"
    score_split: str = ""
    score_scale: float = 1.0
    higher_is_better: bool = True
    bytes_raw: float | None = None
    bytes_zipped: float | None = None
    bytes_coded: float | None = None
    bytes_bare: float | None = None
    parameters: float | None = None
    nonzeros: float | None = None
    macs: float | None = None
    macs_nonzero: float | None = None
    seconds: float | None = None
    bytes_paper: float | None = None
    bytes_huffman: float | None = None
    bytes_ans: float | None = None
    bytes_entropy: float | None = None
    onnx_bytes: float | None = None
    latency_ms: Spread | None = None
    reference_ms: Spread | None = None
    warnings: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    sections: dict[str, float] = field(default_factory=dict)
    score_before: float | None = None
    widths: dict[str, float] = field(default_factory=dict)
    densities: dict[str, float] = field(default_factory=dict)

    @property
    def is_accuracy(self) -> bool:
        """Whether the score is a share of right answers, so that one minus it is an error rate."""
        return "accuracy" in self.score_name.lower() and self.score is not None and 0 <= self.score <= self.score_scale

    @property
    def error_percent(self) -> float | None:
        """Share of wrong answers in percent, when the score is an accuracy."""
        if not self.is_accuracy or self.score is None:
            return None
        return round(100 * (1 - self.score / self.score_scale), 6)


@dataclass(frozen=True)
class Run:
    """One run directory. `recipe`: the parsed TOML; `events`: the log, in order; `size_bytes`: of the file it made."""

    path: Path
    name: str
    rows: tuple[Row, ...]
    events: tuple[dict[str, Any], ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    model: Path | None = None

    @property
    def first(self) -> Row:
        """What came in."""
        return self.rows[0]

    @property
    def last(self) -> Row:
        """What came out."""
        return self.rows[-1]

    @property
    def trained(self) -> Row:
        """The model that compression began with: what came in, or, where a recipe starts from nothing, once trained."""
        model = self.recipe.get("model")
        if not isinstance(model, Mapping) or model.get("weights"):
            return self.first
        training = takewhile(lambda row: " train." in row.stage, self.rows[1:])
        return (self.first, *training)[-1]

    @property
    def before(self) -> Row:
        """The row whose score is the one to hold against the last: of the same kind and split, else `trained`."""
        if self.last.score_before is not None:
            return replace(self.last, stage=self.trained.stage, score=self.last.score_before)
        return self.trained

    @property
    def seconds(self) -> float | None:
        """The whole run's time: the last row's when finished, else the sum of its stages'."""
        known = [row.seconds for row in self.rows if row.seconds is not None]
        return self.last.seconds if self.finished else sum(known) if known else None

    @property
    def finished(self) -> bool:
        """Whether the run has written its file and measured it."""
        return self.last.stage == "file"

    @property
    def size_bytes(self) -> int | None:
        """Bytes of ``model.dct`` on disk; without one, what the last stage would take when coded."""
        if self.finished and self.model is not None:
            return self.model.stat().st_size
        return None if self.last.bytes_coded is None else int(self.last.bytes_coded)

    @property
    def ratio(self) -> float | None:
        """How many times smaller the file is than the tensors that came in."""
        return self.first.bytes_raw / self.size_bytes if self.first.bytes_raw and self.size_bytes else None

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine, threads and seed: the last event of that kind, and the recipe's seed."""
        found: dict[str, Any] = {}
        for event in self.of_kind("environment"):
            found = {key: value for key, value in event.items() if key != "kind"}
        if "seed" in self.recipe:
            found.setdefault("seed", self.recipe["seed"])
        return found

    @property
    def methods(self) -> list[str]:
        """The methods of the recipe's steps, in order."""
        steps = self.recipe.get("step", [])
        return [str(step["method"]) for step in steps if isinstance(step, dict) and "method" in step]

    @property
    def recipe_hash(self) -> str:
        """What the run recorded as its recipe's hash, else the first 16 hexadecimal digits of SHA-256 of the text."""
        recorded = self.environment.get("recipe_hash")
        return str(recorded) if recorded else hashlib.sha256(self.recipe_text.encode()).hexdigest()[:16]

    def of_kind(self, kind: str) -> Iterator[dict[str, Any]]:
        """The events of one kind, in order."""
        return (event for event in self.events if event["kind"] == kind)


def read(path: str | Path) -> Run:
    """Read a run directory.

    Raises RecipeError when `path` is no run directory, FormatError when a file of it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise RecipeError(f"{path} is not a run directory: {'a file' if path.exists() else 'there is nothing'} there")
    if not (path / "rows.jsonl").is_file():
        raise RecipeError(f"{path} is not a run directory: it has no rows.jsonl (decoct compress -o {path} makes one)")
    rows = tuple(_row(data, where) for data, where in _lines(path / "rows.jsonl"))
    if not rows:
        raise RecipeError(f"{path / 'rows.jsonl'} is empty: the run has finished no stage yet")
    recipe, text = _recipe(path / "recipe.toml")
    name = recipe.get("name")
    return Run(
        path=path,
        name=name if isinstance(name, str) and name else path.resolve().name,
        rows=_scaled(rows),
        events=tuple(event for event, _ in _lines(path / "log.jsonl", required="kind")),
        recipe=recipe,
        recipe_text=text,
        model=path / "model.dct" if (path / "model.dct").is_file() else None,
    )


def _scaled(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows that know whether their accuracies are shares or percent: no share is above one."""
    scores = [score for row in rows for score in (row.score, row.score_before) if score is not None]
    scale = 100.0 if max(scores, default=0.0) > 1 else 1.0
    return tuple(replace(row, score_scale=scale) for row in rows)


def _recipe(path: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        return {}, ""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not TOML: {error}") from error


def _lines(path: Path, required: str = "stage") -> list[tuple[dict[str, Any], str]]:
    """Every JSON object of a file with where it stands; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise FormatError(f"{where}: not JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get(required), str):
            raise FormatError(f"{where}: expected an object with a {required!r}, found {line[:60]!r}")
        found.append((data, where))
    return found


def _row(data: dict[str, Any], where: str) -> Row:
    figures: dict[str, Any] = {name: number(data.get(name), f"{where}, {name}") for name in _NUMBERS}
    for name in ("sections", "widths", "densities"):
        figures[name] = _counts(data.get(name), f"{where}, {name}")
    return Row(
        stage=data["stage"],
        score_name=str(data.get("score_name") or "score"),
        score_split=str(data.get("score_split") or ""),
        higher_is_better=bool(data.get("higher_is_better", True)),
        latency_ms=_spread(data.get("latency_ms"), f"{where}, latency_ms"),
        reference_ms=_spread(data.get("reference_ms"), f"{where}, reference_ms"),
        warnings=tuple(str(text) for text in _sequence(data.get("warnings"), f"{where}, warnings")),
        layers=tuple(
            _layer(layer, f"{where}, layers[{index}]")
            for index, layer in enumerate(_sequence(data.get("layers"), f"{where}, layers"))
        ),
        **figures,
    )


def _layer(data: Any, where: str) -> Layer:
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise FormatError(f"{where}: expected an object with a 'name', found {data!r:.60}")
    whole = {name: int(number(data.get(name), f"{where}, {name}") or 0) for name in ("parameters", "nonzeros", "macs")}
    raw = number(data.get("bytes_raw"), f"{where}, bytes_raw")
    return Layer(
        name=data["name"],
        shape=tuple(int(number(size, f"{where}, shape") or 0) for size in _sequence(data.get("shape"), where)),
        kinds={kind: int(count) for kind, count in _counts(data.get("bytes"), f"{where}, bytes").items()},
        coder=str(data.get("coder") or ""),
        bytes_raw=4 * whole["parameters"] if raw is None else int(raw),
        **whole,
    )


def _spread(data: Any, where: str) -> Spread | None:
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise FormatError(f"{where}: expected median, p10 and p90, found {data!r:.60}")
    found = [number(data.get(name), f"{where}, {name}") for name in ("median", "p10", "p90")]
    if found[0] is None:
        return None
    return Spread(found[0], *(found[0] if value is None else value for value in found[1:]))


def _counts(data: Any, where: str) -> dict[str, float]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise FormatError(f"{where}: expected names with numbers, found {data!r:.60}")
    return {str(key): number(value, f"{where}, {key}") or 0 for key, value in data.items()}


def _sequence(data: Any, where: str) -> list[Any]:
    if data is None:
        return []
    if not isinstance(data, list):
        raise FormatError(f"{where}: expected a list, found {data!r:.60}")
    return data


def number(data: Any, where: str) -> float | None:
    """A finite number as it stands, None for null or not-a-number; FormatError for anything else."""
    if data is None:
        return None
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise FormatError(f"{where}: expected a number, found {data!r:.60}")
    return data if math.isfinite(data) else None
