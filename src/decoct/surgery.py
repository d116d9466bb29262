"""Modules made smaller: tensors cut, and the numbers of their layers made to fit. Only `apply` lets this loose."""

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
from decoct.task import first_line


def reshape(model: nn.Module, edits: Iterable[Structure]) -> None:
    """Do edits of structure to `model` itself."""
    touched: dict[nn.Module, None] = {}
    for edit in edits:
        touched |= dict.fromkeys(cut(model, edit) if isinstance(edit, Keep) else [adjust(model, edit)])
    for module in touched:
        fit(module)


def cut(model: nn.Module, keep: Keep) -> list[nn.Module]:
    """Cut one dimension of a parameter or buffer, under all its names, and return the modules that have it.

    Its gradient is dropped. PlanError where the model has no such tensor, the dimension another size than when the cut
    was planned, or the tensor a parametrization that cannot make the smaller one.
    """
    old = tensor_of(model, keep.tensor)
    new = keep.of(old.detach()).clone(memory_format=torch.contiguous_format)
    path, _, leaf = keep.tensor.rpartition(".")
    module = model.get_submodule(path)
    if not parametrize.is_parametrized(module, leaf):
        return _exchange(model, old, new)
    _remake(model, module, leaf, new, keep.tensor)
    return [module]


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer, or what a parametrized one is seen as; looking changes nothing. PlanError for no such."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        module = nn.Module()
    if parametrize.is_parametrized(module, leaf):
        return _seen(module, leaf)
    held = module._parameters.get(leaf, module._buffers.get(leaf))
    if held is None or isinstance(module, parametrize.ParametrizationList):
        known = [each for each, _ in [*model.named_parameters(), *model.named_buffers()]]
        raise PlanError(f"the model has no tensor {name!r} that can be cut{nearest(name, known)}")
    return held


def _seen(module: nn.Module, leaf: str) -> Tensor:
    """A parametrized tensor as its module's forward sees it in eval mode."""
    chain: Any = module.parametrizations[leaf]  # type: ignore[index]
    modes = {each: each.training for each in chain.modules()}
    chain.eval()  # spectral_norm takes a step towards the norm whenever it is asked while training
    try:
        with torch.no_grad():
            return getattr(module, leaf)
    finally:
        for each, mode in modes.items():
            each.training = mode


def _exchange(model: nn.Module, old: Tensor, new: Tensor) -> list[nn.Module]:
    """Put another tensor in the place of a parameter or buffer, in every module that has it; these are returned."""
    fresh = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    places = [
        (module, name)
        for module in model.modules()
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is old
    ]
    for module, name in places:
        setattr(module, name, fresh)
    return [module for module, _ in places]


def _remake(model: nn.Module, module: nn.Module, leaf: str, wanted: Tensor, name: str) -> None:
    """Give a parametrized tensor originals that make it `wanted`."""
    chain: Any = module.parametrizations[leaf]  # type: ignore[index]
    try:
        value: Any = wanted
        for each in reversed(list(chain)):
            value = each.right_inverse(value)
        originals = [value] if isinstance(value, Tensor) else list(value)
        slots = ["original"] if chain.is_tensor else [f"original{number}" for number in range(chain.ntensors)]
        for slot, original in zip(slots, originals, strict=True):
            _exchange(model, getattr(chain, slot), original.detach().clone())
        made = _seen(module, leaf)
    except Exception as error:  # whatever a parametrization may raise; AttributeError for no right_inverse
        kinds = ", ".join(type(each).__name__ for each in chain)
        raise PlanError(f"{name} is parametrized by {kinds} and cannot be cut: {first_line(error)}") from error
    if made.shape != wanted.shape or not torch.allclose(made, wanted, rtol=1e-4, atol=1e-6):
        raise PlanError(f"{name} is parametrized in a way that does not give the cut values back")


def adjust(model: nn.Module, edit: Attribute) -> nn.Module:
    """Make a number of a module smaller and return the module; PlanError where there is no such number."""
    try:
        module = model.get_submodule(edit.module)
        old = vars(module)[edit.name]
    except (AttributeError, KeyError) as error:
        raise PlanError(
            f"the model has no {edit.module}.{edit.name}: the plan belongs to another architecture"
        ) from error
    if type(old) is not int or edit.value > old:
        raise PlanError(f"{edit.module}.{edit.name} is {old!r}; it cannot become {edit.value} by removing channels")
    setattr(module, edit.name, edit.value)
    return module


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


def _cell(layer: Any) -> None:
    layer.hidden_size, layer.input_size = layer.weight_hh.shape[1], layer.weight_ih.shape[1]


def _prelu(layer: Any) -> None:
    layer.num_parameters = layer.weight.shape[0]


_FITTED: dict[type, Callable[[Any], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.PReLU: _prelu,
}
