"""One or several runs as one HTML page that opens offline: no request leaves it, and it asks for no script to be read.

Figures stand in the tables as they were measured, in ``data-value``; what is shown beside them is rounded.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoct.errors import FormatError, RecipeError
from decoct.file import replacing
from decoct.report import plots, words
from decoct.report.published import claims
from decoct.report.reading import KINDS, Row, Run, number, read

HERE = Path(__file__).parent

ACCOUNTS = (
    ("ANS", "bytes_ans", "every tensor coded by ANS"),
    ("Huffman", "bytes_huffman", "every tensor coded by Huffman, codes and gaps"),
    ("entropy", "bytes_entropy", "codes and positions at their entropy: no tables, no headers; a floor"),
    ("paper's way", "bytes_paper", "as Han 2016 counts: codes, gaps and codebooks of the weights; no biases or tables"),
    ("bare", "bytes_bare", "weights and plan only, for a receiver that has the architecture"),
    ("ONNX", "onnx_bytes", "the same network as plain ONNX"),
)  # fmt: skip


def write(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page of one run, or of several side by side, to `out`, whole or not at all; returns `out`.

    Raises RecipeError when there is nothing to report, FormatError when a run's files are damaged.
    """
    if not runs:
        raise RecipeError("no run to report: give at least one run directory")
    return replace_text(out, render([read(run) for run in runs]))


def render(runs: Sequence[Run]) -> str:
    """The page of runs that have been read, as HTML. The same runs give the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for shown in (words.size, words.amount, words.digits, words.percent, words.times, words.milliseconds, words.spread,
                  words.duration, words.score, words.change):  # fmt: skip
        environment.filters[shown.__name__] = shown
    environment.filters["exact"] = exact
    style = (HERE / "page.css").read_text(encoding="utf-8").replace("/* palette */", _palette())
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    views = [_view(run, index) for index, run in enumerate(runs)]
    return environment.get_template("page.html.jinja").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        runs=views,
        comparison=plots.comparison(runs) if len(runs) > 1 else "",
        kinds=KINDS,
        most=plots.MOST,
    )


def replace_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path`, its folder too, whole or not at all; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
    return path


def exact(value: float | None, unit: str = "bytes") -> str:
    """A number with all its digits, for a tooltip.

    >>> exact(1066440)
    '1,066,440 bytes'
    """
    if value is None:
        return ""
    return f"{value:,.0f} {unit}" if float(value).is_integer() else f"{value:,.2f} {unit}"


def _palette() -> str:
    light, dark = (
        ";".join(f"--{name}:{value}" for name, value in plots.palette(side).items()) for side in (False, True)
    )
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


@dataclass(frozen=True)
class Tile:
    """One figure of the headline, with what it is and what it is made of."""

    label: str
    figure: str
    detail: str
    alarm: bool = False


@dataclass(frozen=True)
class Column:
    """One column of the table of stages: a row's figure, how it reads, its tooltip, and a small line below it."""

    title: str
    value: Callable[[Row], Any]
    shown: Callable[[Row], str]
    tooltip: Callable[[Row], str]
    below: Callable[[Row], str] = lambda row: ""


def _view(run: Run, index: int) -> dict[str, Any]:
    """Everything that the template shows of one run; a plot of nothing is an empty string."""
    drawings = {
        "stages": plots.stages(run.rows),
        "layers": plots.layers(run.last.layers),
        "accounts": plots.accounts({name: value for name, value, _ in _accounts(run) if name != "ONNX"}),
        "histograms": plots.histograms(_histograms(run)),
        "training": plots.training(_by_step(run, "epoch"), run.last.score_name),
        "sensitivities": plots.sensitivities(_curves(run), run.last.score_name),
    }
    return {
        "run": run,
        "id": f"run-{index + 1}",
        "verdict": words.verdict(run),
        "tiles": _tiles(run),
        "warnings": words.warnings(run),
        "columns": [column for column in COLUMNS if any(column.value(row) is not None for row in run.rows)],
        "plots": {name: _unique(text, index) for name, text in drawings.items()},
        "accounts": _accounts(run),
        "account": words.account(run),
        "sections": _sections(run.last),
        "histograms": len(_histograms(run)),
        "histogram_stages": _histogram_stages(run),
        "tensors": len({event.get("tensor") for event in run.of_kind("histogram")}),
        "narrowings": [
            (each, _unique(_unique(plots.widths(each.groups), place), index))
            for place, each in enumerate(_narrowings(run))
        ],
        "densities": _densities(run),
        "claims": claims(run),
        "environment": _flat(run.environment),
    }


def _unique(text: str, index: int) -> str:
    """The same SVG with identifiers that no other run's plots have."""
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>r{index + 1}-", text)


def _tiles(run: Run) -> list[Tile]:
    last, verdict = run.last, words.verdict(run)
    tiles = []
    if run.ratio:
        tiles.append(
            Tile("smaller", words.times(run.ratio), f"{words.size(run.first.bytes_raw)} → {words.size(run.size_bytes)}")
        )
    if last.score is not None:
        before = run.before if words.comparable(run.before, last) and run.before.score is not None else None
        error = f"error {last.error_percent:.2f} %" if last.error_percent is not None else ""
        was = f"before {words.score(before)}" if before else ""
        detail = " · ".join(part.replace(" ", "\u00a0") for part in (was, error) if part)
        tiles.append(Tile(f"{last.score_split} {last.score_name}".strip(), words.score(last), detail))
    if last.latency_ms and last.reference_ms:
        speed = last.reference_ms.median / max(last.latency_ms.median, 1e-12)
        detail = f"{words.milliseconds(last.latency_ms.median)}, before {words.milliseconds(last.reference_ms.median)}"
        tiles.append(
            Tile(
                "faster" if speed >= 1 else "slower",
                words.times(max(speed, 1 / max(speed, 1e-12))),
                detail,
                verdict.slower,
            )
        )
    if (whole := run.first.parameters or last.parameters) and last.nonzeros is not None:
        detail = f"{words.amount(last.nonzeros)} of {words.amount(whole)}"
        tiles.append(Tile("weights left", words.percent(last.nonzeros / whole), detail))
    if run.size_bytes and run.first.parameters:
        rate = 8 * run.size_bytes / run.first.parameters
        tiles.append(Tile("bits per weight", words.digits(rate), "whole file, zeros counted"))
    return tiles


def _bytes_column(title: str, name: str) -> Column:
    return Column(
        title,
        lambda row: getattr(row, name),
        lambda row: words.size(getattr(row, name)),
        lambda row: exact(getattr(row, name)),
    )


def _count_column(title: str, name: str) -> Column:
    return Column(
        title,
        lambda row: getattr(row, name),
        lambda row: words.amount(getattr(row, name)),
        lambda row: exact(getattr(row, name), ""),
    )


def _latency_column(title: str, name: str) -> Column:
    def tooltip(row: Row) -> str:
        value = getattr(row, name)
        return f"median {value.median} ms, p10 {value.p10} ms, p90 {value.p90} ms" if value else ""

    return Column(
        title,
        lambda row: getattr(row, name) and getattr(row, name).median,
        lambda row: words.milliseconds(getattr(row, name) and getattr(row, name).median),
        tooltip,
        lambda row: words.spread(getattr(row, name)),
    )


COLUMNS = (
    Column(
        "score",
        lambda row: row.score,
        words.score,
        lambda row: f"{row.score_name} {row.score}",
        lambda row: row.score_split,
    ),
    _bytes_column("raw", "bytes_raw"),
    _bytes_column("zipped", "bytes_zipped"),
    _bytes_column("coded", "bytes_coded"),
    _bytes_column("bare", "bytes_bare"),
    _count_column("parameters", "parameters"),
    _count_column("non-zeros", "nonzeros"),
    _count_column("MACs", "macs"),
    _count_column("non-zero MACs", "macs_nonzero"),
    _latency_column("latency", "latency_ms"),
    _latency_column("reference", "reference_ms"),
    Column(
        "time",
        lambda row: row.seconds,
        lambda row: words.duration(row.seconds),
        lambda row: exact(row.seconds, "seconds"),
    ),
)


def _accounts(run: Run) -> list[tuple[str, float, str]]:
    """The file's bytes and every other way of counting that was measured: name, bytes, what it counts."""
    if not run.finished or run.size_bytes is None:
        return []
    others = [(name, getattr(run.last, key), what) for name, key, what in ACCOUNTS]
    file = ("this file", run.size_bytes, "model.dct as it lies on disk: every byte, headers, tables and graph too")
    return [file, *((name, value, what) for name, value, what in others if value is not None)]


def _sections(row: Row) -> list[tuple[str, float, float]]:
    """Bytes of the file by kind, with their share."""
    total = sum(row.sections.values())
    order = sorted(row.sections, key=lambda kind: KINDS.index(kind) if kind in KINDS else len(KINDS))
    return [(kind, row.sections[kind], row.sections[kind] / total) for kind in order] if total else []


def _histogram_stages(run: Run) -> tuple[str, str]:
    """The two stages whose weights are set side by side; the second is empty if there is one stage only."""
    stages = list(dict.fromkeys(str(event.get("stage", "")) for event in run.of_kind("histogram")))
    if not stages:
        return "", ""
    before = run.trained.stage if run.trained.stage in stages else stages[0]
    return before, stages[-1] if stages[-1] != before else ""


def _histograms(run: Run) -> dict[str, tuple[plots.Counted, plots.Counted | None]]:
    """The weights of the largest tensors, before and after."""
    before, after = _histogram_stages(run)
    found: dict[str, dict[str, plots.Counted]] = {}
    for event in run.of_kind("histogram"):
        edges, counts = (_numbers(event, key, run) for key in ("edges", "counts"))
        if len(edges) != len(counts) + 1 or not counts:
            raise FormatError(
                f"{run.path / 'log.jsonl'}: a histogram of {len(counts)} counts needs one more edge, found {len(edges)}"
            )
        found.setdefault(str(event.get("tensor", "")), {})[str(event.get("stage", ""))] = (edges, counts)
    known = {name: stages for name, stages in found.items() if before in stages}
    order = sorted(known, key=lambda name: sum(known[name][before][1]), reverse=True)[: plots.MOST]
    return {name: (known[name][before], known[name].get(after)) for name in known if name in order}


def _curves(run: Run) -> dict[str, tuple[list[float], list[float]]]:
    """Sensitivity curves, the last scan of every tensor; of many, those that fall deepest."""
    found = {}
    for event in run.of_kind("sensitivity"):
        density, score = (_numbers(event, key, run) for key in ("density", "score"))
        pairs = [(one, other) for one, other in zip(density, score, strict=False) if one > 0]
        if pairs:
            found[str(event.get("tensor", ""))] = ([one for one, _ in pairs], [other for _, other in pairs])
    sign = 1 if run.last.higher_is_better else -1
    worst = sorted(found, key=lambda name: sign * min(found[name][1], key=lambda value: sign * value))[: plots.MOST]
    return {name: curve for name, curve in found.items() if name in worst}


def _numbers(event: Mapping[str, Any], key: str, run: Run) -> list[float]:
    values = event.get(key)
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise FormatError(
            f"{run.path / 'log.jsonl'}: {key} of a {event['kind']} is a list of numbers, found {values!r:.60}"
        )
    return values


def _by_step(run: Run, kind: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """The events of a kind of every step that has any, in order; what a stopped run did and did again, once."""
    steps: dict[int, tuple[str, list[dict[str, Any]]]] = {}
    events: list[dict[str, Any]] = []
    for event in run.events:
        if event["kind"] == "environment":
            events = []
        elif event["kind"] == kind:
            events.append(event)
        elif event["kind"] == "step":
            given = event.get("step")
            place = given if isinstance(given, int) else len(steps) + 1
            steps[place] = (f"{place} {event.get('method', '')}".strip(), events)
            events = []
    found = [step for _, step in sorted(steps.items()) if step[1]]
    return [*found, ("unfinished", events)] if events else found


@dataclass(frozen=True)
class Narrowing:
    """What a step cut: units before and after by group, and multiply-accumulates of one example."""

    step: str
    groups: dict[str, tuple[float, float]]
    macs: tuple[float | None, float | None]


def _narrowings(run: Run) -> list[Narrowing]:
    """The steps that cut anything; of several rounds, from before the first to after the last."""
    found = []
    for step, events in _by_step(run, "widths"):
        groups: dict[str, tuple[float, float]] = {}
        for event in events:
            for name, (before, after) in _widths(event, run).items():
                groups[name] = (groups.get(name, (before,))[0], after)
        if any(after < before for before, after in groups.values()):
            where = f"{run.path / 'log.jsonl'}, macs of widths"
            macs = (number(events[0].get("macs_before"), where), number(events[-1].get("macs_after"), where))
            found.append(Narrowing(step, groups, macs))
    return found


def _widths(event: Mapping[str, Any], run: Run) -> dict[str, tuple[float, float]]:
    where, groups = f"{run.path / 'log.jsonl'}, groups of widths", event.get("groups")
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise FormatError(f"{where}: expected a list of groups with name, before and after, found {groups!r:.60}")
    counts = [(number(group.get("before"), where), number(group.get("after"), where)) for group in groups]
    return {
        str(group.get("name", "")): (one or 0, other or 0) for group, (one, other) in zip(groups, counts, strict=True)
    }


def _densities(run: Run) -> dict[str, Any]:
    """Widths and densities by layer and stage: layers, stages, and a share per pair; empty if no row has any."""
    rows = [row for row in run.rows if row.densities]
    names = list(dict.fromkeys(name for row in rows for name in row.densities))
    widths = {}
    for name in names:
        seen = [row.widths[name] for row in rows if name in row.widths]
        widths[name] = (
            "" if not seen else f"{seen[0]:.0f}" if seen[0] == seen[-1] else f"{seen[0]:.0f} → {seen[-1]:.0f}"
        )
    changed = [row for place, row in enumerate(rows) if place == 0 or row.densities != rows[place - 1].densities]
    return {"names": names, "rows": changed, "widths": widths} if names else {}


def _flat(data: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested names and values as one list."""
    found = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            found.extend(_flat(value, f"{before}{key}."))
        else:
            found.append((f"{before}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found
