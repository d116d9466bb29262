"""A recipe: which model, which data, which methods in which order, as a TOML file that says all of it.

    seed = 0

    [model]
    factory = "decoct.models:lenet_5"      # "package.module:function", of decoct or of your own
    weights = "lenet5.safetensors"         # optional; beside the recipe, or in $DECOCT_DATA/weights
    arguments = {}                         # of the factory

    [task]
    factory = "decoct.data:mnist"          # returns a Task

    [[step]]
    method = "prune.magnitude"             # the module path is the name; or "package.module:Class"
    density = 0.08                         # a field of the method

    [step.retrain]                         # a field that is a method itself
    epochs = 5

A recipe names code that is imported and run: open only recipes that you trust.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, PrivateAttr, create_model
from torch import nn

from decoct import toml
from decoct.errors import DecoctError, RecipeError, nearest
from decoct.extras import needed_for
from decoct.method import Method, all_methods, find
from decoct.schema import STRICT, Problem, TableError, build, model_of, validate
from decoct.task import Task
from decoct.toml import Location
from decoct.weights import load_weights


class Factory(BaseModel):
    """A function of some module, ``"package.module:function"``, and what it is called with."""

    model_config = STRICT
    factory: str
    arguments: dict[str, Any] = {}


class Model(Factory):
    """Where the model comes from; without weights the steps begin with training."""

    weights: str | None = None


class Published(BaseModel):
    """Figures that others published, to hold the result against: by key, or one `figure` and its `unit`.

    tag: "read" at the source, or "M", from memory.
    """

    model_config = STRICT
    source: str
    tag: Literal["read", "M"] = "M"
    figure: float | None = None
    unit: str | None = None
    bytes: float | None = None
    ratio: float | None = None
    error_percent: float | None = None
    score: float | None = None
    weights_ratio: float | None = None
    density: float | None = None
    nonzeros: float | None = None
    macs_ratio: float | None = None


class File(BaseModel):
    """What the written file carries; bare: weights alone, for a receiver that has the architecture."""

    model_config = STRICT
    bare: bool = False


class Recipe(BaseModel):
    """A model, a task and the methods to go through, in order.

    name: of the result; the file's own if it gives none.
    seed: of everything that is drawn; the same recipe, seed and machine give the same file.
    model, task: may be left out by who hands over their own; see :func:`decoct.compress`.
    step: one table per method, its ``method`` name and its fields.
    """

    model_config = STRICT
    name: str = ""
    seed: int = Field(default=0, ge=0)
    model: Model | None = None
    task: Factory | None = None
    step: list[dict[str, Any]] = []
    published: Published | None = None
    file: File = File()

    _path: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")
    _methods: tuple[Method, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file; RecipeError, with file and line, for whatever in it cannot be."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{path} cannot be read as a recipe: {getattr(error, 'strerror', None) or error}"
            ) from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path | None = None) -> Recipe:
        """The recipe of a TOML text; `path` is where relative files and messages start from."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            where = re.search(r" \(at line (\d+), column \d+\)$", str(error))
            line = f":{where[1]}" if where else ""
            raise RecipeError(f"{path or 'recipe'}{line}: not TOML: {error}") from error
        table.setdefault("name", path.stem if path else "")
        recipe = cls._valid(table, text, path)
        recipe._methods = tuple(recipe._method(number, step) for number, step in enumerate(recipe.step))
        return recipe

    @classmethod
    def from_methods(cls, methods: Iterable[Method], name: str = "", seed: int = 0) -> Recipe:
        """The recipe of methods that exist already, for a model and task that are handed over."""
        methods = tuple(methods)
        for method in methods:
            if not (dataclasses.is_dataclass(method) and callable(getattr(method, "plan", None))):
                raise RecipeError(f"{method!r} is not a method: a dataclass with plan(draft, task) is expected")
        steps = [{"method": name_of(type(method))} | _changed(method) for method in methods]
        recipe = cls(name=name, seed=seed, step=steps)
        recipe._methods = methods
        return recipe

    @classmethod
    def of_factory(cls, factory: str) -> Recipe:
        """The recipe of a model alone, ``"package.module:function"``, for who has no recipe file."""
        recipe = cls(name=factory, model=Model(factory=factory))
        recipe._path = Path(factory)  # what messages begin with; its folder, to import from, is the current one
        return recipe

    @classmethod
    def _valid(cls, table: Mapping[str, Any], text: str, path: Path | None) -> Recipe:
        try:
            recipe = validate(cls, table)
        except TableError as error:
            raise _errors(path, text, error.problems) from error
        assert isinstance(recipe, cls)
        recipe._path, recipe._text = path, text
        return recipe

    def _method(self, number: int, step: Mapping[str, Any]) -> Method:
        """The method of one ``[[step]]``; `number` is counted from 0."""
        at: Location = ("step", number)
        if not isinstance(step.get("method"), str):
            raise self._error(at, "a step needs method = \"NAME\"; see 'decoct methods'")
        try:
            self._let_import()
            kind = find(step["method"])
        except RecipeError as error:
            raise self._error((*at, "method"), str(error)) from error
        try:
            return build(kind, {key: value for key, value in step.items() if key != "method"})
        except TableError as error:
            found = [((*at, *inner), f"{step['method']}: {said}") for inner, said in error.problems]
            raise _errors(self._path, self._text, found) from error

    def methods(self) -> list[Method]:
        """The methods of the steps, in order."""
        return list(self._methods)

    def names(self) -> list[str]:
        """The methods' names, in order."""
        return [step["method"] for step in self.step]

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe with another seed."""
        return self.model_copy(update={"seed": seed})

    @property
    def hash(self) -> str:
        """Twelve hex digits that stand for what is computed: every field of every method, but not name or comments."""
        content = {
            "seed": self.seed,
            "model": self.model and self.model.model_dump(),
            "task": self.task and self.task.model_dump(),
            "file": self.file.model_dump(),
            "step": [
                [name, dataclasses.asdict(method)] for name, method in zip(self.names(), self._methods, strict=True)
            ],
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def to_toml(self) -> str:
        """The recipe as TOML text that reads back equal."""
        table = self.model_dump(exclude_unset=True, exclude={"name", "step"})
        return toml.text({"name": self.name or None, "seed": self.seed} | table | {"step": self.step})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of recipe files, with all methods that decoct has, for editors that complete and check."""
        steps: list[Any] = [
            create_model(kind.__name__, __base__=model_of(kind), method=(Literal[name], ...))  # type: ignore[arg-type]
            for name, kind in all_methods().items()
        ]
        steps.append(create_model("YourOwn", method=(str, Field(pattern=":")), __config__={"extra": "allow"}))
        union = steps[0]
        for step in steps[1:]:
            union = union | step
        whole = create_model("Recipe", __base__=cls, step=(list[union], []))  # type: ignore[valid-type]
        return whole.model_json_schema()

    def build_model(self, *, weights: bool = True) -> nn.Module:
        """The model of ``[model]``, drawn with the recipe's seed and given its weights.

        weights: False leaves the weights file alone, for who only needs the architecture.
        """
        if self.model is None:
            raise self._error((), "the recipe has no [model]: add one, or hand the model to decoct.compress")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._call("model", self.model)
        if not isinstance(model, nn.Module):
            found = type(model).__name__
            raise self._error(("model", "factory"), f"{self.model.factory} must return a torch.nn.Module, not {found}")
        if weights and self.model.weights is not None:
            path = self._find_weights(self.model.weights)
            try:
                load_weights(model, path)
            except RecipeError as error:
                raise self._error(("model", "weights"), str(error)) from error
        return model

    def build_task(self) -> Task:
        """The task of ``[task]``."""
        if self.task is None:
            raise self._error((), "the recipe has no [task]: add one, or hand the task to decoct.compress")
        task = self._call("task", self.task)
        if not isinstance(task, Task):
            found = type(task).__name__
            raise self._error(("task", "factory"), f"{self.task.factory} must return a decoct.Task, not {found}")
        return task

    def _call(self, part: str, factory: Factory) -> Any:
        function = self._import((part, "factory"), factory.factory)
        try:
            inspect.signature(function).bind(**factory.arguments)
        except TypeError as error:
            allowed = list(inspect.signature(function).parameters)
            unknown = next((name for name in factory.arguments if name not in allowed), "")
            said = (
                f"{factory.factory}: {error}{nearest(unknown, allowed)}; its arguments: {', '.join(allowed) or 'none'}"
            )
            raise self._error((part, "arguments", unknown), said) from error
        except ValueError:  # a builtin that shows no signature
            pass
        try:
            return function(**factory.arguments)
        except (DecoctError, OSError, MemoryError):
            raise
        except Exception as error:
            said = f"{factory.factory} fails: {type(error).__name__}: {error}"
            raise self._error((part, "factory"), said) from error

    def _import(self, location: Location, name: str) -> Any:
        module_name, colon, function_name = name.partition(":")
        if not (module_name and colon and function_name):
            raise self._error(location, f'a factory is written "package.module:function", not {name!r}')
        self._let_import()
        try:
            with needed_for(name):
                module = import_module(module_name)
        except DecoctError:
            raise
        except Exception as error:
            raise self._error(
                location, f"{module_name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            public = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
            raise self._error(
                location, f"{module_name} has no function {function_name!r}{nearest(function_name, public)}"
            )
        return function

    def _let_import(self) -> None:
        """Let modules beside the recipe, and in the current folder, be imported, after all that is installed."""
        for folder in (self._folder(), Path.cwd()):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))

    def _folder(self) -> Path:
        return (self._path.parent if self._path else Path()).resolve()

    def _find_weights(self, name: str) -> Path:
        folders = [self._folder()]
        if data := os.environ.get("DECOCT_DATA"):
            folders.append(Path(data) / "weights")
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        looked = ", ".join(map(str, folders)) + ("" if data else "; DECOCT_DATA is not set")
        raise self._error(("model", "weights"), f"no weights file {name!r} in {looked}")

    def _error(self, location: Location, message: str) -> RecipeError:
        return _errors(self._path, self._text, [(location, message)])


def _errors(path: Path | None, text: str, problems: Iterable[Problem]) -> RecipeError:
    """One error for all problems, a line for each, in the order of the file."""
    known = toml.lines(text)
    placed = sorted((toml.line_of(location, known) or 0, location, message) for location, message in problems)
    lines = []
    for line, location, message in placed:
        parts = [f"{path or 'recipe'}:{line}" if line else str(path or "recipe"), message]
        if len(location) > 1:
            parts.insert(1, f"step {int(location[1]) + 1}" if location[0] == "step" else f"[{location[0]}]")
        lines.append(": ".join(parts))
    return RecipeError("\n".join(lines))


def name_of(kind: type) -> str:
    """The name by which a recipe finds a method: its module's path in decoct, else ``package.module:Class``."""
    own = kind.__module__.removeprefix("decoct.")
    return own if own != kind.__module__ else f"{kind.__module__}:{kind.__qualname__}"


def _changed(method: Any) -> dict[str, Any]:
    """The fields of a method that differ from their defaults, as a recipe's table."""
    table = {}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default:
            table[field.name] = _changed(value) if dataclasses.is_dataclass(value) else value
    return table
