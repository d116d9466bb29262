"""compress: runs are repeatable to the byte, go on where they stopped, and say what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import decoct
from decoct.errors import RecipeError, TaskError, TrainingError
from decoct.plan import to_json
from decoct.prune.magnitude import Magnitude
from decoct.quantize.cast import Cast
from decoct.quantize.kmeans import KMeans
from decoct.recipe import Recipe
from decoct.run import evaluate_file, read_rows
from decoct.task import Task, evaluate
from decoct.testing import small
from decoct.train.finetune import Finetune

METHODS = [
    Finetune(epochs=2),
    Magnitude(density=0.3, retrain=Finetune(epochs=1)),
    KMeans(bits=3, retrain=Finetune(epochs=1)),
    Cast(),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every step on the small network."""
    folder = tmp_path_factory.mktemp("run") / "run"
    draft, task = small()
    decoct.compress(draft.model, METHODS, task, folder)
    return folder


def test_a_run_leaves_everything_behind(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "recipe.toml", "rows.jsonl", "log.jsonl", "drafts", "model.dct", "model.onnx", "report.html",
    }  # fmt: skip
    stages = [row["stage"] for row in read_rows(finished / "rows.jsonl")]
    names = ["train.finetune", "prune.magnitude", "quantize.kmeans", "quantize.cast"]
    assert stages == ["start", *(f"{number} {name}" for number, name in enumerate(names, start=1)), "file"]


def test_the_last_row_is_the_files_own(finished: Path) -> None:
    row = read_rows(finished / "rows.jsonl")[-1]
    assert row["bytes_coded"] == (finished / "model.dct").stat().st_size == sum(row["sections"].values())
    assert row["bytes_bare"] < row["bytes_coded"] < row["bytes_raw"]
    assert row["nonzeros"] < row["parameters"]
    assert row["score_split"] == "validation"
    assert row["latency_ms"]["median"] > 0
    assert sum(sum(layer["bytes"].values()) for layer in row["layers"]) < row["bytes_coded"]


def test_file_module_and_runtime_agree(finished: Path) -> None:
    draft, task = small()
    runtime = decoct.load(finished / "model.dct")
    module = decoct.load_module(finished / "model.dct", draft.model).eval()
    inputs = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(runtime(inputs.numpy())), module(inputs), rtol=1e-4, atol=1e-5)
    assert evaluate(module, task) == pytest.approx(read_rows(finished / "rows.jsonl")[-1]["score"])
    for name, tensor in module.state_dict().items():
        assert torch.equal(torch.from_numpy(runtime.tensor(name)), tensor)


def test_the_same_recipe_and_seed_give_the_same_file(finished: Path, tmp_path: Path) -> None:
    draft, task = small()
    decoct.compress(draft.model, METHODS, task, tmp_path / "again")
    assert (tmp_path / "again" / "model.dct").read_bytes() == (finished / "model.dct").read_bytes()


def test_a_resumed_run_equals_one_that_was_never_stopped(finished: Path, tmp_path: Path) -> None:
    draft, task = small()

    class Stop(Exception):
        pass

    def stop(event: dict) -> None:
        if event["kind"] == "step" and event["step"] == 2:
            raise Stop

    with pytest.raises(Stop), decoct.events.listening(stop):
        decoct.compress(draft.model, METHODS, task, tmp_path / "run")
    assert [row["stage"] for row in read_rows(tmp_path / "run" / "rows.jsonl")] == ["start", "1 train.finetune"]
    decoct.compress(draft.model, METHODS, task, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model.dct").read_bytes() == (finished / "model.dct").read_bytes()
    stages = [row["stage"] for row in read_rows(tmp_path / "run" / "rows.jsonl")]
    assert stages == [row["stage"] for row in read_rows(finished / "rows.jsonl")]


CUTTING = """
[file]
bare = {bare}

[[step]]
method = "train.finetune"
epochs = 1

[[step]]
method = "prune.filters"
ratio = 0.5
batches = 2

[[step]]
method = "prune.filters"
ratio = 0.4
batches = 2

[step.retrain]
epochs = 1

[[step]]
method = "quantize.kmeans"
bits = 3
"""


@pytest.mark.parametrize(
    ("bare", "normed", "stops"),
    [(False, False, [3]), (True, False, [3, 4]), (True, True, [3, 4])],
    ids=["self-contained", "bare", "bare, with weight norm"],
)
def test_a_run_that_cuts_goes_on_from_the_model_that_came_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bool, normed: bool, stops: list[int]
) -> None:
    """Stopped at a step after the first cut, it gives the same file as never stopped, which loads on the original."""
    monkeypatch.setattr("decoct.account.SECONDS", 0.1)
    draft, task = small()
    if normed:
        torch.nn.utils.parametrizations.weight_norm(draft.model[0])
        torch.nn.utils.parametrizations.weight_norm(draft.model[5])
    recipe = Recipe.parse(CUTTING.format(bare="true" if bare else "false"))
    after = decoct.compress(draft.model, recipe, task, tmp_path / "whole")
    wanted = (tmp_path / "whole" / "model.dct").read_bytes()

    class Stop(Exception):
        pass

    for number in stops:
        run = tmp_path / f"{number}"

        def stop(event: dict, number: int = number) -> None:
            if event["kind"] == "step" and event["step"] == number:
                raise Stop

        with pytest.raises(Stop), decoct.events.listening(stop):
            decoct.compress(draft.model, recipe, task, run)
        assert not (run / "model.dct").exists()
        again = decoct.compress(draft.model, recipe, task, run, resume=True)
        assert (run / "model.dct").read_bytes() == wanted
        assert to_json(again.structure()) == to_json(after.structure())
    assert (after.model[0].out_channels, after.model[1].num_features, after.model[5].in_features) == (1, 1, 4)
    assert draft.model[0].out_channels == 6
    module = decoct.load_module(tmp_path / "whole" / "model.dct", draft.model)
    assert all(torch.equal(tensor, after.model.state_dict()[name]) for name, tensor in module.state_dict().items())
    row = read_rows(tmp_path / "whole" / "rows.jsonl")[-1]
    assert row["score"] == pytest.approx(evaluate(after.model, task))
    assert evaluate_file(tmp_path / "whole" / "model.dct", draft.model, task)[0] == pytest.approx(row["score"])


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of the second step, from outside, and the same command with resume."""
    script = tmp_path / "work.py"
    script.write_text(
        "import os, signal, sys, decoct\n"
        "from decoct.events import listening\n"
        "from decoct.testing import small\n"
        "from decoct.train.finetune import Finetune\n"
        "draft, task = small()\n"
        "epochs = []\n"
        "def die(event):\n"
        "    epochs.extend([0] if event['kind'] == 'epoch' else [])\n"
        "    if sys.argv[2] == 'die' and len(epochs) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "with listening(die):\n"
        "    methods = [Finetune(epochs=1), Finetune(epochs=4)]\n"
        "    decoct.compress(draft.model, methods, task, sys.argv[1], resume=sys.argv[2] == 'resume')\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = tmp_path / "run"
    killed = subprocess.run([sys.executable, str(script), str(run), "die"], env=environment, check=False)
    assert killed.returncode == -9
    assert [path.name for path in sorted((run / "drafts").iterdir())] == ["00-start.dct", "01-train.finetune.dct"]
    subprocess.run([sys.executable, str(script), str(run), "resume"], env=environment, check=True)
    assert read_rows(run / "rows.jsonl")[-1]["stage"] == "file"


def test_a_folder_that_holds_a_run_is_not_overwritten(finished: Path) -> None:
    draft, task = small()
    with pytest.raises(RecipeError, match="--resume"):
        decoct.compress(draft.model, METHODS, task, finished)
    with pytest.raises(RecipeError, match="another recipe"):
        decoct.compress(draft.model, METHODS[:1], task, finished, resume=True)


def test_a_loss_that_breaks_keeps_the_last_good_step(tmp_path: Path) -> None:
    draft, task = small()
    methods = [Finetune(epochs=1), Finetune(epochs=3, lr=1e30, optimizer="sgd")]
    with pytest.raises(TrainingError, match=r"step 2, train\.finetune: the loss became (nan|inf)"):
        decoct.compress(draft.model, methods, task, tmp_path / "run")
    assert (tmp_path / "run" / "drafts" / "01-train.finetune.dct").exists()
    assert not (tmp_path / "run" / "model.dct").exists()


def test_a_glob_that_matches_nothing_is_said_before_training(tmp_path: Path) -> None:
    draft, task = small()
    for method in (Magnitude(tensors="cnv*"), KMeans(bits={"cnv*": 3, "*": 2}), Cast(tensors="cnv*")):
        with pytest.raises(RecipeError, match=r"step 2, .*no tensor matches 'cnv\*'"):
            decoct.compress(draft.model, [Finetune(epochs=1000), method], task, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    draft, task = small()
    wrong = Task(task.train, task.validation, torch.zeros(1, 3, 8, 8), task.loss)
    with pytest.raises(TaskError, match="forward fails"):
        decoct.compress(draft.model, METHODS, wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, task = small()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        decoct.compress(draft.model, METHODS[:1], task, tmp_path / "run")
    assert list((tmp_path / "run" / "drafts").iterdir()) == []


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draft, task = small()
    after = decoct.compress(draft.model, [Magnitude(density=0.5)], task)
    assert after.mask("5.weight") is not None
    assert list(tmp_path.iterdir()) == []


def test_a_bare_run_is_scored_through_the_module(tmp_path: Path) -> None:
    draft, task = small()
    recipe = Recipe.parse('[file]\nbare = true\n[[step]]\nmethod = "quantize.kmeans"\n')
    after = decoct.compress(draft.model, recipe, task, tmp_path / "run")
    row = read_rows(tmp_path / "run" / "rows.jsonl")[-1]
    assert row["bytes_coded"] == row["bytes_bare"]
    assert row["score"] == pytest.approx(evaluate(after.model, task))
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["kind"] == "environment"
