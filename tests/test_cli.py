"""The commands: what they print, what they leave behind, and with which code they end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

import decoct
from decoct import run
from decoct.cli import app
from decoct.file import open_file
from decoct.quantize.kmeans import KMeans

HOSTILE = Path(__file__).parent / "hostile"


def decoct_(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def ok(*args: str | Path) -> str:
    result = decoct_(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(code: int, *args: str | Path) -> str:
    """The message of a command that ends with `code`: on stderr, and without a traceback."""
    result = decoct_(*args)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    values = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    save_file({"a": values, "b": np.arange(5, dtype=np.int64)}, path)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe's run."""
    from conftest import RECIPE, TINY

    folder = tmp_path_factory.mktemp("done")
    (folder / "tiny_project.py").write_text(TINY)
    (folder / "tiny.toml").write_text(RECIPE)
    ok("compress", folder / "tiny.toml", "-o", folder / "run", "--cpu")
    return folder


def test_compress_leaves_a_run_prints_it_and_records_it(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = done / "again"
    words = ["compress", done / "tiny.toml", "-o", folder, "--results", done / "results", "--name", "small"]
    monkeypatch.setattr(sys, "argv", ["decoct", *map(str, words)])
    result = decoct_(*words)
    assert result.exit_code == 0, result.output
    left = {path.name for path in folder.iterdir()}
    assert {"model.dct", "model.onnx", "rows.jsonl", "report.html", "log.jsonl", "recipe.toml"} <= left
    for stage in ("start", "1 train.finetune", "2 prune.magnitude", "3 quantize.kmeans", "file"):
        assert stage in result.stdout
    assert str(folder / "report.html") in result.stdout
    assert "2 prune.magnitude: accuracy" in result.stderr, "what goes on is told while it does"
    assert (folder / "model.dct").read_bytes() == (done / "run" / "model.dct").read_bytes()
    assert (done / "results" / "small.dct").read_bytes() == (folder / "model.dct").read_bytes()
    assert json.loads((done / "results" / "small.json").read_text())["command"].startswith("decoct compress ")


def test_a_stopped_run_goes_on_to_the_same_file(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["decoct", "compress"])
    with monkeypatch.context() as stopped:
        stopped.setattr(KMeans, "plan", stop)
        said = failed(130, "compress", done / "tiny.toml", "-o", done / "stopped")
    assert said.strip().endswith("stopped; go on with the same command and --resume")
    assert not (done / "stopped" / "model.dct").exists()
    assert "holds a run already" in failed(1, "compress", done / "tiny.toml", "-o", done / "stopped")
    result = decoct_("compress", done / "tiny.toml", "-o", done / "stopped", "--resume")
    assert result.exit_code == 0, result.output
    assert "1 train.finetune:" not in result.stderr, "a finished step is not done again"
    assert (done / "stopped" / "model.dct").read_bytes() == (done / "run" / "model.dct").read_bytes()


def test_seed_and_settings_of_accelerate(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def compress(model: Any, recipe: Any, task: Any, out: Any, resume: Any) -> None:
        asked.update(seed=recipe.seed, out=out, resume=resume, cpu=os.environ.get("ACCELERATE_USE_CPU"))
        asked.update(
            device=os.environ.get("ACCELERATE_TORCH_DEVICE"), precision=os.environ["ACCELERATE_MIXED_PRECISION"]
        )
        raise decoct.TrainingError("enough")

    monkeypatch.setattr(run, "compress", compress)
    recipe = done / "tiny.toml"
    assert failed(1, "compress", recipe, "--seed", "7", "--cpu", "--mixed-precision", "bf16") == "error: enough\n"
    assert asked == {
        "seed": 7,
        "out": Path("runs/tiny"),
        "resume": False,
        "cpu": "true",
        "device": None,
        "precision": "bf16",
    }
    failed(1, "compress", recipe, "--device", "cuda:1", "--resume")
    assert (asked["seed"], asked["device"], asked["resume"]) == (1, "cuda:1", True)


def test_eval_scores_the_file_on_the_test_data(done: Path) -> None:
    rows = run.read_rows(done / "run" / "rows.jsonl")
    found = json.loads(ok("eval", done / "run" / "model.dct", done / "tiny.toml", "--json"))
    assert found["score"] == pytest.approx(rows[-1]["score"])
    assert found["score_split"] == "test"
    assert found["bytes"] == (done / "run" / "model.dct").stat().st_size
    said = ok("eval", done / "run" / "model.dct", done / "tiny.toml")
    assert said.startswith(f"accuracy {found['score']:.6g} on test")
    assert "decoded and run" in said


def test_a_bare_file_is_scored_and_shown_with_its_recipe(done: Path, tmp_path: Path) -> None:
    recipe = done / "tiny.toml"
    asked = decoct.Recipe.load(recipe)
    bare = tmp_path / "bare.dct"
    decoct.Draft.of(asked.build_model(), asked.build_task()).save(bare, bare=True)
    assert "on test" in ok("eval", bare, recipe)
    shown = decoct_("inspect", bare)
    assert "give --recipe" in shown.stderr
    assert "2.weight" not in shown.stdout
    assert "2.weight" in ok("inspect", bare, "--recipe", recipe)
    ok("export", bare, "--recipe", recipe, "-o", tmp_path / "bare.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "bare.onnx"))
    assert "graph" in failed(1, "export", bare, "-o", tmp_path / "none.onnx")


def test_inspect_shows_every_tensor(done: Path) -> None:
    path = done / "run" / "model.dct"
    held = json.loads(ok("inspect", path, "--json"))
    assert held["total_bytes"] == path.stat().st_size == sum(held["sections"].values())
    shown = ok("inspect", path)
    for tensor in held["tensors"]:
        line = next(line for line in shown.splitlines() if line.startswith(tensor["name"]))
        assert f"{tensor['bytes']:,}" in line


def test_pack_and_unpack_weights(weights: Path) -> None:
    packed, back = weights.with_name("w.dct"), weights.with_name("back.safetensors")
    ok("pack", weights, "-o", packed)
    ok("unpack", packed, "-o", back)
    before, after = load_file(weights), load_file(back)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("mode", "largest"), [(["--bits", "8"], 0.03), (["--half"], 0.002), (["--step", "0.1"], 0.051)]
)
def test_pack_rounds_as_asked(weights: Path, mode: list[str], largest: float) -> None:
    ok("pack", weights, *mode)
    gap = np.abs(open_file(weights.with_suffix(".dct")).tensor("a") - load_file(weights)["a"]).max()
    assert 0 < gap <= largest


def test_a_packed_network_runs_and_is_exported(network: Path) -> None:
    packed, back = network.with_suffix(".dct"), network.with_name("back.onnx")
    ok("pack", network)
    x = np.ones((2, 32), np.float32)
    expected = decoct.load(packed)(x)
    ok("export", packed, "--to", "onnx", "-o", back)
    ok("pack", back, "-o", network.with_name("twice.dct"))
    assert np.array_equal(decoct.load(network.with_name("twice.dct"))(x), expected)


def test_bench_measures_side_by_side(network: Path) -> None:
    ok("pack", network)
    packed = network.with_suffix(".dct")
    found = json.loads(ok("bench", packed, network, "--seconds", "0.01", "--json"))
    assert [one["name"] for one in found] == [str(packed), str(network)]
    assert found[0]["size_bytes"] == packed.stat().st_size
    assert "line.onnx" in ok("bench", packed, network, "--seconds", "0.01")


def test_methods_are_listed_and_shown() -> None:
    found = json.loads(ok("methods", "--json"))
    assert {"train.finetune", "prune.magnitude", "quantize.kmeans", "coding.ans"} <= set(found)
    assert all(name in ok("methods") for name in found)
    shown = ok("methods", "quantize.kmeans")
    assert "arXiv" in shown
    assert all(field["name"] in shown for field in found["quantize.kmeans"]["fields"])
    assert "did you mean 'quantize.kmeans'" in failed(1, "methods", "quantize.kmean")
    assert json.loads(ok("methods", "--schema"))["title"] == "Recipe"


def test_report_puts_runs_side_by_side(done: Path, tmp_path: Path) -> None:
    page = tmp_path / "both.html"
    ok("report", done / "run", done / "run", "-o", page)
    assert "prune.magnitude" in page.read_text()


def test_a_users_mistake_is_one_message(tiny: Path, weights: Path, tmp_path: Path) -> None:
    said = failed(1, "inspect", HOSTILE / "magic.dct")
    assert said.startswith("error: ")
    assert "magic.dct, byte 0" in said
    tiny.write_text(tiny.read_text().replace("density", "densty"))
    assert "did you mean 'density'" in failed(1, "compress", tiny, "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "cannot pack" in failed(1, "pack", tiny)
    assert "No such file" in failed(1, "pack", weights, "-o", tmp_path / "none" / "x.dct")


def test_wrong_usage_ends_with_2(weights: Path, tmp_path: Path) -> None:
    failed(2, "inspect", tmp_path / "none.dct")
    failed(2, "frobnicate")
    failed(2, "pack", weights, "--half", "--bits", "8")
    failed(2, "export", HOSTILE / "magic.dct", "--to", "tflite", "-o", tmp_path / "x.onnx")
    failed(2, "compress", weights, "--seed", "-1")


def test_debug_shows_where_an_error_arose() -> None:
    result = decoct_("--debug", "inspect", HOSTILE / "magic.dct")
    assert isinstance(result.exception, decoct.FormatError)


def limited(*args: str | Path, most_bytes: int) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own that may write no file beyond so many bytes, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "decoct", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)


def test_a_full_disk_leaves_no_half_file(weights: Path) -> None:
    before = set(weights.parent.iterdir())
    result = limited("pack", weights, "-o", weights.with_name("w.dct"), most_bytes=4096)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert set(weights.parent.iterdir()) == before


def test_a_missing_extra_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    """A finder that hides torch stands in for an install without the extra."""
    hide = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from decoct.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", hide, "compress", str(tiny), "-o", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == 'error: decoct compress needs torch: pip install "decoct[compress]"\n'
