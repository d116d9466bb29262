"""From a tape to a flow: every operation's rule in turn, then the model's outputs, which nothing may be cut from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decoct.graph.labels import Flow, Site
from decoct.graph.rules import rule_of
from decoct.graph.tape import Tape


def follow(tape: Tape, choices: Mapping[Site, Any]) -> Flow:
    """Pass labels through a tape; `choices` as :class:`Flow` has them."""
    flow = Flow(tape, choices)
    for op in tape.ops:
        rule_of(op)(flow, op)
        for ref in op.outputs:
            found = [label for label in flow.of(ref) if isinstance(label, np.ndarray)]
            fixed = {size for size, label in zip(ref.shape, flow.of(ref), strict=True) if label is None}
            for module in _with_parents(op.module):
                flow.crossings.setdefault(module, []).extend(found)
                flow.fixed.setdefault(module, set()).update(fixed)
    for ref in tape.outputs:
        flow.freeze_all(ref, "it is the model's output")
    return flow


def _with_parents(path: str) -> Iterator[str]:
    """A module's path and those of the modules that it is in.

    >>> list(_with_parents("layer1.0"))
    ['layer1.0', 'layer1', '']
    """
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path
