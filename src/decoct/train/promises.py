"""Promises held by construction while a model trains: each becomes a parametrization, and is baked in at the end.

A masked tensor has no gradient where it is zero; a shared tensor is made from its codebook, so that the gradient of an
entry is the sum over the weights that use it (Han et al. 2016, arXiv 1510.00149, equation 3); a cast tensor is rounded
with the gradient passed straight through.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from decoct.plan import BINDING, ZERO_CODE, Cast, Draft, Edit, Set, Share, Zero, tied

Masks = dict[str, Tensor]


class Masked(nn.Module):
    """Removed entries are zero and their gradient is held at zero, so that no optimizer moves them."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, original: Tensor) -> Tensor:
        return _Hold.apply(original, self.mask)


class _Hold(torch.autograd.Function):
    """The tensor itself; backwards, its gradient where the mask is."""

    @staticmethod
    def forward(ctx: Any, original: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return original.view_as(original)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


class Rounded(nn.Module):
    """weight = the nearest 16-bit float; straight-through gradient."""

    def __init__(self, cast: Cast) -> None:
        super().__init__()
        self.cast = cast

    def forward(self, original: Tensor) -> Tensor:
        return original + (self.cast.round(original.detach()) - original.detach())


class FromCodebook(nn.Module):
    """weight = codebook[codes], zero where the code says so; the trained tensor is the codebook (clusters,)."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        flat = share.codes.flatten().long()
        kept = torch.nonzero(flat != ZERO_CODE).flatten()
        self.shape = share.codes.shape
        self.codebook = share.codebook.clone()
        self.register_buffer("kept", kept)
        self.register_buffer("codes", flat[kept])

    def forward(self, codebook: Tensor) -> Tensor:
        return _Spread.apply(codebook, self.kept, self.codes, self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.codebook.to(weight)


class _Spread(torch.autograd.Function):
    """Lay codebook entries out over a tensor; backwards, sum each entry's gradients."""

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, kept: Tensor, codes: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(kept, codes)
        ctx.clusters = codebook.numel()
        weight = codebook.new_zeros(shape.numel())
        weight[kept] = codebook[codes]
        return weight.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        kept, codes = ctx.saved_tensors
        gradient = gradients[0].reshape(-1)[kept]
        return gradient.new_zeros(ctx.clusters).index_add_(0, codes, gradient), None, None, None


def realise(draft: Draft, also_masked: Masks | None = None) -> nn.Module:
    """A copy of the draft's model whose promised tensors are parametrized; tied tensors stay tied.

    also_masked: masks for tensors that have no Zero yet (a gradual pruning begins with all entries kept).
    """
    model = deepcopy(draft.model)
    aliases = tied(model)
    masks = also_masked or {}
    parameters = {name for name, _ in model.named_parameters()}
    names = dict.fromkeys(edit.tensor for edit in draft.plan if isinstance(edit, BINDING))
    for name in [name for name in (*names, *(mask for mask in masks if mask not in names)) if name in parameters]:
        bindings = _bindings(draft.promises(name), masks.get(name))
        for each in bindings:
            _register(model, name, each)
        for alias in (alias for alias, owner in aliases.items() if bindings and owner == name):
            for each in bindings:
                _register(model, alias, each)
            _list(model, alias).original = _list(model, name).original
    return model


def _bindings(promises: dict[type, Any], mask: Tensor | None) -> list[nn.Module]:
    """What to register for one tensor, in the order in which it acts on the trained values."""
    bindings: list[nn.Module] = []
    if Share in promises:
        bindings.append(FromCodebook(promises[Share]))
    if Cast in promises:
        bindings.append(Rounded(promises[Cast]))
    if Zero in promises and Share not in promises:
        bindings.append(Masked(promises[Zero].mask))
    elif mask is not None:
        bindings.append(Masked(mask))
    return bindings


def bake(model: nn.Module, draft: Draft) -> list[Edit]:
    """The edits that a trained, realised model stands for, relative to the draft it was realised from."""
    edits: list[Edit] = []
    values: dict[str, Tensor] = {}
    for name, before in draft.tensors().items():
        after = current(model, name).detach().to(before.device).clone(memory_format=torch.contiguous_format)
        shared, masked = binding(model, name, FromCodebook), binding(model, name, Masked)
        if masked is not None:
            edits.append(Zero(name, masked.mask.bool().to(before.device).clone()))
        if shared is not None:
            share = draft.promises(name)[Share]
            codebook = _list(model, name).original.detach().to(share.codebook).clone()
            edits.append(replace(share, codebook=codebook))
        elif not torch.equal(after, before):
            cast = draft.promises(name).get(Cast)
            values[name] = after if cast is None else cast.round(after)
    return [*([Set(values)] if values else []), *edits]


def current(model: nn.Module, name: str) -> Tensor:
    """A tensor of a realised model as its forward sees it."""
    module, leaf = _place(model, name)
    value = getattr(module, leaf)
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def binding(model: nn.Module, name: str, kind: type) -> Any | None:
    """The parametrization of `kind` on a tensor of a realised model, or None."""
    module, leaf = _place(model, name)
    if not parametrize.is_parametrized(module, leaf):
        return None
    return next((each for each in _list(model, name) if isinstance(each, kind)), None)


def trained(model: nn.Module, name: str) -> Tensor:
    """The tensor that an optimizer moves for `name`: the codebook of a shared tensor, else the original."""
    module, leaf = _place(model, name)
    if parametrize.is_parametrized(module, leaf):
        return _list(model, name).original
    return getattr(module, leaf)


def codebooks(model: nn.Module) -> set[int]:
    """The identities of the trained tensors that are codebooks."""
    lists = [each for each in model.modules() if isinstance(each, parametrize.ParametrizationList)]
    return {id(each.original) for each in lists if isinstance(each[0], FromCodebook)}


def narrow(model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer) -> None:
    """Remove more entries while training: masks only shrink, and removed weights lose value and optimizer state."""
    with torch.no_grad():
        for name, mask in masks.items():
            masked = binding(model, name, Masked)
            assert masked is not None
            held = masked.mask
            held.logical_and_(mask.to(held.device))
            original = trained(model, name)
            original.mul_(held)
            for state in optimizer.state.get(original, {}).values():
                if isinstance(state, Tensor) and state.shape == held.shape:
                    state.mul_(held)


def _register(model: nn.Module, name: str, how: nn.Module) -> None:
    module, leaf = _place(model, name)
    parametrize.register_parametrization(module, leaf, how, unsafe=True)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _list(model: nn.Module, name: str) -> Any:
    module, leaf = _place(model, name)
    return module.parametrizations[leaf]  # type: ignore[index]
