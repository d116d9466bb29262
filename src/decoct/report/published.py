"""What others published beside what was measured here: the ``[published]`` table of a recipe.

[published]                                       [published]
source = "Han et al. 2016, arXiv 1510.00149"      figure = 40
tag = "read"                  # or "M": from      unit = "times smaller"
ratio = 40                    # memory            source = "Han et al. 2016, arXiv 1510.00149"
error_percent = 1.58                              tag = "read"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from decoct.report import words
from decoct.report.reading import Run


@dataclass(frozen=True)
class Measure:
    """A figure that can be held against a published one: its name, its unit, and whether more of it is better."""

    what: str
    unit: str
    more_is_better: bool
    shown: Callable[[float | None], str]


def _plain_percent(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.2f} %"


MEASURES = {
    "bytes": Measure("file size", "bytes", False, words.size),
    "ratio": Measure("times smaller", "times smaller", True, words.times),
    "error_percent": Measure("error", "% error", False, _plain_percent),
    "score": Measure("score", "score", True, lambda value: words.digits(value, 4)),
    "weights_ratio": Measure("times fewer weights", "times fewer weights", True, words.times),
    "density": Measure("share of weights left", "share of weights", False, words.percent),
    "nonzeros": Measure("weights left", "weights", False, words.amount),
    "macs_ratio": Measure("times fewer operations", "times fewer operations", True, words.times),
}
"""By the key of a ``[published]`` table; the unit is what ``unit`` may say instead."""

_KEYS = {measure.unit: key for key, measure in MEASURES.items()} | {
    "times fewer parameters": "weights_ratio", "percent error": "error_percent", "error %": "error_percent",
    "x": "ratio", "times": "ratio",
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A published figure and ours.

    met: None where ours was not measured. tag: "read" at its source, or "M", from memory.
    """

    key: str
    what: str
    published: str
    ours: str
    met: bool | None
    source: str
    tag: str
    published_value: float
    our_value: float | None

    @property
    def outcome(self) -> str:
        """Met, missed, or not measured."""
        return "not measured" if self.met is None else "met" if self.met else "missed"


def measured(run: Run) -> dict[str, float | None]:
    """Our own figures, by the keys of `MEASURES`."""
    last = run.last
    whole = run.first.parameters or last.parameters
    kept = last.nonzeros / whole if whole and last.nonzeros is not None else None
    return {
        "bytes": run.size_bytes,
        "ratio": run.ratio,
        "error_percent": last.error_percent,
        "score": last.score,
        "weights_ratio": run.first.parameters / last.nonzeros if run.first.parameters and last.nonzeros else None,
        "density": kept,
        "nonzeros": last.nonzeros,
        "macs_ratio": run.first.macs / last.macs if run.first.macs and last.macs else None,
    }


def claims(run: Run) -> list[Claim]:
    """The published figures of a run's recipe beside what the run measured."""
    return compare(run.recipe.get("published"), measured(run))


def compare(published: Any, ours: Mapping[str, float | None]) -> list[Claim]:
    """Published figures (a table, tables by name, or a list of them) beside `ours`; what has no measure is left out."""
    return [_claim(key, value, table, ours) for table in _tables(published) for key, value in _figures(table)]


def _tables(data: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(data, list):
        for table in data:
            yield from _tables(table)
    elif isinstance(data, Mapping):
        yield data
        shared = {key: data[key] for key in ("source", "tag") if key in data}
        for key, table in data.items():
            if isinstance(table, Mapping):
                unit = {"unit": key} if "unit" not in table else {}
                yield from _tables(shared | unit | dict(table))


def _figures(table: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The measures of one table: by their own key, or ``figure`` with a ``unit``."""
    if isinstance(table.get("figure"), int | float):
        unit = str(table.get("unit", ""))
        key = _KEYS.get(unit.lower(), unit)
        if key in MEASURES:
            yield key, table["figure"]
    for key in MEASURES:
        if isinstance(table.get(key), int | float):
            yield key, table[key]


def _claim(key: str, value: float, table: Mapping[str, Any], ours: Mapping[str, float | None]) -> Claim:
    measure, own = MEASURES[key], ours.get(key)
    met = None if own is None else own >= value if measure.more_is_better else own <= value
    source, tag = str(table.get("source", "")), str(table.get("tag", ""))
    return Claim(key, measure.what, measure.shown(value), measure.shown(own), met, source, tag, value, own)
