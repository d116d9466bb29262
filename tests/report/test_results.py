from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from decoct.errors import FormatError, RecipeError
from decoct.report import results
from decoct.report.published import compare

Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def test_a_result_holds_what_was_measured(make_run: Make, tmp_path: Path) -> None:
    path = results.record(make_run(), "lenet", tmp_path / "results", command="make lenet")
    kept = json.loads(path.read_text())
    expected = {
        "name": "lenet", "command": "make lenet", "recipe_hash": "0123456789abcdef", "seed": 7, "bytes": 16104,
        "bytes_bare": 14903, "bytes_raw": 1066440, "ratio": 66.2221, "score": 98.43, "score_name": "accuracy",
        "score_split": "test", "score_before": None, "error_percent": 1.57,
        "error_before_percent": None, "parameters": 266610, "nonzeros": 11918,
        "seconds": 279.81, "bytes_paper": 13120, "bytes_huffman": 17201, "bytes_ans": 16104, "bytes_entropy": 14480.4,
        "methods": ["prune.magnitude", "quantize.kmeans"],
        "versions": {"decoct": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "machine": {"machine": "A processor", "cores": 2, "threads": 2, "platform": "Linux"},
    }  # fmt: skip
    assert {key: kept[key] for key in expected} == expected
    assert kept["latency"]["median_ms"] == 0.0612 and kept["latency"]["reference_p90_ms"] == 0.046
    assert kept["recipe"]["step"][1] == {"method": "quantize.kmeans", "bits": 5}
    assert kept["published"]["ratio"] == 40
    assert (tmp_path / "results" / "lenet.dct").stat().st_size == 16104


def test_the_score_before_is_kept_where_it_was_measured(make_run: Make, tmp_path: Path) -> None:
    folder = make_run()
    lines = (folder / "rows.jsonl").read_text().splitlines()
    last = json.loads(lines[-1]) | {"score_before": 98.36}
    (folder / "rows.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]))
    results.record(folder, "lenet", tmp_path / "results")
    kept = results.load(tmp_path / "results")
    assert (kept[0]["score_before"], kept[0]["error_before_percent"]) == (98.36, 1.64)
    assert "| `lenet` | 16,104 | 66.2× | 1.57 % error | 1.64 % error |" in results.render(kept)


def test_a_large_file_is_not_kept_and_a_stale_one_goes(make_run: Make, tmp_path: Path) -> None:
    results.record(make_run(), "lenet", tmp_path / "results")
    results.record(make_run("big", size=results.SMALL), "lenet", tmp_path / "results")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["lenet.json"]


def test_an_unfinished_run_has_no_result(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="its last stage is 'start'; finish the run first"):
        results.record(make_run(rows=[{"stage": "start"}]), "lenet", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_page_says_met_and_missed(make_run: Make, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    results.record(make_run(), "lenet", folder)
    results.record(make_run("big", size=30000), "lenet-big", folder)
    page = results.render(results.load(folder))
    assert "## Pruning and quantization" in page
    assert "| `lenet` | file size | 26.6 kB [read] | 16.1 kB | met | Han et al. 2016" in page
    assert "| `lenet-big` | file size | 26.6 kB [read] | 30.0 kB | **missed** |" in page
    assert "decoct eval results/lenet.dct recipes/lenet.toml" in page
    assert "A processor, 2 cores, 2 threads, torch 2.13.0, seed 7" in page


def test_a_benchmark_is_a_table(tmp_path: Path) -> None:
    data = {"benchmark": True, "title": "Packing", "command": "python benchmarks/pack.py", "seconds_limit": 60,
            "machine": {"cpu": "A processor", "cores": 2},
            "table": [{"weights": "a|b", "peak_bytes": 1_234_567_890, "seconds": 12.345},
                      {"weights": "c", "ok": True, "ratio": 0.999987}]}  # fmt: skip
    (tmp_path / "pack.json").write_text(json.dumps(data))
    page = results.render(results.load(tmp_path))
    assert "## Benchmarks\n\n### Packing\n" in page
    assert "| weights | peak bytes | seconds | ok | ratio |" in page
    assert "| a\\|b | 1.23 GB | 12.35 | – | – |" in page
    assert "| c | – | – | yes | 0.999987 |" in page
    assert "- seconds limit: 60" in page
    assert "# A processor, 2 cores\npython benchmarks/pack.py" in page


def test_damaged_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FormatError, match=r"bad\.json: not JSON"):
        results.load(tmp_path)


def test_check_fails_when_the_page_is_stale(make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "results", tmp_path / "docs" / "results.md"
    results.record(make_run(), "lenet", folder)
    given = ["--results", str(folder), "--out", str(out)]
    assert results.main([*given, "--check"]) == 1
    assert "run python -m decoct.report.results" in capsys.readouterr().err
    assert results.main(given) == 0
    assert results.main([*given, "--check"]) == 0
    results.record(make_run("other", size=9), "lenet", folder)
    assert results.main([*given, "--check"]) == 1


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"figure": 40, "unit": "times smaller", "source": "s", "tag": "read"}, [("times smaller", "met")]),
        ({"figure": 12, "unit": "times fewer weights", "source": "s"}, [("times fewer weights", "missed")]),
        ([{"bytes": 100}, {"error_percent": 1.58}], [("file size", "met"), ("error", "missed")]),
        ({"source": "s", "bytes": {"figure": 90}}, [("file size", "missed")]),
        ({"figure": 1, "unit": "parsecs", "source": "s"}, []),
        ({"density": 0.1}, [("share of weights left", "not measured")]),
        (None, []),
    ],
)
def test_published_figures(published: object, said: list[tuple[str, str]]) -> None:
    ours = {"ratio": 41.0, "weights_ratio": 11.9, "bytes": 99, "error_percent": 1.6}
    assert [(claim.what, claim.outcome) for claim in compare(published, ours)] == said


def test_the_picture_is_drawn_from_results(make_run: Make, tmp_path: Path) -> None:
    results.record(make_run(), "lenet", tmp_path / "results")
    script = ROOT / "benchmarks" / "picture.py"
    out = tmp_path / "picture.svg"
    subprocess.run([sys.executable, script, "--results", tmp_path / "results", "--out", out], check=True)
    text = out.read_text()
    assert text.startswith("<svg xmlns=") and "prefers-color-scheme:dark" in text
    assert "decoct, lenet" in text and "Han et al. 2016" in text
    assert "16.1 kB, 1.57 %" in text
