"""The checks that every method of decoct passes, for authors of methods of their own as well.

>>> from decoct.quantize.cast import Cast
>>> check_method(Cast(), *small())
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from decoct import store
from decoct.apply import apply, extend
from decoct.errors import PlanError
from decoct.method import Method
from decoct.plan import Draft, Edit, Keep, from_json, to_json
from decoct.run import gap
from decoct.task import Task


class MethodError(AssertionError):
    """A method breaks one of the rules of decoct."""


def small(seed: int = 0) -> tuple[Draft, Task]:
    """A small convolutional network with BatchNorm and a task of 64 random images in 4 classes, seeded."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(64, 1, 8, 8, generator=generator), torch.arange(64) % 4
    inputs += targets.view(-1, 1, 1, 1)
    batches = [(inputs[start : start + 16], targets[start : start + 16]) for start in range(0, 64, 16)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(4),
            nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4),
        )  # fmt: skip
    task = Task(train=batches, validation=batches, example=inputs[:1], loss=F.cross_entropy)
    return Draft.of(model, task), task


def check_method(method: Method, draft: Draft, task: Task, tolerance: float = 1e-4) -> None:
    """Raise MethodError, saying which, unless `method` keeps every rule on this draft and task.

    The model given is untouched by planning; a plan survives JSON; the same seed gives the same plan; applying it twice
    is applying it once, or, of a plan that cuts, replaying it on the model that came in gives the model that was
    planned, and on one that is cut already it is refused; the file that is saved holds the draft's tensors and promises
    exactly, and what runs from it agrees with the draft within `tolerance` of the largest output.

    draft: with a model that nothing has been cut from yet.
    """
    before = {name: tensor.clone() for name, tensor in draft.model.state_dict().items()}
    edits = _planned(method, draft, task)
    if not _equal(before, draft.model.state_dict()):
        raise MethodError(f"{method} alters the model that it plans for")
    if to_json(from_json(to_json(edits))) != to_json(edits):
        raise MethodError(f"{method}: its edits do not survive JSON")
    if to_json(_planned(method, draft, task)) != to_json(edits):
        raise MethodError(f"{method}: the same seed gives another plan")
    after = extend(draft, edits)
    if any(isinstance(edit, Keep) and len(edit.index) < edit.size for edit in edits):
        _check_replay(method, draft, after)
    else:
        _check_twice(method, after, edits)
    _check_file(method, draft, after, tolerance)


def _planned(method: Method, draft: Draft, task: Task) -> list[Edit]:
    torch.manual_seed(0)
    return method.plan(draft, task)


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _check_twice(method: Method, after: Draft, edits: list[Edit]) -> None:
    """Edits that leave shapes as they are can be applied again and change nothing."""
    if not _equal(after.model.state_dict(), apply(after.model, edits).state_dict()):
        raise MethodError(f"{method}: applying its edits twice is not applying them once")
    if to_json(extend(after, edits).plan) != to_json(after.plan):
        raise MethodError(f"{method}: its edits do not merge with themselves")


def _check_replay(method: Method, before: Draft, after: Draft) -> None:
    """A plan that cuts leads from what came in to what was planned, and is refused where it has been done already."""
    replayed = apply(before.model, after.plan)
    if not _equal(after.model.state_dict(), replayed.state_dict()) or _numbers(after.model) != _numbers(replayed):
        raise MethodError(f"{method}: replaying its plan on the model that came in gives another model")
    for again in (lambda: apply(after.model, after.plan), lambda: extend(after, after.plan)):
        with suppress(PlanError):
            again()
            raise MethodError(f"{method}: its plan, which cuts, can be applied to a model that is cut already")


def _numbers(model: nn.Module) -> dict[str, dict[str, object]]:
    """What the modules count: whole numbers, and tuples of them, by module."""
    return {
        name: {key: value for key, value in vars(module).items() if isinstance(value, int | tuple)}
        for name, module in model.named_modules()
    }


def _check_file(method: Method, before: Draft, after: Draft, tolerance: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for bare in (True, False):
            path = Path(folder) / "model.dct"
            after.save(path, bare=bare)
            read = store.load_draft(path, before.model, before.call)
            if not _equal(after.model.state_dict(), read.model.state_dict()):
                raise MethodError(f"{method}: a tensor changes on its way through the file (bare: {bare})")
            if {type(edit) for edit in after.plan} - {type(edit) for edit in read.plan} - _of_the_file():
                raise MethodError(f"{method}: a promise is lost on its way through the file (bare: {bare})")
        found = gap(after, path)
    if not found <= tolerance:
        raise MethodError(f"{method}: the file's outputs differ by {found:.2e} of the largest")


def _of_the_file() -> set[type]:
    """Edits that a reader need not give back: how a tensor was coded is the file's own affair."""
    from decoct.plan import Code, Set

    return {Code, Set}
