"""What a long piece of work tells whoever listens: progress, figures, curves.

A method or a loop calls :func:`emit`; a command or a run directory listens. Nobody listening costs nothing.

>>> heard = []
>>> with listening(heard.append):
...     emit("epoch", epoch=1, loss=0.5)
>>> heard
[{'kind': 'epoch', 'epoch': 1, 'loss': 0.5}]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Listener = Callable[[dict[str, Any]], None]

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def emit(kind: str, **data: Any) -> None:
    """Tell every listener about one event; `data` is plain JSON values."""
    for listener in _listeners.get():
        listener({"kind": kind, **data})


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, call `listener` with every event as a dict that has a ``kind``."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
