"""decoct: a trained model and its data in; a small file, a fast program and an honest account out.

Every name is imported when it is first used: neither ``import decoct`` nor running a file imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoct import bench, contents, pack
    from decoct.contents import inspect
    from decoct.errors import (
        DecoctError,
        FormatError,
        MissingExtraError,
        PlanError,
        RecipeError,
        TaskError,
        TraceError,
        TrainingError,
    )
    from decoct.method import Method, step
    from decoct.plan import Draft
    from decoct.recipe import Recipe
    from decoct.run import compress
    from decoct.runtime import Runtime, load
    from decoct.store import load_module
    from decoct.task import Task, accuracy, evaluate

__version__ = "0.1.0"

_MODULES = ("bench", "contents", "pack")

_WHERE = {
    # the ground floor: numpy, onnx, onnxruntime
    "Runtime": "runtime",
    "inspect": "contents",
    "load": "runtime",
    # the workshop: torch
    "Draft": "plan",
    "Method": "method",
    "Recipe": "recipe",
    "Task": "task",
    "accuracy": "task",
    "compress": "run",
    "evaluate": "task",
    "load_module": "store",
    "step": "method",
    # errors
    "DecoctError": "errors",
    "FormatError": "errors",
    "MissingExtraError": "errors",
    "PlanError": "errors",
    "RecipeError": "errors",
    "TaskError": "errors",
    "TraceError": "errors",
    "TrainingError": "errors",
}

__all__ = [
    "DecoctError",
    "Draft",
    "FormatError",
    "Method",
    "MissingExtraError",
    "PlanError",
    "Recipe",
    "RecipeError",
    "Runtime",
    "Task",
    "TaskError",
    "TraceError",
    "TrainingError",
    "accuracy",
    "bench",
    "compress",
    "contents",
    "evaluate",
    "inspect",
    "load",
    "load_module",
    "pack",
    "step",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"decoct.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'decoct' has no attribute {name!r}")
    from decoct.extras import needed_for

    with needed_for(f"decoct.{name}"):
        value = getattr(import_module(f"decoct.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_WHERE})
