"""What the commands print: tables of results on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from decoct.events import listening
from decoct.report.words import NONE, amount, digits, percent, size, times

if TYPE_CHECKING:
    from decoct.bench import Latency
    from decoct.contents import Contents
    from decoct.survey import Survey

PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""

out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(highlight=False, markup=False, emoji=False, stderr=True)


def say(text: str) -> None:
    """Print a line of the result."""
    out.print(text, soft_wrap=True)


def complain(text: str) -> None:
    """Print a line that is not part of the result."""
    err.print(text, soft_wrap=True)


def as_json(value: Any) -> None:
    """Print a value as JSON, for scripts."""
    out.out(json.dumps(value, indent=1), highlight=False)


class Bars:
    """A listener that shows the events of long work: a bar for what goes on, a line for what is done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[str, TaskID] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        show = getattr(self, f"_{event['kind']}", None)
        if show is not None:
            show(event)

    def _bar(self, what: str, done: int, total: int, figures: str = "") -> None:
        if what not in self.bars:
            self.bars[what] = self.progress.add_task(what, total=total, figures="")
        self.progress.update(self.bars[what], completed=done, total=total, figures=figures)
        if done >= total:
            self.progress.remove_task(self.bars.pop(what))

    def _line(self, text: str) -> None:
        self.progress.console.print(text, soft_wrap=True)

    def _progress(self, event: Mapping[str, Any]) -> None:
        self._bar(event["what"], event["done"], event["total"])

    def _epoch(self, event: Mapping[str, Any]) -> None:
        figures = f"loss {digits(event['loss'])}  validation {digits(event['validation'], 4)}  lr {digits(event['lr'])}"
        self._bar("epochs", event["epoch"], event["epochs"], figures)

    def _step(self, event: Mapping[str, Any]) -> None:
        for bar in self.bars.values():
            self.progress.remove_task(bar)
        self.bars.clear()
        self._line(f"{event['step']} {event['method']}: {event['seconds']:.1f} s")

    def _row(self, event: Mapping[str, Any]) -> None:
        score = f"{event['score_name']} {digits(event['score'], 4)} on {event['score_split']}"
        self._line(f"  {event['stage']}: {score}, {size(event['bytes_coded'])} coded")

    def _warning(self, event: Mapping[str, Any]) -> None:
        self._line(f"warning: {event['text']}")


@contextmanager
def progress() -> Iterator[None]:
    """Within the block, long work shows how far it is; of several processes only the first does."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown, listening(Bars(shown)):
        yield


def stages(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of a run, one line per stage."""
    first = rows[0]
    table = _table("stage", first["score_name"], "raw", "zipped", "coded", "smaller", "non-zero", "median ms")
    for row in rows:
        latency = row.get("latency_ms")
        table.add_row(
            row["stage"],
            f"{digits(row['score'], 4)} {row['score_split']}",
            *(size(row[f"bytes_{form}"]) for form in ("raw", "zipped", "coded")),
            times(first["bytes_raw"] / row["bytes_coded"]),
            amount(row["nonzeros"]),
            digits(latency["median"]) if latency else NONE,
        )
    out.print(table)


def contents(held: Contents) -> None:
    """Print what a file holds, tensor by tensor."""
    about = f"{held.label}: {size(held.total_bytes)}, format {held.version}{', bare' if held.bare else ''}"
    say(f"{about}; decoded {size(held.decoded_bytes)}")
    table = _table(
        "tensor", "shape", "kept", "coder", "positions", "values", "table", "bytes", "bits/weight", "entropy", "excess"
    )
    for tensor in held.tensors:
        table.add_row(
            tensor.name,
            "x".join(map(str, tensor.shape)) or "1",
            percent(tensor.kept / tensor.parameters) if tensor.parameters else NONE,
            tensor.coder,
            *(f"{tensor.sections.get(kind, 0):,}" for kind in ("positions", "values", "table")),
            f"{tensor.bytes:,}",
            digits(tensor.bits_per_weight),
            f"{tensor.entropy_bytes:,.0f}",
            NONE if tensor.excess is None else percent(tensor.excess),
        )
    out.print(table)
    say("all bytes: " + ", ".join(f"{kind} {count:,}" for kind, count in held.sections.items()))
    if held.paper_bytes:
        say(f"by the accounting of Han 2016 (weights, gaps and codebooks alone): {held.paper_bytes:,.0f} bytes")


def latencies(found: Sequence[Latency]) -> None:
    """Print a benchmark, one line per model."""
    table = _table("model", "median ms", "p10", "p90", "times the first", "rounds", "peak memory", "on disk")
    for one in found:
        table.add_row(
            one.name,
            *(digits(figure) for figure in (one.median_ms, one.p10_ms, one.p90_ms, one.ratio)),
            str(one.rounds),
            size(one.peak_bytes),
            size(one.size_bytes),
        )
    out.print(table)
    say(f"interleaved in random order, batch {found[0].batch}, {found[0].threads} thread(s)")


def methods(known: Mapping[str, str]) -> None:
    """Print method names with one line on each."""
    table = _table("method", "what it does")
    for name, summary in known.items():
        table.add_row(name, summary)
    out.print(table)


def method(name: str, about: Mapping[str, Any]) -> None:
    """Print one method: its paper, its fields and their defaults."""
    say(f"{name}\n\n{about['paper']}\n\n{about['about']}\n")
    table = _table("field", "type", "default")
    for field in about["fields"]:
        table.add_row(field["name"], field["type"], json.dumps(field["default"]))
    out.print(table)


def groups(found: Survey) -> None:
    """Print what can be cut from a model, group by group, and what cannot."""
    tried = any(group.check is not None for group in found.groups)
    table = _table("group", "units", "MACs", "cut together", *(["half cut"] if tried else []))
    for group in found.groups:
        cells = [group.name, str(group.units), percent(group.macs_share), _places(group.tensors), group.check]
        table.add_row(*(cells if tried else cells[:-1]))
    out.print(table)
    say(f"MACs: of {found.macs:,}, the share that goes when all units do; [n]: dimension n of a layer's tensors is cut")
    if found.frozen:
        table = _table("not cut", "positions", "why")
        for each in found.refusals():
            table.add_row(f"{each.layer}[{each.dim}]", f"{each.positions} of {each.shape[each.dim]}", each.reason)
        out.print()
        out.print(table)


def _places(tensors: Sequence[tuple[str, int]], most: int = 5) -> str:
    """The layers, each with its dimension, that a cut goes through; of many the first."""
    places = list(dict.fromkeys(f"{tensor.rpartition('.')[0] or tensor}[{dim}]" for tensor, dim in tensors))
    rest = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + rest


LEFT = {
    "stage", "tensor", "shape", "coder", "model", "method", "what it does", "field", "type", "default", "group",
    "cut together", "half cut", "not cut", "why",
}  # fmt: skip


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column, justify="left" if column in LEFT else "right", overflow="fold", no_wrap=column == "stage"
        )
    return table
