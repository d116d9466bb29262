from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decoct.errors import FormatError, RecipeError
from decoct.report import page, plots
from decoct.report.reading import read

Make = Callable[..., Path]
Cut = Callable[[dict[str, tuple[int, int]], int], dict[str, Any]]


def text_of(folder: Path) -> str:
    return page.render([read(folder)])


def changed(folder: Path, **fields: Any) -> Path:
    """The same run with other fields in its last row."""
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | fields)]) + "\n")
    return folder


def test_the_page_asks_for_nothing(make_run: Make) -> None:
    text = text_of(make_run())
    for address in re.findall(r'(?:src|href|action|poster|data)="([^"]*)"', text):
        assert address.startswith("#") or address == "data:,", address
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text
    assert len(text.encode()) < 200_000


def test_the_same_run_gives_the_same_page(make_run: Make) -> None:
    folder = make_run()
    assert text_of(folder) == text_of(folder)


def test_every_section_is_there_and_goes_when_its_data_is_not(make_run: Make) -> None:
    whole = text_of(make_run())
    for part in ("stages", "bytes", "accounts", "published", "widths", "weights", "training", "sensitivity", "recipe"):
        assert f'<section id="run-1-{part}"' in whole
        assert f'href="#run-1-{part}"' in whole
    assert whole.count("<svg") == 7
    rows = [{"stage": "start", "bytes_raw": 400, "bytes_coded": 100}]
    least = text_of(make_run("least", rows=rows, events=None, recipe=None, size=None))
    assert re.findall(r'<section id="run-1-(\w+)"', least) == ["stages", "recipe"]
    assert "has not finished" in least
    only = text_of(make_run("only", rows=[{"stage": "start"}], events=None, recipe=None, size=None))
    assert "<svg" not in only


def test_what_comes_from_the_run_is_escaped(make_run: Make, cut: Cut) -> None:
    evil = '<script>alert(1)</script>&"$x^2$'
    folder = make_run(recipe=f"name = '''{evil}'''", events=[
        {"kind": "environment", "machine": evil},
        {"kind": "histogram", "stage": "start", "tensor": evil, "edges": [0, 1], "counts": [1]},
        {"kind": "sensitivity", "tensor": evil, "density": [0.5, 0.1], "score": [0.9, 0.8]},
        {"kind": "epoch", "epoch": 1, "loss": 0.1, "validation": 0.9},
        cut({evil: (8, 4)}, 100_000),
        {"kind": "step", "step": 1, "method": evil, "seconds": 1},
    ])  # fmt: skip
    layer = {"name": evil, "shape": [1], "parameters": 9, "nonzeros": 9, "bytes": {evil: 3, "values": 9}, "coder": evil}
    changed(folder, warnings=[evil], layers=[layer], sections={evil: 3}, score_name=evil, score_split=evil)
    text = text_of(folder)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "$x^2$" in text


def test_no_plot_keeps_a_colour_of_its_own(make_run: Make) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", text_of(make_run()), flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    assert "DejaVu" not in drawn
    defined = re.findall(r' id="([^"]+)"', drawn)
    assert len(defined) == len(set(defined))


def test_drawing_leaves_matplotlib_as_it_was(make_run: Make) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    text_of(make_run())
    assert dict(matplotlib.rcParams) == before


def test_several_runs_stand_side_by_side(make_run: Make, tmp_path: Path) -> None:
    other = make_run("other", size=11020, recipe='name = "smaller"\n', events=None)
    out = page.write([make_run(), other], tmp_path / "new" / "both.html")
    text = out.read_text()
    assert "2 runs side by side" in text and 'class="plot comparison"' in text
    assert 'id="run-1"' in text and 'id="run-2"' in text
    assert 'data-value="11020" title="11,020 bytes">11.0 kB' in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_page_is_written_whole_or_not_at_all(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = make_run(events=None), tmp_path / "out" / "report.html"
    page.write([folder], out)
    before = out.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    for name in ("replace", "rename"):
        monkeypatch.setattr(Path, name, full)
        monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match="no space"):
        page.write([folder], out)
    monkeypatch.undo()
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no run to report"):
        page.write([], tmp_path / "report.html")
    with pytest.raises(RecipeError, match="not a run directory"):
        page.write([tmp_path / "missing"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_log_is_named(make_run: Make) -> None:
    with pytest.raises(FormatError, match=r"log\.jsonl: edges of a histogram is a list of numbers"):
        text_of(make_run(events=[{"kind": "histogram", "stage": "start", "tensor": "w", "edges": None, "counts": []}]))
    short = {"kind": "histogram", "stage": "start", "tensor": "w", "edges": [0, 1], "counts": [1, 2]}
    with pytest.raises(FormatError, match="needs one more edge"):
        text_of(make_run("short", events=[short]))


def test_epochs_that_a_stopped_run_did_twice_stand_once(make_run: Make) -> None:
    epoch = {"kind": "epoch", "epoch": 1, "loss": 0.1, "validation": 0.9}
    start, end = {"kind": "environment"}, {"kind": "step", "step": 1, "method": "prune.magnitude", "seconds": 1}
    run = read(make_run(events=[start, epoch, epoch, start, epoch, end, epoch]))
    assert [(name, len(epochs)) for name, epochs in page._by_step(run, "epoch")] == [
        ("1 prune.magnitude", 1),
        ("unfinished", 1),
    ]


def test_many_layers_are_cut_to_the_largest(make_run: Make) -> None:
    def layer(place: int) -> dict[str, Any]:
        return {"name": f"l{place:02}", "shape": [9], "parameters": 99, "nonzeros": 9, "bytes": {"values": place}}

    folder = changed(make_run(), layers=[layer(place) for place in range(60)])
    drawn = plots.layers(read(folder).last.layers)
    assert re.findall(r">(l\d\d)<", drawn) == [f"l{place:02}" for place in range(60 - 2 * plots.MOST, 60)]
    assert text_of(folder).count('scope="row">l') == 60


def test_what_a_step_cut_is_drawn_and_tabled_from_before_its_first_round_to_after_its_last(make_run: Make) -> None:
    run = read(make_run())
    (found,) = page._narrowings(run)
    assert found == page.Narrowing("1 prune.magnitude", {"fc1": (300, 240), "fc2": (100, 90)}, (266200, 212960))
    drawn = plots.widths(found.groups)
    assert re.findall(r">(fc\d|\d+ → \d+)<", drawn) == ["fc1", "fc2", "300 → 240", "100 → 90"]
    text = page.render([run])
    assert "Multiply-accumulates of one example: 266 k → 213 k." in text
    row = text[text.index('<table class="widths fit">') :].partition("</table>")[0]
    assert re.findall(r'data-value="([^"]+)"', row) == ["300", "240", "0.8", "100", "90", "0.9"]


def test_a_step_has_its_own_figure_and_one_that_cut_nothing_has_none(make_run: Make, cut: Cut) -> None:
    def step(number: int) -> dict[str, Any]:
        return {"kind": "step", "step": number, "method": "prune.filters", "seconds": 1}

    events = [
        cut({"a": (8, 4)}, 100_000),
        step(1),
        cut({"a": (4, 4)}, 50_000),
        step(2),
        cut({"a": (4, 2)}, 50_000),
        step(3),
    ]
    text = text_of(make_run(events=events))
    drawn = re.findall(r'<svg class="plot widths".*?</svg>', text, flags=re.DOTALL)
    assert [re.findall(r">(\d → \d)<", each) for each in drawn] == [["8 → 4"], ["4 → 2"]]
    assert "All groups of 1 prune.filters." in text and "All groups of 3 prune.filters." in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_step_that_was_stopped_and_done_again_was_cut_once(make_run: Make, cut: Cut) -> None:
    again, step = {"kind": "environment"}, {"kind": "step", "step": 1, "method": "prune.filters", "seconds": 1}
    run = read(make_run(events=[cut({"a": (8, 6)}, 9), again, cut({"a": (8, 4)}, 9), step]))
    assert [each.groups for each in page._narrowings(run)] == [{"a": (8, 4)}]


def test_many_groups_are_cut_to_those_that_lost_most(make_run: Make, cut: Cut) -> None:
    groups = {f"g{place:02}": (99, 99 - place) for place in range(60)}
    drawn = plots.widths(groups)
    assert re.findall(r">(g\d\d)<", drawn) == [f"g{place:02}" for place in range(60 - 2 * plots.MOST, 60)]
    text = text_of(make_run(events=[cut(groups, 100_000)]))
    assert "The 24 of 60 groups that lost most." in text
    assert len(re.findall(r'scope="row">g\d\d<', text)) == 60


@pytest.mark.parametrize("groups", [None, [3], [{"name": "a", "before": "many", "after": 1}]])
def test_damaged_widths_are_named(make_run: Make, groups: object) -> None:
    with pytest.raises(FormatError, match=r"log\.jsonl, groups of widths: expected"):
        text_of(make_run(events=[{"kind": "widths", "groups": groups, "macs_before": 1, "macs_after": 1}]))


def test_what_was_cut_out_is_not_a_weight_that_is_left(make_run: Make) -> None:
    folder = changed(make_run(events=None, recipe="[published]\ndensity = 0.5\n"), parameters=133305, nonzeros=133305)
    text = text_of(folder)
    assert "133 k of 267 k" in text
    assert "Parameters: 266,610 → 133,305 (50.0 %); the others were cut out." in text
    assert [claim.our_value for claim in page.claims(read(folder))] == [0.5]
