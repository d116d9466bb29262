"""Figures in words: sizes with sensible units, times smaller, and the verdict on a run in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from decoct.report.reading import Row, Run, Spread

NONE = "–"
"""What stands where there is no figure."""

LITTLE = 0.5
"""Below this share of touched bytes the account warns."""


def size(count: float | None) -> str:
    """Bytes with a unit of powers of 1000.

    >>> size(812), size(11_040), size(1_066_440)
    ('812 B', '11.0 kB', '1.07 MB')
    """
    if count is None:
        return NONE
    if abs(count) < 999.5:
        return f"{count:.0f} B"
    return scaled(count, ("kB", "MB", "GB", "TB"))


def amount(count: float | None) -> str:
    """A count of things, short.

    >>> amount(812), amount(266_610), amount(430_500), amount(2_300_000)
    ('812', '267 k', '430 k', '2.30 M')
    """
    if count is None:
        return NONE
    if abs(count) < 9999.5:
        return f"{count:,.0f}"
    return scaled(count, ("k", "M", "G", "T"))


def change(before: float | None, after: float | None) -> str:
    """A count before and after, once where it is the same.

    >>> change(64, 24), change(10, 10)
    ('64 → 24', '10')
    """
    return amount(before) if before == after else f"{amount(before)} → {amount(after)}"


def scaled(count: float, units: tuple[str, ...]) -> str:
    """Three digits of `count` in the first of `units` (powers of 1000, from 1000 on) that leaves less than 1000."""
    value = float(count)
    for unit in units:
        value /= 1000
        if abs(value) < 999.5 or unit == units[-1]:
            return f"{digits(value)} {unit}"
    return digits(value)


def digits(value: float | None, places: int = 3) -> str:
    """A number with that many digits that count, never in powers of ten.

    >>> digits(0.01234), digits(9.497), digits(97.13), digits(1234.5)
    ('0.0123', '9.50', '97.1', '1,234')
    """
    if value is None:
        return NONE
    if value == 0:
        return "0"
    power = int(f"{abs(value):.{places - 1}e}".partition("e")[2])
    return f"{value:,.{min(max(places - 1 - power, 0), 12)}f}"


def percent(share: float | None) -> str:
    """A share from 0 to 1 in percent.

    >>> percent(0.0312), percent(1.0), percent(0.0004)
    ('3.1 %', '100 %', '0.04 %')
    """
    if share is None:
        return NONE
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{digits(100 * share, 1)} %"


def times(ratio: float | None) -> str:
    """A ratio, as in "97.1 times".

    >>> times(97.13)
    '97.1×'
    """
    return NONE if ratio is None else f"{digits(ratio)}×"


def milliseconds(value: float | None) -> str:
    """A time of one inference, in microseconds below a tenth of a millisecond.

    >>> milliseconds(0.0312), milliseconds(3.2)
    ('31.2 µs', '3.20 ms')
    """
    if value is None:
        return NONE
    return f"{digits(1000 * value)} µs" if value < 0.1 else f"{digits(value)} ms"


def spread(value: Spread | None) -> str:
    """The 10th to 90th percentile, in the median's unit."""
    if value is None:
        return ""
    micro = value.median < 0.1
    factor, unit = (1000, "µs") if micro else (1, "ms")
    return f"{digits(factor * value.p10)}–{digits(factor * value.p90)} {unit}"


def duration(seconds: float | None) -> str:
    """A time that somebody waited.

    >>> duration(4.21), duration(83), duration(7300)
    ('4.2 s', '1 min 23 s', '2 h 1 min')
    """
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def score(row: Row) -> str:
    """The score of a row; an accuracy in percent."""
    if row.score is None:
        return NONE
    return f"{100 * row.score / row.score_scale:.2f} %" if row.is_accuracy else digits(row.score, 4)


@dataclass(frozen=True)
class Verdict:
    """The headline of a run, in its parts; each may be empty. `slower`: it runs slower than what came in."""

    size: str
    score: str
    speed: str
    slower: bool

    @property
    def sentence(self) -> str:
        """All parts in one sentence."""
        return "; ".join(part for part in (self.size, self.score, self.speed) if part) + "."


def verdict(run: Run) -> Verdict:
    """What became of size, score and speed, said plainly."""
    speed, slower = _speed(run.last)
    return Verdict(_size(run), _score(run), speed, slower)


def _size(run: Run) -> str:
    if run.ratio is None:
        return "no size was measured"
    change = f"{size(run.first.bytes_raw)} → {size(run.size_bytes)}"
    if run.ratio >= 1:
        return f"{digits(run.ratio)} times smaller ({change})"
    return f"{digits(1 / run.ratio)} times larger ({change})"


def _score(run: Run) -> str:
    first, last = run.before, run.last
    if last.score is None:
        return "no score was measured"
    if first.score is not None and comparable(first, last):
        return f"{_kind(last)} {score(first)} → {score(last)} ({better(first, last)})"
    said = f"{_kind(last)} {score(last)}"
    other = next((row for row in reversed(run.rows) if row.score is not None and comparable(first, row)), None)
    if other is None or other is first or first.score is None:
        return f"{said} (before: not measured on the same data)"
    return f"{said}; {_kind(first)} {score(first)} → {score(other)} ({better(first, other)})"


def _kind(row: Row) -> str:
    return f"{row.score_split} {row.score_name}".strip()


def comparable(first: Row, last: Row) -> bool:
    """Whether two scores are of one kind and of one split of the data."""
    return (first.score_name, first.score_split) == (last.score_name, last.score_split)


def better(first: Row, last: Row) -> str:
    """By how much the score rose or fell, and whether that is good."""
    if first.score is None or last.score is None:
        return ""
    change = last.score - first.score
    shown = f"{100 * abs(change) / last.score_scale:.2f} points" if last.is_accuracy else digits(abs(change))
    if f"{abs(change):.6f}" == "0.000000":
        return "unchanged"
    return f"{shown} {'better' if (change > 0) == last.higher_is_better else 'worse'}"


def _speed(row: Row) -> tuple[str, bool]:
    if row.latency_ms is None or row.reference_ms is None or not row.reference_ms.median or not row.latency_ms.median:
        return "", False
    ratio = row.latency_ms.median / row.reference_ms.median
    overlap = row.latency_ms.p10 <= row.reference_ms.p90 and row.reference_ms.p10 <= row.latency_ms.p90
    within = ", within the spread" if overlap else ""
    if 0.95 <= ratio <= 1.05:
        return "as fast as what came in", False
    if ratio > 1:
        return f"{digits(ratio)} times slower than what came in{within}", True
    return f"{digits(1 / ratio)} times faster than what came in{within}", False


@dataclass(frozen=True)
class Touched:
    """Which part of the model the run changed, as shares of what came in; None where it cannot be told."""

    bytes: float | None
    macs: float | None


def touched(row: Row) -> Touched:
    """The share of bytes, and of multiply-accumulates, in tensors that lost at least a tenth of their bytes."""
    raw, macs = (sum(getattr(layer, name) for layer in row.layers) for name in ("bytes_raw", "macs"))
    kept = [layer for layer in row.layers if layer.touched]
    return Touched(
        sum(layer.bytes_raw for layer in kept) / raw if raw else None,
        sum(layer.macs for layer in kept) / macs if macs else None,
    )


def account(run: Run) -> list[str]:
    """What part of the bytes and operations was touched, in sentences."""
    row, said = run.last, []
    share = touched(row)
    if share.bytes is not None:
        said.append(
            f"{percent(share.bytes)} of the bytes that came in lie in tensors that lost at least a tenth of them."
        )
    if share.macs is not None:
        said.append(f"{percent(share.macs)} of the multiply-accumulates are done with those tensors.")
    if row.parameters and run.first.parameters and row.parameters < run.first.parameters:
        left = percent(row.parameters / run.first.parameters)
        said.append(
            f"Parameters: {run.first.parameters:,.0f} → {row.parameters:,.0f} ({left}); the others were cut out."
        )
    if row.parameters and row.nonzeros is not None:
        kept = row.nonzeros / row.parameters
        said.append(f"{row.nonzeros:,.0f} of {row.parameters:,.0f} parameters are not zero ({percent(kept)}).")
    said.extend(_operations(run))
    return said


def _operations(run: Run) -> list[str]:
    before, after, nonzero = run.first.macs, run.last.macs, run.last.macs_nonzero
    if not before or after is None:
        return []
    if after < before:
        said = [f"Multiply-accumulates carried out: {before:,.0f} → {after:,.0f} ({percent(after / before)})."]
    else:
        said = [f"All {after:,.0f} multiply-accumulates per example are still carried out."]
    if nonzero is not None and nonzero < after:
        said.append(
            f"{percent(nonzero / after)} of them have a weight that is not zero; "
            "a dense runtime does the others too: zeros save bytes, not time."
        )
    return said


def warnings(run: Run) -> list[str]:
    """Everything that a reader must not overlook: what the run warned of, and what its figures show."""
    found = []
    given = [text for row in run.rows for text in row.warnings]
    given.extend(str(event.get("text", "")) for event in run.of_kind("warning"))
    if not run.finished:
        found.append(
            f"This run has not finished: its last stage is “{run.last.stage}”, and it has written no file yet."
        )
    result = verdict(run)
    if result.slower and run.last.latency_ms and run.last.reference_ms and not any("slower" in text for text in given):
        found.append(
            f"The result is {result.speed}: {milliseconds(run.last.latency_ms.median)} against "
            f"{milliseconds(run.last.reference_ms.median)} for one call, measured in turns."
        )
    if run.ratio is not None and run.ratio < 1:
        found.append("The result is larger than what came in.")
    zipped = run.first.bytes_zipped
    if zipped and run.size_bytes and run.size_bytes >= zipped:
        found.append(f"Zipping what came in gives {size(zipped)}: the coded file is no smaller.")
    share = touched(run.last).bytes
    if share is not None and share < LITTLE and not any("of the bytes" in text for text in given):
        found.append(f"Little was touched: only {percent(share)} of the bytes lie in tensors that became smaller.")
    return list(dict.fromkeys(text for text in [*found, *given] if text))
