"""decoct: trained PyTorch models made small and fast, with an honest account of what it cost.

Attributes load when they are first used; running a file never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load": "decoct.runtime",
    "Runtime": "decoct.runtime",
    "pack": "decoct.pack",
    "unpack": "decoct.pack",
    "inspect": "decoct.contents",
    "Task": "decoct.task",
    "accuracy": "decoct.task",
    "evaluate": "decoct.task",
    "Draft": "decoct.plan",
    "Recipe": "decoct.recipe",
    "compress": "decoct.run",
    "step": "decoct.method",
    "load_module": "decoct.store",
    "load_draft": "decoct.store",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'decoct' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"torch", "accelerate", "pydantic", "jinja2", "matplotlib", "onnxscript"}:
            from decoct.errors import MissingExtraError

            message = f'decoct.{name} needs {error.name}: pip install "decoct[compress]"'
            raise MissingExtraError(message) from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
