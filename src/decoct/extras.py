"""Optional parts: which extra brings which package, and one clear sentence where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from decoct.errors import MissingExtraError

EXTRAS = {
    "accelerate": "compress",
    "jinja2": "compress",
    "matplotlib": "compress",
    "onnxscript": "compress",
    "pydantic": "compress",
    "torch": "compress",
    "datasets": "data",
    "PIL": "data",
    "sklearn": "demo",
}


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Within the block, a package that an extra would bring and that is absent raises MissingExtraError.

    >>> with needed_for("decoct compress"):
    ...     raise ModuleNotFoundError("No module named 'torch'", name="torch")
    Traceback (most recent call last):
    decoct.errors.MissingExtraError: decoct compress needs torch: pip install "decoct[compress]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        message = f'{what} needs {package}: pip install "decoct[{EXTRAS[package]}]"'
        raise MissingExtraError(message, name=package) from error
