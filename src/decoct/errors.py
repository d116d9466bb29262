"""The errors of decoct.

    DecoctError
    ├── RecipeError(ValueError)        a recipe or an argument says what cannot be
    ├── TaskError(ValueError)          the model, its data, loss or score do not fit together
    ├── PlanError(ValueError)          an edit does not fit the model, or would break an earlier promise
    ├── TraceError(RuntimeError)       a model cannot be traced or exported
    ├── TrainingError(RuntimeError)    a training cannot go on (a loss that is not a number, ...)
    ├── FormatError(ValueError)        a file is damaged, hostile, or not one of ours
    └── MissingExtraError(ImportError) an optional part of decoct is not installed

A message says where, what was expected, what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DecoctError(Exception):
    """Every error that decoct raises on purpose."""


class RecipeError(DecoctError, ValueError):
    """A recipe or an argument says what cannot be."""


class TaskError(DecoctError, ValueError):
    """The model, its data, its loss or its score do not fit together."""


class PlanError(DecoctError, ValueError):
    """An edit does not fit the model, or would break an earlier promise."""


class TraceError(DecoctError, RuntimeError):
    """A model cannot be traced or exported."""


class TrainingError(DecoctError, RuntimeError):
    """A training cannot go on."""


class FormatError(DecoctError, ValueError):
    """A file is damaged, hostile, or not one of ours."""


class MissingExtraError(DecoctError, ImportError):
    """An optional part of decoct is not installed."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the allowed name nearest to `name`, or an empty string.

    >>> nearest("densty", ["density", "rounds"])
    "; did you mean 'density'?"
    >>> nearest("foo", ["density", "rounds"])
    ''
    """
    found = get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
