"""compress: a model through a recipe, step by step, with everything a run leaves behind in one folder.

RUN/recipe.toml   what was asked          RUN/rows.jsonl   one measured row per stage; the last is the file's own
RUN/drafts/       the draft of every finished step; resuming loads the last
RUN/model.dct     the result              RUN/model.onnx   the same as plain ONNX, to look at or to deploy
RUN/log.jsonl     every event             RUN/report.html  the account
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from decoct import store
from decoct.account import account, stage_row
from decoct.errors import PlanError, RecipeError, TaskError, TraceError, TrainingError
from decoct.events import emit, listening
from decoct.file import open_file, replacing
from decoct.measure import histogram
from decoct.method import Method, check, timed_step
from decoct.plan import Draft
from decoct.recipe import Recipe
from decoct.report import page
from decoct.report.results import machine
from decoct.runtime import Runtime, load
from decoct.task import Split, Task, call, evaluate

VERSIONS = ("decoct", "torch", "accelerate", "numpy", "constriction", "onnx", "onnxruntime")


def compress(
    model: nn.Module,
    recipe: Recipe | str | Path | Sequence[Method],
    task: Task,
    out: str | Path | None = None,
    resume: bool = False,
) -> Draft:
    """Take a model through the steps of a recipe and return the last draft; the model given is untouched.

    recipe: a Recipe, the path of one, or a list of methods.
    out: the folder of the run; None writes nothing.
    resume: go on from the last finished step that `out` holds.

    Raises TaskError or RecipeError before anything is trained if model, task and steps do not fit; what a run has
    finished stays on disk.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe) if isinstance(recipe, str | Path) else Recipe.from_methods(recipe)
    seed_all(recipe.seed)
    task.check(model)
    draft = Draft.of(model, task)
    for number, (name, method) in enumerate(zip(recipe.names(), recipe.methods(), strict=True), start=1):
        with _named(number, name):
            check(draft, method)
    if out is None:
        for number, (name, method) in enumerate(zip(recipe.names(), recipe.methods(), strict=True), start=1):
            draft = _step(draft, method, task, number, name, recipe.seed)
        return draft
    return _Run(Path(out), recipe, task, resume).go(draft)


def seed_all(seed: int) -> None:
    """Seed every source of chance that decoct draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _step(draft: Draft, method: Method, task: Task, number: int, name: str, seed: int) -> Draft:
    """One step, seeded by its number, so that a resumed run equals one that was never stopped."""
    seed_all(seed * 1_000_003 + number)
    with _named(number, name):
        return timed_step(draft, method, task, number, name)


@contextmanager
def _named(number: int, name: str) -> Iterator[None]:
    """Say of an error which step it arose in."""
    try:
        yield
    except (RecipeError, PlanError, TrainingError, TaskError) as error:
        raise type(error)(f"step {number}, {name}: {error}") from error


class _Run:
    """The folder of one run."""

    def __init__(self, folder: Path, recipe: Recipe, task: Task, resume: bool) -> None:
        self.folder, self.recipe, self.task, self.resume = folder, recipe, task, resume
        self.drafts = folder / "drafts"
        self.rows = folder / "rows.jsonl"
        self.stages = ["start", *(f"{number} {name}" for number, name in enumerate(recipe.names(), start=1))]

    def go(self, start: Draft) -> Draft:
        if not is_main_process():
            return self._follow(start)
        self._open()
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / "log.jsonl").open("a", buffering=1))
            stack.enter_context(listening(lambda event: _log(log, event)))
            emit("environment", **environment(), seed=self.recipe.seed, recipe_hash=self.recipe.hash)
            draft = self._steps(start)
            self._finish(start, draft)
        return draft

    def _open(self) -> None:
        """Make the folder; RecipeError if it holds a run and is not to be resumed, or one of another recipe."""
        text = self.recipe.to_toml()
        written = self.folder / "recipe.toml"
        if not self.resume and self.rows.exists():
            raise RecipeError(f"{self.folder} holds a run already: give --resume to go on with it, or another folder")
        if self.resume and written.exists() and written.read_text() != text:
            raise RecipeError(f"{self.folder} was begun with another recipe ({written}); resume with that one")
        self.drafts.mkdir(parents=True, exist_ok=True)
        page.replace_text(written, text)

    def _follow(self, start: Draft) -> Draft:
        """What another process of the same training does: the steps that the main one does, writing nothing."""
        done = told(-1)
        draft = store.load_draft(self._path(done), start.model, start.call) if done >= 0 else start
        for number in range(max(done, 0) + 1, len(self.stages)):
            draft = self._step(draft, number)
        return draft

    def _steps(self, start: Draft) -> Draft:
        done = told(max((number for number in range(len(self.stages)) if self._path(number).exists()), default=-1))
        draft = start
        if done >= 0:
            draft = store.load_draft(self._path(done), start.model, start.call)
            emit("progress", what=f"resumed after {self.stages[done]}", done=done, total=len(self.stages) - 1)
        rows = {row["stage"]: row for row in read_rows(self.rows)}
        self._keep([rows[stage] for stage in self.stages[: done + 1] if stage in rows])
        for number in range(max(done, 0), len(self.stages)):
            began = time.perf_counter()
            if number > done and number:
                draft = self._step(draft, number)
            seconds = time.perf_counter() - began
            if number > done:
                store.save(draft, self._path(number), graph=False)
            if number > done or self.stages[number] not in rows:
                self._row(draft, self.stages[number], self._path(number).stat().st_size, seconds)
        return draft

    def _step(self, draft: Draft, number: int) -> Draft:
        name, method = self.recipe.names()[number - 1], self.recipe.methods()[number - 1]
        return _step(draft, method, self.task, number, name, self.recipe.seed)

    def _path(self, number: int) -> Path:
        """Where the draft after so many steps lies."""
        return self.drafts / f"{number:02}-{self.stages[number].split()[-1].replace(':', '.')}.dct"

    def _row(self, draft: Draft, stage: str, coded: int, seconds: float) -> None:
        row = stage_row(draft, self.task, stage, coded) | {"seconds": round(seconds, 2)}
        with self.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if stage == "start" or stage.startswith(f"{len(self.recipe.names())} ") or "finetune" in stage:
            for name, weight in draft.weights().items():
                edges, counts = histogram(weight)
                emit("histogram", stage=stage, tensor=name, edges=edges, counts=counts)
        emit("row", **row)

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        page.replace_text(self.rows, "".join(json.dumps(row) + "\n" for row in rows))

    def _finish(self, start: Draft, draft: Draft) -> None:
        """The file, its last row, and the report."""
        path, bare = self.folder / "model.dct", self.recipe.file.bare
        store.save(draft, path, bare=bare)
        reference = None if bare else self._reference(start)
        if not bare:
            agree(draft, path)
            with replacing(self.folder / "model.onnx") as file:
                file.write(load(path).onnx().SerializeToString(deterministic=True))
        score, split = evaluate_file(path, start.model, self.task)
        before = evaluate(self._uncompressed(start).model, self.task, split)
        row = account(draft, self.task, path, reference, score) | {"score_split": split, "score_before": before}
        rows = [each for each in read_rows(self.rows) if each["stage"] != "file"]
        row["seconds"] = round(sum(each["seconds"] for each in rows), 2)
        for warning in row["warnings"]:
            emit("warning", text=warning)
        self._keep([*rows, row])
        emit("row", **row)
        page.write([self.folder], self.folder / "report.html")

    def _uncompressed(self, start: Draft) -> Draft:
        """The draft after the trainings that a recipe begins with: what the result is held against."""
        names = self.recipe.names()
        last = next((number for number, name in enumerate(names) if not name.startswith("train.")), len(names))
        return store.load_draft(self._path(last), start.model, start.call)

    def _reference(self, start: Draft) -> Path:
        """The uncompressed model as a file that runs, to be timed beside the result."""
        path = self.drafts / "reference.dct"
        if not path.exists():
            store.save(replace(self._uncompressed(start), plan=()), path)
        return path


def evaluate_file(path: str | Path, skeleton: nn.Module, task: Task) -> tuple[float, Split]:
    """The score of a file, decoded and run, on the test split if the task has one, else on validation; and which.

    skeleton: the architecture, which a bare file is loaded into; not used for a file that runs by itself.
    """
    split: Split = "validation" if task.test is None else "test"
    bare = open_file(path).bare
    runner = store.load_module(path, skeleton) if bare else as_callable(load(path, threads=torch.get_num_threads()))
    return evaluate(runner, task, split), split


def as_callable(runtime: Runtime) -> Callable[..., Any]:
    """A Runtime that takes and gives torch tensors (several outputs as a tuple), so that a Task can score it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        outputs = runtime(*map(_numpy, args), **{name: _numpy(value) for name, value in kwargs.items()})
        if isinstance(outputs, dict):
            return tuple(map(torch.from_numpy, outputs.values()))
        return torch.from_numpy(outputs)

    return run


def _numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def agree(draft: Draft, path: Path, tolerance: float = 1e-3) -> None:
    """TraceError unless file and draft give the same outputs, to `tolerance`; see :func:`gap`."""
    found = gap(draft, path)
    if not found <= tolerance:
        raise TraceError(
            f"the file's outputs differ from the model's by {found:.2e} of the largest; allowed {tolerance}"
        )


def gap(draft: Draft, path: Path) -> float:
    """The largest difference between a file's outputs and its draft's, as a share of the largest output.

    Both see one random input like the example (whole numbers as they are in it).
    """
    assert draft.call is not None
    generator = torch.Generator().manual_seed(0)
    inputs = tree_map(lambda value: _like(value, generator), draft.call.example)
    model = deepcopy(draft.model).eval()
    with torch.no_grad():
        expected = tree_leaves(call(model, inputs))
    found = tree_leaves(call(as_callable(load(path)), inputs))
    pairs = [(one, other) for one, other in zip(expected, found, strict=False) if one.is_floating_point()]
    return max((float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs), default=0.0)


def _like(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    return value


def environment() -> dict[str, Any]:
    """Versions and machine, for the log and the results."""
    return {
        **{name: version(name) for name in VERSIONS},
        "python": platform.python_version(),
        **machine(),
        "threads": torch.get_num_threads(),
    }


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    from accelerate import PartialState

    return PartialState().is_main_process


def told(value: int) -> int:
    """What the main process says: `value` there, and the same in every other process."""
    from accelerate.utils import broadcast_object_list

    return int(broadcast_object_list([value])[0])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _log(file: Any, event: dict[str, Any]) -> None:
    if event["kind"] not in ("progress", "row"):
        file.write(json.dumps(event) + "\n")
