"""What a method is, and how one is found by name: ``prune.magnitude`` *is* the module path."""

from __future__ import annotations

import dataclasses
import pkgutil
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from decoct.apply import extend
from decoct.errors import RecipeError, nearest
from decoct.events import emit
from decoct.plan import Draft, Edit
from decoct.task import Task

FAMILIES = ("train", "prune", "quantize", "distill", "lowrank", "compact", "coding")

Value = TypeVar("Value")


@runtime_checkable
class Method(Protocol):
    """One paper: a frozen dataclass whose fields are its hyper-parameters.

    It may also have ``check(draft)``, which raises where its fields do not fit a model; see :func:`check`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def plan(self, draft: Draft, task: Task) -> list[Edit]:
        """Read the draft and the task, return edits; alter neither."""
        ...


def step(draft: Draft, method: Method, task: Task) -> Draft:
    """The draft after one method."""
    return extend(draft, method.plan(draft, task))


def check(draft: Draft, method: Method) -> None:
    """Let a method that has ``check(draft)`` say, before anything is trained, what of it does not fit the model."""
    if (own := getattr(method, "check", None)) is not None:
        own(draft)


def find(name: str) -> type[Method]:
    """The method of a name: ``family.module`` of decoct, or ``package.module:Class`` of the user's own."""
    module_name, _, class_name = name.partition(":")
    if class_name:
        return _users(name, module_name, class_name)
    found = defined_in(import_module(f"decoct.{name}")) if name in _modules() else None
    if found is None:
        known = sorted(all_methods())
        raise RecipeError(f"unknown method {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return found


def _users(name: str, module_name: str, class_name: str) -> type[Method]:
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"method {name!r} cannot be imported: {error}") from error
    if not (dataclasses.is_dataclass(found) and hasattr(found, "plan")):
        raise RecipeError(f"{name} is not a method: a frozen dataclass with plan(draft, task) is expected")
    return found  # type: ignore[return-value]


def all_methods() -> dict[str, type[Method]]:
    """Every method of decoct by name, found by looking; nothing is registered."""
    found = {name: defined_in(import_module(f"decoct.{name}")) for name in _modules()}
    return {name: method for name, method in found.items() if method is not None}


def _modules() -> list[str]:
    """The modules of the families, as ``family.module``; none is imported."""
    folders = [(family, Path(__file__).parent / family) for family in FAMILIES]
    return [f"{family}.{each.name}" for family, folder in folders for each in pkgutil.iter_modules([str(folder)])]


def defined_in(module: ModuleType) -> type[Method] | None:
    """The one dataclass with a ``plan(draft, task)`` that `module` itself defines, or None."""
    for value in vars(module).values():
        its_own = isinstance(value, type) and value.__module__ == module.__name__
        if its_own and dataclasses.is_dataclass(value) and callable(getattr(value, "plan", None)):
            return value  # type: ignore[return-value]
    return None


def per_tensor(value: Value | Mapping[str, Value], tensors: Iterable[str], field: str) -> dict[str, Value]:
    """One value for every tensor: the same for all, or by glob, where the first glob that matches counts.

    >>> per_tensor({"fc3*": 0.5, "*": 0.1}, ["fc1.weight", "fc3.weight"], "density")
    {'fc1.weight': 0.1, 'fc3.weight': 0.5}
    """
    tensors = list(tensors)
    if not isinstance(value, Mapping):
        return dict.fromkeys(tensors, value)
    chosen = {}
    for name in tensors:
        glob = next((glob for glob in value if fnmatchcase(name, glob)), None)
        if glob is None:
            raise RecipeError(f"{field} gives no value for {name}: add it, or '*' for the rest")
        chosen[name] = value[glob]
    for glob in value:
        if not any(fnmatchcase(name, glob) for name in tensors):
            raise RecipeError(f"{field}: no tensor matches {glob!r}{nearest(glob, tensors)}; there are {tensors}")
    return chosen


def timed_step(draft: Draft, method: Method, task: Task, number: int, name: str) -> Draft:
    """:func:`step`, telling listeners what was done and how long it took."""
    began = time.perf_counter()
    after = step(draft, method, task)
    emit("step", step=number, method=name, seconds=round(time.perf_counter() - began, 2))
    return after
