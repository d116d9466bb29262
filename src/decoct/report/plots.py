"""Plots as SVG text, drawn by matplotlib without its global state; the same figures give the same bytes.

Colours are names that the page's style sheet gives a value, one for a light and one for a dark screen; text stays text,
in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from decoct.report import words
from decoct.report.reading import KINDS, Layer, Row, Run

Part = TypeVar("Part")

INK, FAINT, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06", "#0a0a07", "#0a0a08")
_STYLED = {INK: "ink", FAINT: "faint", GRID: "grid"} | {colour: f"c{n}" for n, colour in enumerate(SERIES, start=1)}

_LABELS = {
    "stages": "Bytes raw, zipped and coded after each stage",
    "layers": "Bytes of each tensor by kind",
    "accounts": "Total bytes by way of counting",
    "histograms": "Histograms of the weights before and after",
    "sensitivities": "Score against share of weights kept, by tensor",
    "widths": "Units of each group before and after",
    "training": "Training loss and validation score by epoch",
    "comparison": "Size against score, one dot per run",
    "results": "Size against test error",
}

WIDTH = 7.6
"""Inches of a full plot, at 72 units of SVG each."""

MOST = 12
"""Layers in one plot; the largest are drawn, and the caption says so."""

LIGHT = {"ink": "#1f2328", "faint": "#59636e", "grid": "#d8dde3", "card": "#ffffff"}
DARK = {"ink": "#e6edf3", "faint": "#9aa4af", "grid": "#343b44", "card": "#14181d"}
HUES_LIGHT = ("#1f6feb", "#d9822b", "#2d9d78", "#8a63d2", "#8b949e", "#c2405f", "#4a9fb5", "#a08a1e")
HUES_DARK = ("#5b9dff", "#e9a25b", "#4fc09a", "#b393f0", "#7d8793", "#ee7d97", "#79c6d9", "#cdb84a")


def palette(dark: bool = False) -> dict[str, str]:
    """Every colour by the name that the SVG and the style sheet use."""
    hues = {f"c{n}": hue for n, hue in enumerate(HUES_DARK if dark else HUES_LIGHT, start=1)}
    return (DARK if dark else LIGHT) | hues


def stages(rows: Sequence[Row]) -> str:
    """Bytes after each stage, as dots on a logarithmic axis: raw, zipped, coded, bare."""
    kinds = [(name, colour) for name, colour in zip(("raw", "zipped", "coded", "bare"), (4, 1, 0, 2), strict=True)
             if any(getattr(row, f"bytes_{name}") for row in rows)]  # fmt: skip
    if not kinds:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            found = [value for name, _ in kinds if (value := getattr(row, f"bytes_{name}"))]
            axes.plot([min(found, default=1), max(found, default=1)], [place, place], color=GRID, lw=2, zorder=1)
        for name, colour in kinds:
            at = [(value, place) for place, row in enumerate(rows) if (value := getattr(row, f"bytes_{name}"))]
            axes.plot(
                *zip(*at, strict=True), "o", ms=6.5, color=SERIES[colour], label=name, zorder=2 + (name == "coded")
            )
        axes.set(xscale="log", yticks=range(len(rows)), yticklabels=[row.stage for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        _bytes_axis(axes)
        axes.grid(axis="x", color=GRID, lw=0.6)
        _legend(axes, len(kinds))

    return svg("stages", 0.95 + 0.28 * len(rows), draw)


def layers(parts: Sequence[Layer]) -> str:
    """Bytes of each tensor by kind, stacked; the largest, in the model's order."""
    shown = largest(parts, lambda layer: layer.bytes_coded, 2 * MOST)
    if not any(layer.bytes_coded for layer in shown):
        return ""
    kinds = [kind for kind in KINDS if any(layer.kinds.get(kind) for layer in shown)]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        left = [0] * len(shown)
        for kind in kinds:
            widths = [layer.kinds.get(kind, 0) for layer in shown]
            axes.barh(range(len(shown)), widths, left=left, height=0.68, color=SERIES[KINDS.index(kind)], label=kind)
            left = [one + other for one, other in zip(left, widths, strict=True)]
        for place, layer in enumerate(shown):
            axes.annotate(
                words.size(layer.bytes_coded), (left[place], place), (5, 0), textcoords="offset points", va="center",
                color=FAINT, fontsize=9,
            )  # fmt: skip
        axes.set(yticks=range(len(shown)), yticklabels=[_short(layer.name) for layer in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * max(left))
        _bytes_axis(axes)
        axes.grid(axis="x", color=GRID, lw=0.6)
        _legend(axes, len(kinds))

    return svg("layers", 0.95 + 0.27 * len(shown), draw)


def accounts(sizes: Mapping[str, float]) -> str:
    """Total bytes by way of counting, as bars; the first is the file itself."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.barh(
            range(len(sizes)), list(sizes.values()), height=0.62, color=[SERIES[0], *[SERIES[4]] * (len(sizes) - 1)]
        )
        for place, value in enumerate(sizes.values()):
            axes.annotate(
                words.size(value),
                (value, place),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontsize=9.5,
            )
        axes.set(yticks=range(len(sizes)), yticklabels=list(sizes), xticks=[])
        axes.set_ylim(len(sizes) - 0.5, -0.5)
        axes.set_xlim(0, 1.15 * max(sizes.values()))

    return svg("accounts", 0.3 + 0.3 * len(sizes), draw) if sizes and max(sizes.values()) > 0 else ""


Counted = tuple[Sequence[float], Sequence[float]]
"""Edges (bins + 1) and counts (bins)."""


def histograms(pairs: Mapping[str, tuple[Counted, Counted | None]]) -> str:
    """Weights that are not zero, before (filled) and after (line), one small plot per tensor."""
    if not pairs:
        return ""
    columns = min(3, len(pairs))
    lines = -(-len(pairs) // columns)

    def draw(figure: Any) -> None:
        for place, (name, (before, after)) in enumerate(pairs.items(), start=1):
            axes = figure.add_subplot(lines, columns, place)
            unit = before[0][1] - before[0][0] or 1.0
            axes.stairs(before[1], before[0], fill=True, color=SERIES[4], alpha=0.45, lw=0, label="before")
            if after is not None:
                ratio = unit / ((after[0][1] - after[0][0]) or 1.0)
                axes.stairs([count * ratio for count in after[1]], after[0], color=SERIES[0], lw=1.1, label="after")
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(0)
            axes.set_yticks(_decades(axes.get_ylim()[1]))
            axes.yaxis.set_minor_locator(_locator("NullLocator"))
            axes.yaxis.set_major_formatter(_formatter(words.amount))
            axes.xaxis.set_major_locator(_locator("MaxNLocator", 4))
            axes.set_title(_short(name, 30), fontsize=9.5, color=INK, loc="left")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, labelcolor=FAINT)

    return svg("histograms", 0.4 + 1.55 * lines, draw, WIDTH * columns / 3 if columns < 3 else WIDTH)


def widths(groups: Mapping[str, tuple[float, float]]) -> str:
    """Units of each group before (pale) and after (full), as bars; of many those that lost most, in the order given."""
    names = largest(list(groups), lambda name: groups[name][0] - groups[name][1], 2 * MOST)
    if not names:
        return ""
    before, after = zip(*(groups[name] for name in names), strict=True)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.barh(range(len(names)), before, height=0.68, color=SERIES[4], alpha=0.45, lw=0, label="before")
        axes.barh(range(len(names)), after, height=0.68, color=SERIES[0], lw=0, label="after")
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            axes.annotate(
                words.change(old, new), (max(old, new), place), (5, 0), textcoords="offset points", va="center",
                color=FAINT, fontsize=9,
            )  # fmt: skip
        axes.set(yticks=range(len(names)), yticklabels=[_short(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.15 * max(*before, *after, 1))
        axes.xaxis.set_major_locator(_locator("MaxNLocator", 6, integer=True))
        axes.grid(axis="x", color=GRID, lw=0.6)
        _legend(axes, 2)

    return svg("widths", 0.95 + 0.27 * len(names), draw)


def sensitivities(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], name: str) -> str:
    """The score (one line per tensor) when that tensor alone keeps a share of its weights."""
    if not curves:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, (tensor, (density, score)) in enumerate(curves.items()):
            pairs = sorted(zip(density, score, strict=False))
            style = ("-", "--")[index // len(SERIES) % 2]
            axes.plot(*zip(*pairs, strict=True), style, marker="o", ms=3.5, lw=1.5, color=SERIES[index % len(SERIES)],
                      label=_short(tensor))  # fmt: skip
        axes.set(xscale="log", xlabel="share of the tensor's weights kept", ylabel=name)
        axes.xaxis.set_major_formatter(_formatter(words.percent))
        axes.set_xticks(sorted({density for curve in curves.values() for density in curve[0]}))
        axes.xaxis.set_minor_locator(_locator("NullLocator"))
        axes.grid(color=GRID, lw=0.6)
        _legend(axes, 3 if len(curves) > 4 else len(curves))

    return svg("sensitivities", 3.1 + 0.18 * (len(curves) // 3), draw)


def training(steps: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], name: str) -> str:
    """Loss and validation score of every epoch, through all steps that train; a line where a step begins."""
    if not any(epochs for _, epochs in steps):
        return ""

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        end = 0
        for index, (method, epochs) in enumerate(steps):
            at = range(end + 1, end + len(epochs) + 1)
            dot = "o" if len(epochs) == 1 else ""
            for axes, key in ((above, "loss"), (below, "validation")):
                axes.plot(
                    at, [_float(epoch.get(key)) for epoch in epochs], marker=dot, ms=3, lw=1.5, color=SERIES[index % 2]
                )
                if index:
                    axes.axvline(end + 0.5, color=GRID, lw=1)
            above.annotate(method, (end + 0.5, 1), (2, 3), xycoords=("data", "axes fraction"),
                           textcoords="offset points", fontsize=8.5, color=FAINT,
                           rotation=0 if len(steps) < 5 else 20)  # fmt: skip
            end += len(epochs)
        losses = [value for _, epochs in steps for epoch in epochs if (value := _float(epoch.get("loss"))) > 0]
        if losses and max(losses) > 20 * min(losses):
            above.set_yscale("log")
        above.yaxis.set_minor_formatter(_locator("NullFormatter"))
        above.yaxis.set_major_formatter(_formatter(lambda value: f"{value:g}"))
        above.set_ylabel("training loss")
        below.set(xlabel="epoch, counted through all steps", ylabel=f"validation {name}", xlim=(0.5, end + 0.5))
        below.xaxis.set_major_locator(_locator("MaxNLocator", integer=True))
        for axes in (above, below):
            axes.grid(axis="y", color=GRID, lw=0.6)

    return svg("training", 3.6, draw)


def comparison(runs: Sequence[Run]) -> str:
    """Size against score, one dot per run."""
    points = [(run.size_bytes, run.last.score, run.name) for run in runs]
    known = [(size, score, name) for size, score, name in points if size and score is not None]
    if len(known) < 2:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, (size, score, name) in enumerate(known):
            axes.plot([size], [score], "o", ms=8, color=SERIES[index % len(SERIES)])
            axes.annotate(_short(name), (size, score), (7, 5), textcoords="offset points", fontsize=9, color=INK)
        axes.set(xscale="log", ylabel=f"{runs[0].last.score_split} {runs[0].last.score_name}".strip())
        axes.margins(0.18)
        _bytes_axis(axes)
        axes.grid(color=GRID, lw=0.6)

    return svg("comparison", 3.2, draw)


def picture(panels: Mapping[str, Sequence[tuple[float, float, str, bool]]]) -> str:
    """A picture that stands alone, for a README: size against error, one panel per network.

    panels: by title, points of (bytes, error in percent, label, whether it is ours).
    """

    def draw(figure: Any) -> None:
        for place, (title, points) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(1, len(panels), place)
            axes.set_title(title, fontsize=11, color=INK, loc="left", pad=10)
            for size, error, label, ours in sorted(points):
                axes.plot([size], [error], "o", ms=8, color=SERIES[0] if ours else SERIES[4])
                axes.annotate(f"{label}\n{words.size(size)}, {error:.2f} %", (size, error), (0, 9),
                              textcoords="offset points", ha="center", fontsize=8.5,
                              color=INK if ours else FAINT)  # fmt: skip
            axes.set(xscale="log", ylabel="test error, %" if place == 1 else "")
            axes.margins(0.35)
            _bytes_axis(axes)
            axes.grid(color=GRID, lw=0.6)

    return _alone(svg("results", 3.4, draw, 4.6 * max(len(panels), 1), pad=0.16), panels)


def svg(name: str, height: float, draw: Callable[[Any], None], width: float = WIDTH, pad: float = 0.04) -> str:
    """One SVG element of `width` x `height` inches; `draw` fills the figure; `name` marks its identifiers.

    pad: inches around what is drawn.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "decoct", "text.parse_math": False, "font.size": 9.5,
        "font.family": "DejaVu Sans", "axes.edgecolor": GRID, "axes.labelcolor": FAINT, "axes.facecolor": "none",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "text.color": INK,
        "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": FAINT, "ytick.labelcolor": FAINT,
        "legend.labelcolor": FAINT, "axes.formatter.useoffset": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings), io.StringIO() as text:
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=pad, h_pad=pad), facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
        return _styled(text.getvalue(), name)


def _styled(text: str, name: str) -> str:
    """Matplotlib's SVG as an element for a page: colours by name, the page's font, its own identifiers, fewer bytes."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|!--).*?(</metadata>|-->)\s*", "", text, flags=re.DOTALL)
    for colour, css in _STYLED.items():
        text = text.replace(colour, f"var(--{css})")
    text = re.sub(r"font: ([\d.]+px) '[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = text.replace("stroke-linejoin: round; ", "").replace("*{stroke-linejoin: round; stroke-linecap: butt}", "")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg class="plot {name}" viewBox="\1" role="img" aria-label="{_LABELS[name]}">',
        text,
    )
    text = re.sub(r"<defs>\s*<style[^>]*>\s*</style>\s*</defs>", "", text)
    text = re.sub(r'="[^"<>]*\d\.\d{3,}[^"<>]*"', _rounded, text)
    return re.sub(r"\n\s*", "\n", text).replace("<g>\n</g>\n", "").strip()


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), attribute[0])


def _alone(text: str, panels: Iterable[str]) -> str:
    """An SVG file of its own: on a card, with colours for light and dark, legible whatever page it lies on."""
    if not text:
        return ""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width, height = box.groups() if box else ("600", "300")
    style = (
        f"svg{{{_variables(False)};font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg{{{_variables(True)}}}}}"
    )
    card = f'<rect width="{width}" height="{height}" rx="8" style="fill: var(--card); stroke: var(--grid)"/>'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
        f"<title>File size against test error: {', '.join(panels)}</title><style>{style}</style>{card}"
    )
    return re.sub(r"<svg [^>]*>", lambda _: opening, text, count=1) + "\n"


def _variables(dark: bool) -> str:
    return ";".join(f"--{name}:{value}" for name, value in palette(dark).items())


def largest(parts: Sequence[Part], weight: Callable[[Part], float], most: int) -> list[Part]:
    """The `most` parts of largest weight, in the order given."""
    chosen = sorted(range(len(parts)), key=lambda place: weight(parts[place]), reverse=True)[:most]
    return [parts[place] for place in sorted(chosen)]


def _bytes_axis(axes: Any) -> None:
    axes.xaxis.set_major_formatter(_formatter(words.size))
    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        subs = (1.0, 2.0, 5.0) if high < 200 * low else (1.0,)
        axes.xaxis.set_major_locator(_locator("LogLocator", subs=subs))
        axes.xaxis.set_minor_locator(_locator("NullLocator"))
    else:
        axes.xaxis.set_major_locator(_locator("MaxNLocator", 6))


def _legend(axes: Any, columns: int) -> None:
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns, frameon=False, fontsize=9,
        handlelength=1.1, handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip


def _locator(kind: str, *args: Any, **kwargs: Any) -> Any:
    from matplotlib import ticker

    return getattr(ticker, kind)(*args, **kwargs)


def _formatter(shown: Callable[[float], str]) -> Any:
    return _locator("FuncFormatter", lambda value, _: shown(value))


def _decades(top: float) -> list[float]:
    marks = [0.0, *(10.0**power for power in range(12) if 10.0**power <= top)]
    return marks if len(marks) < 5 else [0.0, *marks[2::2]]


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most // 3]}…{name[-(most - most // 3 - 1) :]}"


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
