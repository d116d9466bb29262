"""The page in a real browser: Debian's chromium, without a screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from decoct.report import page

Make = Callable[..., Path]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the report was not tried in a browser")

MEASURE = """<script>
for (const plot of document.querySelectorAll("svg")) {
  const box = plot.getBoundingClientRect();
  plot.setAttribute("data-drawn", Math.round(box.width) + "x" + Math.round(box.height));
}
document.body.setAttribute("data-overflow", document.documentElement.scrollWidth - innerWidth);
const head = document.querySelector("table.layers th:nth-child(3) button");
if (head) head.click();
</script>"""

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr")  # fmt: skip


class Tables(HTMLParser):
    """Tables by class: rows of (text, data-value); the sizes of drawn plots; attributes of the body."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.plots: list[str] = []
        self.body: dict[str, str | None] = {}
        self._open = False
        self._table = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "table":
            self._table = str(given.get("class")).split()[0]
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append(("", given.get("data-value")))
            self._open = True
        elif tag == "svg":
            self.plots.append(str(given.get("data-drawn")))
        elif tag == "body":
            self.body = given

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            row = self.tables[self._table][-1]
            row[-1] = (row[-1][0] + data, row[-1][1])

    def column(self, table: str, title: str) -> list[float | None]:
        """The exact numbers below a title; None for an empty cell."""
        head, *rows = self.tables[table]
        place = [text.strip(" ↕↑↓") for text, _ in head].index(title)
        return [None if row[place][1] is None else float(str(row[place][1])) for row in rows]


def browse(path: Path, profile: Path, width: int = 1280) -> tuple[str, str]:
    """The document after loading, and what the browser logged."""
    done = subprocess.run(
        [str(CHROMIUM), *QUIET, f"--window-size={width},900", f"--user-data-dir={profile}", "--dump-dom",
         path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def console(logged: str) -> list[str]:
    return [line for line in logged.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="session")
def report(run_of_session: Path) -> Path:
    return page.write([run_of_session], run_of_session / "report.html")


def measured(path: Path) -> Path:
    """A copy of the page that also measures itself; its own policy would not let a foreign script run."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    copy = path.with_name(f"measured-{path.name}")
    copy.write_text(text.replace("</body>", MEASURE + "</body>"))
    return copy


def test_it_loads_and_holds_the_numbers_of_the_run(report: Path, tmp_path: Path) -> None:
    document, logged = browse(report, tmp_path / "profile")
    assert console(logged) == []
    shown = Tables(document)
    rows = [json.loads(line) for line in (report.parent / "rows.jsonl").read_text().splitlines()]
    columns = {
        "score": "score", "raw": "bytes_raw", "zipped": "bytes_zipped", "coded": "bytes_coded", "bare": "bytes_bare",
        "parameters": "parameters", "non-zeros": "nonzeros", "MACs": "macs", "non-zero MACs": "macs_nonzero",
        "time": "seconds",
    }  # fmt: skip
    for title, name in columns.items():
        assert shown.column("stages", title) == [row.get(name) for row in rows], title
    for title, name in (("latency", "latency_ms"), ("reference", "reference_ms")):
        assert shown.column("stages", title) == [row[name] and row[name]["median"] for row in rows]
    layers = rows[-1]["layers"]
    assert shown.column("layers", "bytes")[: len(layers)] == [sum(layer["bytes"].values()) for layer in layers]
    assert shown.column("layers", "positions")[: len(layers)] == [layer["bytes"]["positions"] for layer in layers]
    assert shown.column("sections", "bytes") == [
        rows[-1]["sections"][kind] for kind in ("values", "positions", "table", "model", "header", "graph")
    ]
    assert shown.column("widths", "before") == [300, 100] and shown.column("widths", "after") == [240, 90]
    accounts = [16104, *(rows[-1][f"bytes_{kind}"] for kind in ("ans", "huffman", "entropy", "paper", "bare"))]
    assert shown.column("accounts", "bytes") == [*accounts, rows[-1]["onnx_bytes"]]


@pytest.mark.parametrize("width", [1280, 500])
def test_its_plots_are_drawn_it_fits_the_screen_and_tables_sort_by_a_click(
    report: Path, tmp_path: Path, width: int
) -> None:
    document, logged = browse(measured(report), tmp_path / "profile", width)
    assert console(logged) == []
    shown = Tables(document)
    assert len(shown.plots) == 7
    for drawn in shown.plots:
        across, down = map(int, drawn.split("x"))
        assert across > 300 and down > 60
    assert int(str(shown.body["data-overflow"])) <= 0
    assert shown.column("layers", "entries")[:6] == [235200, 30000, 1000, 300, 100, 10]
    assert 'aria-sort="descending"' in document


def test_several_runs_load_too(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run(events=None), make_run("other", size=11020, events=None, recipe='name = "smaller"\n')]
    document, logged = browse(page.write(runs, tmp_path / "both.html"), tmp_path / "profile")
    assert console(logged) == []
    assert Tables(document).column("comparison", "file") == [16104, 11020]
