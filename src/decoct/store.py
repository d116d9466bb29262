"""A draft as a `.dct` and back: promises become the form in which each tensor is stored, and are read off it again."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decoct import __version__, file, graph_weights
from decoct.apply import extend
from decoct.coding import Code, Stored, values
from decoct.errors import FormatError, PlanError
from decoct.export.onnx import to_onnx
from decoct.file import Entry, open_file
from decoct.plan import (
    FLOAT16,
    ZERO_CODE,
    Attribute,
    Call,
    Cast,
    Draft,
    Edit,
    Keep,
    Set,
    Share,
    Structure,
    Zero,
    check_size,
    tied,
)  # fmt: skip
from decoct.surgery import tensor_of


def save(draft: Draft, path: str | Path, *, bare: bool = False, graph: bool = True) -> int:
    """Write a draft as a `.dct`; returns its bytes.

    bare: weights alone, for a receiver that has the architecture; see docs/format.md.
    graph: whether the file carries the ONNX graph that makes it run (never when bare). It needs the draft's `call`.

    Raises TraceError where the model cannot be exported, PlanError where the draft does not know how it is called.
    """
    meta: dict[str, Any] = {"decoct": __version__}
    if casts := {edit.tensor: edit.dtype for edit in draft.plan if isinstance(edit, Cast) and _hidden(draft, edit)}:
        meta["casts"] = casts
    if structure := draft.structure():
        meta["edits"] = [_described(edit) for edit in structure]
    stripped = None
    if graph and not bare:
        stripped, about = _graph(draft)
        meta |= about
    return file.write(path, entries(draft), meta, stripped, bare, tied(draft.model))


def _graph(draft: Draft) -> tuple[bytes, dict[str, Any]]:
    if draft.call is None:
        raise PlanError(
            "the draft does not know how it is called: begin with Draft.of(model, task), or save with bare=True"
        )
    model = to_onnx(draft.model, draft.call.example)
    about: dict[str, Any] = graph_weights.signature(model)
    if draft.call.normalisation is not None:
        about["normalisation"] = {
            name: [float(each) for each in values] for name, values in draft.call.normalisation.items()
        }
    if draft.call.labels is not None:
        about["labels"] = list(draft.call.labels)
    return graph_weights.strip(model, {*draft.tensors(), *tied(draft.model)}), about


def _hidden(draft: Draft, cast: Cast) -> bool:
    """Whether the stored form does not show a cast by itself: a codebook in bfloat16."""
    return cast.dtype == "bfloat16" and Share in draft.promises(cast.tensor)


def entries(draft: Draft) -> Iterator[Entry]:
    """Every tensor of the draft as the file keeps it, in the order of the state dict."""
    for name, tensor in draft.tensors().items():
        promises = draft.promises(name)
        code: Code = promises.get(Code, Code(name, "auto"))
        yield Entry(name, stored(tensor, promises), code.coder, code.parameters)


def stored(tensor: Tensor, promises: dict[type, Any]) -> Stored:
    """The form of one tensor that its promises make possible."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    cast: Cast | None = promises.get(Cast)
    if Share in promises:
        share: Share = promises[Share]
        codes = share.codes.cpu().numpy().ravel()
        kept = np.flatnonzero(codes != ZERO_CODE)
        half = cast is not None and cast.dtype == "float16"
        table = share.codebook.cpu().numpy().astype(np.float16 if half else np.float32)
        data = codes[kept].astype(np.uint8 if table.size <= 256 else np.uint16)
        return Stored(shape, dtype, "shared", data, None if kept.size == codes.size else kept, table)
    flat = tensor.detach().cpu().flatten()
    if cast is not None:
        flat = flat.to(FLOAT16[cast.dtype])
    data = flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()
    if Zero in promises:
        kept = np.flatnonzero(promises[Zero].mask.cpu().numpy().ravel())
        return Stored(shape, dtype, "plain", data[kept], kept)
    return Stored(shape, dtype, "plain", data)


def load_draft(path: str | Path | bytes, skeleton: nn.Module, call: Call | None = None) -> Draft:
    """The draft that a file holds: its values and promises on a copy of `skeleton`, which has the architecture.

    Raises FormatError for a damaged file, PlanError where file and skeleton do not fit.
    """
    opened = open_file(path)
    structure = [_structural(edit, skeleton, opened.label) for edit in opened.meta.get("edits", [])]
    draft = extend(Draft(skeleton, (), call), structure)
    there = draft.tensors()
    if opened.bare:
        opened.bind(signature(draft))
    _check_fit(opened.label, {name: opened.shape(name) for name in opened.names}, there)
    edits: list[Edit] = []
    for name in opened.names:
        edits += read_edits(name, opened.stored(name), opened.dtype(name), opened.meta.get("casts", {}).get(name))
    return extend(draft, edits)


def _described(edit: Structure) -> dict[str, Any]:
    """An edit of structure as the meta of a file has it; what is kept as a bitmap, most significant bit first."""
    if isinstance(edit, Attribute):
        return {"edit": "Attribute", "module": edit.module, "name": edit.name, "value": edit.value}
    bits = np.zeros(edit.size, dtype=bool)
    bits[edit.index.cpu().numpy()] = True
    kept = base64.b64encode(np.packbits(bits).tobytes()).decode()
    return {"edit": "Keep", "tensor": edit.tensor, "dim": edit.dim, "size": edit.size, "kept": kept}


def _structural(edit: Mapping[str, Any], skeleton: nn.Module, label: str) -> Structure:
    """The edit that :func:`_described` wrote. Its form has been checked when the file was opened.

    FormatError for a kind that is only reserved, PlanError, before memory is taken for it, for a Keep of another size.
    """
    if edit["edit"] == "Attribute":
        return Attribute(edit["module"], edit["name"], edit["value"])
    if edit["edit"] != "Keep":
        raise FormatError(f"{label}: this decoct cannot do the edit {edit['edit']!r}; a later one may")
    check_size(tensor_of(skeleton, edit["tensor"]), edit["tensor"], edit["dim"], edit["size"])
    bits = np.unpackbits(np.frombuffer(base64.b64decode(edit["kept"]), np.uint8))
    return Keep(edit["tensor"], edit["dim"], torch.from_numpy(np.flatnonzero(bits)), edit["size"])


def signature(draft: Draft) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of every tensor, as a bare file must be told."""
    return [(name, tuple(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in draft.tensors().items()]


def load_module(path: str | Path | bytes, skeleton: nn.Module) -> nn.Module:
    """A copy of `skeleton` with the values that a file holds, to go on training. Errors as :func:`load_draft`."""
    return load_draft(path, skeleton).model


def read_edits(name: str, held: Stored, dtype: str, cast: str | None) -> list[Edit]:
    """The edits that a stored tensor of this dtype stands for: its values, and the promises that its form shows.

    cast: the 16-bit float that its codebook was promised to be in, where the form does not show it.
    """
    edits: list[Edit] = []
    if held.kept is not None:
        mask = torch.zeros(held.size, dtype=torch.bool)
        mask[torch.from_numpy(np.ascontiguousarray(held.kept))] = True
        edits.append(Zero(name, mask.view(held.shape)))
    if held.kind == "shared":
        assert held.table is not None
        codes = np.full(held.size, ZERO_CODE, np.int16)
        codes[slice(None) if held.kept is None else held.kept] = held.data
        codebook = torch.from_numpy(held.table.astype(np.float32)).to(getattr(torch, held.dtype))
        edits.append(Share(name, torch.from_numpy(codes).view(held.shape), codebook))
        cast = "float16" if held.table.dtype == np.float16 else cast
    else:
        edits.insert(0, Set({name: _tensor(values(held), dtype)}))
        shown = {"float16": "float16", "uint16": "bfloat16"}.get(held.data.dtype.name)
        cast = shown if held.kind == "plain" and held.dtype in ("float32", "float64") else None
    return [*edits, *([Cast(name, cast)] if cast else [])]


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    if dtype in ("bfloat16",) or dtype.startswith("float8"):
        bits = np.ascontiguousarray(array).view(np.uint16 if dtype == "bfloat16" else np.uint8)
        return torch.from_numpy(bits.copy()).view(getattr(torch, dtype)).reshape(array.shape)
    return torch.from_numpy(np.array(array))


def _check_fit(label: str, held: dict[str, tuple[int, ...]], there: dict[str, Tensor]) -> None:
    missing = [name for name in there if name not in held]
    foreign = [name for name in held if name not in there]
    other = [
        f"{name} is {held[name]} in the file, {tuple(tensor.shape)} in the skeleton"
        for name, tensor in there.items()
        if name in held and held[name] != tuple(tensor.shape)
    ]
    if missing or foreign or other:
        said = [f"{len(missing)} not in the file ({', '.join(missing[:3])})"] if missing else []
        said += [f"{len(foreign)} not in the skeleton ({', '.join(foreign[:3])})"] if foreign else []
        raise PlanError(f"{label} does not fit the skeleton: {'; '.join(said + other[:3])}")
