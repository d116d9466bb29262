"""Modules made smaller: tensors cut, and the numbers of their layers made to fit. Only `apply` calls this."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from decoct.errors import PlanError, nearest
from decoct.plan import Attribute, Keep, Structure


def reshape(model: nn.Module, edits: Iterable[Structure]) -> None:
    """Do edits of structure to `model` itself."""
    touched: dict[str, None] = {}
    for edit in edits:
        if isinstance(edit, Keep):
            cut(model, edit)
            touched[edit.tensor.rpartition(".")[0]] = None
        else:
            adjust(model, edit)
            touched[edit.module] = None
    for path in touched:
        fit(model.get_submodule(path))


def cut(model: nn.Module, keep: Keep) -> None:
    """Cut one dimension of a parameter or buffer, under all its names; its gradient is dropped.

    PlanError where the model has no such tensor, or the dimension another size than when the cut was planned.
    """
    names = {
        name
        for name, _ in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    }
    path, _, leaf = keep.tensor.rpartition(".")
    try:
        module = model.get_submodule(path)
        old = getattr(module, leaf)
    except AttributeError as error:
        raise PlanError(f"the model has no tensor {keep.tensor!r}{nearest(keep.tensor, names)}") from error
    if not isinstance(old, Tensor) or keep.dim >= old.dim() or old.shape[keep.dim] != keep.size:
        found = tuple(old.shape) if isinstance(old, Tensor) else old
        raise PlanError(
            f"dimension {keep.dim} of {keep.tensor} was cut from {keep.size} positions when this was planned; here the "
            f"tensor has the shape {found}: the plan belongs to another architecture"
        )
    new = keep.of(old.detach()).clone(memory_format=torch.contiguous_format)
    if parametrize.is_parametrized(module, leaf):
        _remake(module, leaf, new, keep.tensor)
        return
    fresh: Any = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    for place in model.modules():
        for known in (place._parameters, place._buffers):
            for name in [name for name, tensor in known.items() if tensor is old]:
                setattr(place, name, fresh)


def _remake(module: nn.Module, leaf: str, wanted: Tensor, name: str) -> None:
    """Give a parametrized tensor originals that make it `wanted`."""
    chain: Any = module.parametrizations[leaf]  # type: ignore[index]
    value: Any = wanted
    for each in reversed(list(chain)):
        if not hasattr(each, "right_inverse"):
            raise PlanError(
                f"{name} is parametrized by {type(each).__name__}, which has no right_inverse: it cannot be cut"
            )
        value = each.right_inverse(value)
    originals = list(value) if isinstance(value, tuple | list) else [value]
    slots = (
        ["original"] if "original" in chain._parameters else [f"original{number}" for number in range(len(originals))]
    )
    for slot, original in zip(slots, originals, strict=True):
        setattr(chain, slot, nn.Parameter(original.detach().clone(), chain._parameters[slot].requires_grad))
    with torch.no_grad():
        made = getattr(module, leaf)
    if made.shape != wanted.shape or not torch.allclose(made, wanted, rtol=1e-4, atol=1e-6):
        raise PlanError(f"{name} is parametrized in a way that does not give the cut values back")


def adjust(model: nn.Module, edit: Attribute) -> None:
    """Set a number of a module; PlanError where the model has no such module or number."""
    try:
        module = model.get_submodule(edit.module)
        old = getattr(module, edit.name)
    except AttributeError as error:
        raise PlanError(
            f"the model has no {edit.module}.{edit.name}: the plan belongs to another architecture"
        ) from error
    if not isinstance(old, int) or isinstance(old, bool):
        raise PlanError(f"{edit.module}.{edit.name} is {old!r}, not a number that counts channels")
    setattr(module, edit.name, edit.value)


def fit(module: nn.Module) -> None:
    """Make the sizes that a layer of torch states those of its tensors."""
    for kind, fitted in _FITTED.items():
        if isinstance(module, kind):
            fitted(module)
            return


def _convolution(layer: Any) -> None:
    first, second = layer.weight.shape[:2]
    if isinstance(layer, _ConvTransposeNd):
        layer.in_channels, layer.out_channels = first, second * layer.groups
    else:
        layer.out_channels, layer.in_channels = first, second * layer.groups


def _linear(layer: Any) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _norm(layer: Any) -> None:
    held = [each for each in (layer.weight, layer.running_mean) if each is not None]
    if held:
        layer.num_features = held[0].shape[0]


def _layer_norm(layer: Any) -> None:
    if layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)


def _group_norm(layer: Any) -> None:
    if layer.weight is not None:
        layer.num_channels = layer.weight.shape[0]


def _embedding(layer: Any) -> None:
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _recurrent(layer: Any) -> None:
    gates = layer.weight_hh_l0.shape[0] // _gates(layer)
    layer.hidden_size, layer.input_size = gates, layer.weight_ih_l0.shape[1]
    if layer.proj_size:
        layer.proj_size = layer.weight_hh_l0.shape[1]


def _gates(layer: Any) -> int:
    return {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)


def _prelu(layer: Any) -> None:
    layer.num_parameters = layer.weight.shape[0]


_FITTED: dict[type, Callable[[Any], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.RNNBase: _recurrent,
    nn.PReLU: _prelu,
}
