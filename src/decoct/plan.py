"""What is to be done to a model, as small values: the edits, and the Draft that carries them.

    Set(tensors)                     new values of the same shapes
    Zero(tensor, mask)               promise: entries outside the mask stay zero
    Share(tensor, codes, codebook)   promise: equal codes keep one value
    Cast(tensor, dtype)              promise: every value is one of a 16-bit float
    Code(tensor, coder, parameters)  how the file stores the tensor
    Keep(tensor, dim, index, size)   physically keep these positions of a dimension, no others
    Attribute(module, name, value)   a number of a module that counts what was kept

Keep and Attribute are the structure of a draft and come first in its plan; what is promised of a tensor is carried
through a later Keep.

A plan keeps only what still matters: later edits of a tensor supersede or refine the earlier. A promise is carried
through later edits or the edit is refused with PlanError; it is never dropped silently.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from decoct.coding.stored import Code, chosen
from decoct.errors import PlanError, RecipeError, nearest

if TYPE_CHECKING:
    from decoct.task import Task

ZERO_CODE = -1
FLOAT16 = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Set:
    """New values for tensors, by name; shapes stay."""

    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Zero:
    """Promise: entries of `tensor` where `mask` (bool, the tensor's shape) is False are and stay zero."""

    tensor: str
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Share:
    """Promise: entries of `tensor` with equal codes keep one value, ``codebook[code]``.

    codes: integers of the tensor's shape; -1 marks an entry that is and stays zero.
    codebook: (clusters,), in the tensor's dtype.
    """

    tensor: str
    codes: Tensor
    codebook: Tensor

    def values(self) -> Tensor:
        """The tensor that codes and codebook stand for."""
        flat = self.codes.long()
        return torch.where(flat == ZERO_CODE, self.codebook.new_zeros(()), self.codebook[flat.clamp(min=0)])


@dataclass(frozen=True)
class Cast:
    """Promise: every value of `tensor` can be written in `dtype` ("float16" or "bfloat16") without loss."""

    tensor: str
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in FLOAT16:
            raise RecipeError(f"Cast.dtype is one of {', '.join(FLOAT16)}, not {self.dtype!r}")

    def round(self, values: Tensor) -> Tensor:
        """The nearest values that keep the promise, in the dtype that came in; beyond the range, the largest finite."""
        largest = torch.finfo(FLOAT16[self.dtype]).max
        return values.clamp(-largest, largest).to(FLOAT16[self.dtype]).to(values.dtype)


@dataclass(frozen=True, eq=False)
class Keep:
    """Of the `size` positions of dimension `dim` of a tensor keep those in `index` (kept,), ascending; drop the others.

    A parametrized tensor (weight_norm) is named as its module has it: ``conv.weight``.
    """

    tensor: str
    dim: int
    index: Tensor
    size: int

    def __post_init__(self) -> None:
        if not (_whole(self.dim, self.size) and _ascends(self.index) and self.dim >= 0 and self.index[-1] < self.size):
            raise PlanError(
                f"Keep of {self.tensor!r}: dim counts from 0 and index holds one or more positions below size, int64, "
                f"ascending; not dim {self.dim}, size {self.size}, index {self.index}"
            )

    def of(self, values: Tensor) -> Tensor:
        """The positions that are kept of a tensor; PlanError where the dimension is not of the planned size."""
        check_size(values, self.tensor, self.dim, self.size)
        return values.index_select(self.dim, self.index.to(values.device))

    def after(self, earlier: Keep) -> Keep:
        """One Keep that does what `earlier` and then this one do; PlanError where this one was not planned after it."""
        if self.size != len(earlier.index):
            raise PlanError(
                f"dimension {self.dim} of {self.tensor} was cut from {self.size} positions when this was planned; an "
                f"earlier Keep has left {len(earlier.index)}"
            )
        return replace(self, index=earlier.index[self.index], size=earlier.size)


def check_size(values: Tensor, name: str, dim: int, size: int) -> None:
    """PlanError unless a dimension of a tensor is of the size that a Keep was planned for."""
    if dim >= values.dim() or values.shape[dim] != size:
        raise PlanError(
            f"dimension {dim} of {name} was cut from {size} positions when this was planned; here the tensor has the "
            f"shape {tuple(values.shape)}: the plan belongs to another architecture"
        )


def _whole(*numbers: object) -> bool:
    return all(type(number) is int for number in numbers)


def _ascends(index: object) -> bool:
    """Whether these are positions: one or more, each larger than the one before."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.dim() != 1 or not len(index):
        return False
    return bool(index[0] >= 0) and bool((index.diff() > 0).all())


@dataclass(frozen=True)
class Attribute:
    """A whole number of a module that counts channels, heads or groups: ``conv.groups = 8``."""

    module: str
    name: str
    value: int

    def __post_init__(self) -> None:
        if not _whole(self.value) or self.value < 1:
            raise PlanError(f"Attribute {self.module}.{self.name} is a whole number of at least 1, not {self.value!r}")


Structure = Keep | Attribute
Edit = Set | Zero | Share | Cast | Code | Keep | Attribute
KINDS: dict[str, type] = {kind.__name__: kind for kind in (Set, Zero, Share, Cast, Code, Keep, Attribute)}


BINDING = (Zero, Share, Cast, Code)
"""The edits that bind one tensor."""


@dataclass(frozen=True, eq=False)
class Call:
    """How the model is called: an example input and what travels in the file for whoever calls it."""

    example: Any
    normalisation: Mapping[str, Sequence[float]] | None = None
    labels: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Draft:
    """A model as it stands and the edits that led there. The only thing that flows between steps; never altered.

    call: how the model is called, needed to save a file that runs.
    """

    model: nn.Module
    plan: tuple[Edit, ...] = ()
    call: Call | None = None

    @classmethod
    def of(cls, model: nn.Module, task: Task | None = None) -> Draft:
        """The draft that a recipe begins with: the model as it came, no edits."""
        return cls(model, (), None if task is None else Call(task.example, task.normalisation, task.labels))

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, detached; a tied tensor once, under its owner's name."""
        aliases = tied(self.model)
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in aliases}

    def promises(self, tensor: str) -> dict[type, Any]:
        """The edits that bind a tensor, by kind."""
        return {type(edit): edit for edit in self.plan if isinstance(edit, BINDING) and edit.tensor == tensor}

    def structure(self) -> list[Structure]:
        """The edits that changed shapes, relative to the module that the plan began with."""
        return [edit for edit in self.plan if isinstance(edit, Structure)]

    def mask(self, tensor: str) -> Tensor | None:
        """Which entries of a tensor may differ from zero, or None where all may."""
        found = self.promises(tensor)
        if Share in found and (found[Share].codes == ZERO_CODE).any():
            return found[Share].codes != ZERO_CODE
        return found[Zero].mask if Zero in found else None

    def weights(self, pattern: str = "*") -> dict[str, Tensor]:
        """The tensors that compression is about: parameters of two or more dimensions whose name matches `pattern`."""
        parameters = dict(self.model.named_parameters())
        tensors = {name: tensor for name, tensor in self.tensors().items() if name in parameters and tensor.dim() > 1}
        return {name: tensors[name] for name in chosen(tensors, pattern)}

    def save(self, path: str | Path, *, bare: bool = False) -> int:
        """Write the draft as a `.dct` and return its bytes; see `decoct.store.save`."""
        from decoct import store

        return store.save(self, path, bare=bare)


def tied(model: nn.Module) -> dict[str, str]:
    """Map every further name of a shared tensor to the name of its owner, the first in the state dict."""
    owners: dict[int, str] = {}
    state = dict(model.state_dict(keep_vars=True))
    return {
        name: owner
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and (owner := owners.setdefault(id(tensor), name)) != name
    }


def merge(plan: Iterable[Edit], edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Append edits to a plan and keep what still matters; PlanError where a promise would be dropped.

    The result is canonical: what changes shapes, one Set, then each tensor's promises and coder, in the order in which
    tensors were named.
    """
    kept: dict[tuple[str, int], Keep] = {}
    counts: dict[tuple[str, str], Attribute] = {}
    values: dict[str, Tensor] = {}
    bound: dict[str, dict[type, Any]] = {}
    for edit in [*plan, *edits]:
        if isinstance(edit, Attribute):
            counts[edit.module, edit.name] = edit
            continue
        if isinstance(edit, Keep):
            place = (edit.tensor, edit.dim)
            kept[place] = edit.after(kept[place]) if place in kept else edit
            if edit.tensor in values:
                values[edit.tensor] = edit.of(values[edit.tensor])
            if edit.tensor in bound:
                bound[edit.tensor] = _cut(bound[edit.tensor], edit)
            continue
        if isinstance(edit, Set):
            values |= {
                name: new for name, new in edit.tensors.items() if not _is_shared(bound.get(name, {}), name, new)
            }
            continue
        if type(edit) not in KINDS.values():
            raise PlanError(f"{edit!r} is not an edit; an edit is one of {', '.join(KINDS)}")
        found = bound.setdefault(edit.tensor, {})
        _refuse_revival(found, edit)
        found[type(edit)] = edit
        _carry(found, type(edit))
        if isinstance(edit, Share):
            values.pop(edit.tensor, None)
    ordered = [found[kind] for found in bound.values() for kind in BINDING if kind in found]
    return (*kept.values(), *counts.values(), *([Set(values)] if values else []), *ordered)


def _cut(found: dict[type, Any], keep: Keep) -> dict[type, Any]:
    """The promises of one tensor, carried through a Keep of it."""
    cut = dict(found)
    if Zero in found:
        cut[Zero] = replace(found[Zero], mask=keep.of(found[Zero].mask))
    if Share in found:
        cut[Share] = replace(found[Share], codes=keep.of(found[Share].codes))
    return cut


def _is_shared(found: dict[type, Any], name: str, new: Tensor) -> bool:
    """Whether a shared tensor has these values already; PlanError where it has others."""
    if Share not in found:
        return False
    if not torch.equal(found[Share].values(), new.to(found[Share].codebook)):
        raise PlanError(
            f"new values for {name} break the Share that was promised for it: give a Share with a new codebook"
        )
    return True


def _refuse_revival(found: dict[type, Any], edit: Edit) -> None:
    """PlanError where a Zero would give back entries that an earlier one removed."""
    if isinstance(edit, Zero) and Zero in found and (edit.mask & ~found[Zero].mask).any():
        raise PlanError(f"Zero of {edit.tensor!r} keeps entries that an earlier Zero promised to be zero")


def _carry(found: dict[type, Any], newest: type) -> None:
    """Make the promises of one tensor agree after `newest` has come."""
    zero, share, cast = found.get(Zero), found.get(Share), found.get(Cast)
    if zero is not None and share is not None:
        if newest is Zero:
            share = replace(share, codes=torch.where(zero.mask, share.codes, ZERO_CODE))
        elif (~zero.mask & (share.codes != ZERO_CODE)).any():
            raise PlanError(
                f"Share of {share.tensor!r} gives values to entries that an earlier Zero promised to be zero"
            )
    if share is not None and cast is not None:
        share = replace(share, codebook=cast.round(share.codebook))
    if share is not None:
        found[Share] = share


def to_json(plan: Iterable[Edit]) -> str:
    """A plan as JSON text: a list of objects, each with its ``edit`` kind; arrays as dtype, shape and base64."""
    return json.dumps([_object(edit) for edit in plan], separators=(",", ":"))


def from_json(text: str) -> tuple[Edit, ...]:
    """The plan that :func:`to_json` wrote; PlanError for an unknown edit, a missing field, or damaged arrays."""
    try:
        return tuple(_edit(item) for item in json.loads(text))
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"not a plan: {type(error).__name__}: {error}") from error


def _object(edit: Edit) -> dict[str, Any]:
    return {"edit": type(edit).__name__} | {item.name: _plain(getattr(edit, item.name)) for item in fields(edit)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        raw = base64.b64encode(array.reshape(-1).view(torch.uint8).numpy().tobytes()) if array.numel() else b""
        return {"dtype": str(array.dtype).removeprefix("torch."), "shape": list(array.shape), "data": raw.decode()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _edit(item: dict[str, Any]) -> Edit:
    kind = KINDS.get(item["edit"])
    if kind is None:
        raise PlanError(f"unknown edit {item['edit']!r}{nearest(str(item['edit']), KINDS)}; known: {', '.join(KINDS)}")
    expected = {part.name for part in fields(kind)}
    if set(item) - {"edit"} != expected:
        raise PlanError(f"{item['edit']} has the fields {sorted(expected)}, not {sorted(set(item) - {'edit'})}")
    return kind(**{name: _value(value) for name, value in item.items() if name != "edit"})


def _value(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "data"}:
        dtype = getattr(torch, value["dtype"])
        raw = np.frombuffer(base64.b64decode(value["data"], validate=True), np.uint8).copy()
        return torch.from_numpy(raw).view(dtype).reshape(value["shape"])
    if isinstance(value, dict):
        return {name: _value(item) for name, item in value.items()}
    return value
