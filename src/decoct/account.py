"""The rows of a run: what each stage weighs and scores; last the file itself, what it is made of, how quick it is."""

from __future__ import annotations

import tempfile
from collections.abc import Container
from pathlib import Path
from typing import Any

from decoct import store
from decoct.bench import Latency, bench
from decoct.contents import Contents, coded_bytes, inspect
from decoct.file import File, open_file
from decoct.measure import Layer, layers, raw_bytes, zipped_bytes
from decoct.plan import Draft, Keep
from decoct.task import Task, evaluate

SECONDS = 2.0
SLOWER = 1.05
TOUCHED = 0.5


def stage_row(draft: Draft, task: Task, stage: str, coded: int) -> dict[str, Any]:
    """The figures of one stage; its score is on validation."""
    parts = layers(draft.model, task.example)
    return _figures(draft, task, parts) | {
        "stage": stage,
        "score": evaluate(draft.model, task),
        "score_split": "validation",
        "bytes_coded": coded,
        "widths": {part.name: part.shape[0] for part in parts if part.macs},
        "densities": {part.name: part.nonzeros / part.parameters for part in parts if part.macs},
        "latency_ms": None,
        "reference_ms": None,
        "warnings": [],
    }


def _figures(draft: Draft, task: Task, parts: list[Layer]) -> dict[str, Any]:
    """What the row of a stage and that of the file have in common."""
    tensors = draft.tensors()
    return {
        "score_name": task.score_name,
        "higher_is_better": task.higher_is_better,
        "bytes_raw": raw_bytes(tensors),
        "bytes_zipped": zipped_bytes(tensors),
        "parameters": sum(part.parameters for part in parts),
        "nonzeros": sum(part.nonzeros for part in parts),
        "macs": sum(part.macs for part in parts),
        "macs_nonzero": sum(part.macs_nonzero for part in parts),
    }


def account(draft: Draft, task: Task, path: Path, reference: Path | None, score: float) -> dict[str, Any]:
    """The row of the file at `path`, which was saved from `draft`.

    reference: a file of the model that came in, to time beside it; None for no timing.
    score: of the file, decoded and run.
    """
    opened = _named(path, draft)
    contents = inspect(opened)
    latencies = bench([reference, path], threads=1, seconds=SECONDS) if reference is not None else []
    parts = layers(draft.model, task.example)
    row = _figures(draft, task, parts) | {
        "stage": "file",
        "score": score,
        "bytes_coded": path.stat().st_size,
        "bytes_bare": bare_bytes(draft),
        "latency_ms": _spread(latencies[1]) if latencies else None,
        "reference_ms": _spread(latencies[0]) if latencies else None,
        "peak_bytes": latencies[1].peak_bytes if latencies else None,
        "sections": contents.sections,
        "bytes_paper": round(contents.paper_bytes) or None,
        "bytes_entropy": round(contents.entropy_bytes, 1),
        "bytes_huffman": coded_bytes(opened, "huffman"),
        "bytes_ans": coded_bytes(opened, "ans"),
        "onnx_bytes": onnx.stat().st_size if (onnx := path.with_suffix(".onnx")).exists() else None,
        "layers": _layers(contents, parts, draft),
    }
    row["warnings"] = warnings(row, contents, latencies, set(_grown(draft)))
    return row


def _named(path: Path, draft: Draft) -> File:
    opened = open_file(path)
    return opened.bind(store.signature(draft)) if opened.bare else opened


def bare_bytes(draft: Draft) -> int:
    """Bytes of the draft in the bare profile."""
    with tempfile.TemporaryDirectory() as folder:
        return store.save(draft, Path(folder) / "bare.dct", bare=True)


def _layers(contents: Contents, parts: list[Layer], draft: Draft) -> list[dict[str, Any]]:
    work, tensors, grown = {part.name: part for part in parts}, draft.tensors(), _grown(draft)
    return [
        {
            "name": each.name,
            "shape": list(each.shape),
            "parameters": each.parameters,
            "nonzeros": int(tensors[each.name].count_nonzero()),
            "macs": work[each.name].macs if each.name in work else 0,
            "bytes": each.sections,
            "bytes_raw": round(raw_bytes({"": tensors[each.name]}) * grown.get(each.name, 1.0)),
            "coder": each.coder,
        }
        for each in contents.tensors
    ]


def _grown(draft: Draft) -> dict[str, float]:
    """How many times larger each tensor that was cut came in."""
    grown: dict[str, float] = {}
    for edit in draft.structure():
        if isinstance(edit, Keep) and len(edit.index) < edit.size:
            grown[edit.tensor] = grown.get(edit.tensor, 1.0) * edit.size / len(edit.index)
    return grown


def _spread(latency: Latency) -> dict[str, float]:
    return {"median": latency.median_ms, "p10": latency.p10_ms, "p90": latency.p90_ms, "threads": latency.threads}


def warnings(row: dict[str, Any], contents: Contents, latencies: list[Latency], cut: Container[str] = ()) -> list[str]:
    """What a reader must not overlook: slower than what came in, or little of it touched.

    cut: the tensors that were cut smaller.
    """
    found = []
    if latencies and latencies[1].ratio > SLOWER:
        found.append(
            f"the result is slower than the model that came in: {latencies[1].ratio:.2f}x its latency on one thread"
        )
    came = {each["name"]: each["bytes_raw"] for each in row["layers"]}
    touched = sum(
        came[each.name]
        for each in contents.tensors
        if each.kind != "plain" or each.kept < each.parameters or each.name in cut
    )
    share = touched / max(sum(came.values()), 1)
    if share < TOUCHED:
        found.append(
            f"only {share:.0%} of the bytes were pruned, shared or put on a grid; the rest is stored as it was"
        )
    return found
