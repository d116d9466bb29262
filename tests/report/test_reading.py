from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decoct.errors import FormatError, RecipeError
from decoct.report import words
from decoct.report.reading import read

Make = Callable[..., Path]


def change(row: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return json.loads(json.dumps(row)) | fields


@pytest.fixture
def lines(make_run: Make) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (make_run("lines") / "rows.jsonl").read_text().splitlines()]


def test_a_run_is_read_whole(make_run: Make) -> None:
    run = read(make_run())
    assert run.name == "lenet-300-100" and run.finished
    assert [row.stage for row in run.rows] == ["start", "1 prune.magnitude", "2 quantize.kmeans", "file"]
    assert run.size_bytes == 16104
    assert run.ratio == pytest.approx(1066440 / 16104)
    assert run.last.error_percent == pytest.approx(1.57)
    assert run.methods == ["prune.magnitude", "quantize.kmeans"]
    assert run.recipe_hash == "0123456789abcdef"
    assert run.seconds == 279.81
    assert run.last.layers[0].touched and not run.last.layers[1].touched


def test_the_size_is_that_of_the_file_itself(make_run: Make) -> None:
    assert read(make_run(size=20000)).size_bytes == 20000
    assert read(make_run("without", size=None)).size_bytes == 16104


def test_what_is_missing_is_left_out(make_run: Make) -> None:
    run = read(make_run("bare", events=None, recipe=None, size=None))
    assert (run.name, run.events, run.recipe, run.model) == ("bare", (), {}, None)


@pytest.mark.parametrize("name", ["nothing", "a file"])
def test_no_run_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(RecipeError, match=r"is not a run directory: .* there"):
        read(tmp_path / name)


def test_a_folder_without_rows(make_run: Make) -> None:
    with pytest.raises(RecipeError, match=r"no rows\.jsonl"):
        read(make_run(rows=None))
    with pytest.raises(RecipeError, match="finished no stage"):
        read(make_run("empty", rows=[]))


def test_damage_is_named_by_line_and_field(make_run: Make, lines: list[dict[str, Any]]) -> None:
    folder = make_run(rows=[lines[0], change(lines[1], bytes_coded="many")])
    with pytest.raises(FormatError, match=r"rows\.jsonl, line 2, bytes_coded: expected a number, found 'many'"):
        read(folder)
    with pytest.raises(FormatError, match=r"line 1: expected an object with a 'stage'"):
        read(make_run("second", rows=[{"score": 1}]))
    with pytest.raises(FormatError, match=r"layers\[0\]: expected an object with a 'name'"):
        read(make_run("third", rows=[change(lines[0], layers=[3])]))
    with pytest.raises(FormatError, match="latency_ms: expected median"):
        read(make_run("fourth", rows=[change(lines[0], latency_ms=3)]))
    with pytest.raises(FormatError, match=r"recipe\.toml: not TOML"):
        read(make_run("fifth", recipe="name = "))


def test_a_line_cut_short_at_the_end_is_left_out_one_in_the_middle_is_not(make_run: Make) -> None:
    folder = make_run()
    text = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(text.rstrip("\n")[:-20])
    run = read(folder)
    assert run.last.stage == "2 quantize.kmeans" and not run.finished
    (folder / "rows.jsonl").write_text("{\n" + text)
    with pytest.raises(FormatError, match="line 1: not JSON"):
        read(folder)


def test_a_score_that_is_no_number_is_none(make_run: Make, lines: list[dict[str, Any]]) -> None:
    folder = make_run(rows=[change(lines[0], score=float("nan"))])
    assert read(folder).first.score is None
    assert words.score(read(folder).first) == "–"


def test_the_verdict_says_all_three(make_run: Make, lines: list[dict[str, Any]]) -> None:
    found = words.verdict(read(make_run(rows=[*lines[:3], change(lines[3], score_before=98.36)])))
    assert found.sentence == (
        "66.2 times smaller (1.07 MB → 16.1 kB); test accuracy 98.36 % → 98.43 % (0.07 points better); "
        "1.42 times slower than what came in."
    )
    assert found.slower


@pytest.mark.parametrize(
    ("median", "said"),
    [(0.0430, "as fast as what came in"), (0.0215, "2.00 times faster than what came in"), (0.09, "slower")],
)
def test_speed(make_run: Make, lines: list[dict[str, Any]], median: float, said: str) -> None:
    latency = {"median": median, "p10": median * 0.99, "p90": median * 1.01}
    run = read(make_run(rows=[lines[0], change(lines[-1], latency_ms=latency)]))
    assert said in words.verdict(run).speed
    assert words.verdict(run).slower == (said == "slower")
    assert any("slower" in text for text in words.warnings(run)) == (said == "slower")


def test_a_slowdown_within_the_spread_is_called_so(make_run: Make, lines: list[dict[str, Any]]) -> None:
    latency = {"median": 0.05, "p10": 0.04, "p90": 0.06}
    run = read(make_run(rows=[lines[0], change(lines[-1], latency_ms=latency)]))
    assert words.verdict(run).speed == "1.16 times slower than what came in, within the spread"


def test_scores_of_two_splits_are_not_compared(make_run: Make, lines: list[dict[str, Any]]) -> None:
    said = words.verdict(read(make_run(rows=lines))).score
    assert said == "test accuracy 98.43 %; validation accuracy 98.36 % → 98.38 % (0.02 points better)"
    alone = words.verdict(read(make_run("alone", rows=[lines[0], lines[3]]))).score
    assert alone == "test accuracy 98.43 % (before: not measured on the same data)"


def test_an_accuracy_may_be_a_share(make_run: Make, lines: list[dict[str, Any]]) -> None:
    rows = [change(row, score=row["score"] / 100) for row in lines]
    run, percent = read(make_run(rows=rows)), read(make_run("percent", rows=lines))
    assert run.last.error_percent == percent.last.error_percent == pytest.approx(1.57)
    assert words.verdict(run) == words.verdict(percent)


def test_a_recipe_that_trains_first_is_held_against_the_trained_model(
    make_run: Make, lines: list[dict[str, Any]]
) -> None:
    rows = [change(lines[0], score=10.0), change(lines[1], stage="1 train.finetune"), *lines[2:3]]
    recipe = '[model]\nfactory = "m:f"\n[[step]]\nmethod = "train.finetune"\n'
    run = read(make_run(rows=rows, recipe=recipe))
    assert run.trained.stage == "1 train.finetune"
    assert "98.40 % → 98.38 % (0.02 points worse)" in words.verdict(run).score
    ready = read(make_run("ready", rows=rows, recipe=recipe.replace('"m:f"', '"m:f"\nweights = "w"')))
    assert ready.trained.stage == "start"


def test_larger_and_lower_is_better(make_run: Make, lines: list[dict[str, Any]]) -> None:
    first = change(lines[0], score_name="perplexity", score=20.0, higher_is_better=False)
    last = change(first, stage="file", score=22.0, bytes_coded=2 * 1066440)
    run = read(make_run(rows=[first, last], size=None))
    assert words.verdict(run).sentence == (
        "2.00 times larger (1.07 MB → 2.13 MB); validation perplexity 20.00 → 22.00 (2.00 worse)."
    )
    assert any("larger than what came in" in text for text in words.warnings(run))


def test_little_touched_is_a_warning(make_run: Make, lines: list[dict[str, Any]]) -> None:
    small, big = lines[-1]["layers"][2], lines[-1]["layers"][0]
    plain = big | {"bytes": {"values": 4 * big["parameters"]}}
    run = read(make_run(rows=[lines[0], change(lines[-1], layers=[small, plain])]))
    assert words.touched(run.last).bytes == pytest.approx(30000 / 265200)
    assert any(text.startswith("Little was touched: only 11.3 %") for text in words.warnings(run))


def test_the_account_says_that_zeros_save_no_time(make_run: Make) -> None:
    said = " ".join(words.account(read(make_run())))
    assert "All 266,200 multiply-accumulates per example are still carried out." in said
    assert "zeros save bytes, not time" in said
    assert "11,918 of 266,610 parameters are not zero (4.5 %)." in said


def test_warnings_of_rows_and_log_stand_once(make_run: Make) -> None:
    text = "the threads were shared with another process"
    run = read(make_run(events=[{"kind": "warning", "text": text}, {"kind": "warning", "text": "more"}]))
    assert words.warnings(run).count(text) == 1
    assert words.warnings(run)[-1] == "more"
