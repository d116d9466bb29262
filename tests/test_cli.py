"""The commands: what they print, what they leave behind, and with which code they end."""

from __future__ import annotations

import json
import os
import re
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


NETS = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.back = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.conv2, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.back(self.bn1(self.conv1(x)).relu())
        return self.fc(self.pooled(self.conv2(x)))

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Fixed(Net):
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), 6, -1).mean(2)


def choosy(x):
    raise RuntimeError("no")
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_project.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nets")
def test_groups_lists_what_can_be_cut_and_what_cannot() -> None:
    words = ["groups", "nets_project:Net", "--example", "2,3,4,4"]
    found = json.loads(ok(*words, "--json"))
    assert [(group["name"], group["units"], group["check"]) for group in found["groups"]] == [
        ("conv1", 8, None), ("conv2", 6, None),
    ]  # fmt: skip
    assert found["groups"][1]["tensors"] == [["conv2.weight", 0], ["conv2.bias", 0], ["fc.weight", 1]]
    per_pixel = 3 * 8 * 9 + 8 * 3 + 3 * 6
    assert found["macs"] == 2 * (16 * per_pixel + 6 * 5)
    assert found["groups"][1]["macs_share"] == pytest.approx((16 * 3 * 6 + 6 * 5) / (16 * per_pixel + 6 * 5))
    stays = {(each["tensor"], each["dim"]): each for each in found["frozen"]}
    assert stays["back.weight", 0]["positions"] == 3 and stays["back.bias", 0]["reason"]
    assert "output" in stays["fc.weight", 0]["reason"]
    shown = ok(*words)
    assert re.search(r"^conv1 +8 +[\d.]+ % +conv1\[0\], bn1\[0\], back\[1\]$", shown, re.MULTILINE)
    assert re.search(r"^back\[0\] +3 of 3 +\w+", shown, re.MULTILINE)
    assert shown.count("back[0]") == shown.count("fc[0]") == 1, "a bias goes with its weight"


@pytest.mark.usefixtures("nets")
def test_groups_are_tried_on_demand() -> None:
    words = ["--example", "2,3,4,4", "--verify"]
    shown = ok("groups", "nets_project:Net", *words)
    assert re.findall(r"^(\w+) .* ok *$", shown, re.MULTILINE) == ["conv1", "conv2"]
    found = json.loads(ok("groups", "nets_project:Fixed", *words, "--json"))
    checks = {group["name"]: group["check"] for group in found["groups"]}
    assert checks["conv1"] == "ok" and "the smaller model does not run" in checks["conv2"]


def test_groups_of_a_recipe(done: Path) -> None:
    found = json.loads(ok("groups", done / "tiny.toml", "--json"))
    assert [(group["name"], group["units"]) for group in found["groups"]] == [("0", 16)]
    assert found["macs"] == 8 * 16 + 16 * 3
    other = json.loads(ok("groups", done / "tiny.toml", "--example", "5,8", "--json"))
    assert other["macs"] == 5 * found["macs"], "the shape that is given counts"


@pytest.mark.usefixtures("nets")
def test_groups_says_what_is_wrong_with_model_or_example() -> None:
    example = ["--example", "2,3,4,4"]
    assert "did you mean 'Net'" in failed(1, "groups", "nets_project:Ned", *example)
    assert failed(1, "groups", "nowhere:x", *example).startswith(
        "error: nowhere:x: [model]: 'nowhere' cannot be imported"
    )
    assert "its arguments: x" in failed(1, "groups", "nets_project:choosy", *example)
    said = failed(1, "groups", "nets_project:Net", "--example", "2,1,4,4")
    assert said.startswith("error: the model's forward fails on the example: RuntimeError: Given groups=1")
    assert said.count("\n") == 1
    assert "cannot be read as a recipe" in failed(1, "groups", "none.toml")
    assert "--example 1,3,32,32" in failed(2, "groups", "nets_project:Net")
    for text in ("1,x", "", "1,,2", "-1,3", "0,3"):
        failed(2, "groups", "nets_project:Net", "--example", text)


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
