"""What a model weighs and what it computes: parameters, non-zeros, bytes, multiply-accumulates."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from decoct.plan import tied
from decoct.task import call, device_of, to_device


@dataclass(frozen=True)
class Layer:
    """One tensor of a model and the work that is done with it.

    macs: multiply-accumulates of one example with a layer's weight, or with one of those of a recurrent layer; else 0.
    macs_nonzero: those of them that have a non-zero weight.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    nonzeros: int
    macs: int
    macs_nonzero: int


def layers(model: nn.Module, example: object) -> list[Layer]:
    """Every parameter of the model, in order; tied ones once. `example` is one batch; MACs are per example."""
    work = macs(model, example)
    aliases = tied(model)
    found = []
    for name, parameter in model.named_parameters():
        if name in aliases:
            continue
        owner, _, leaf = name.rpartition(".")
        weights = _weights(model.get_submodule(owner))
        count = work.get(owner, 0) * weights[leaf] // sum(weights.values()) if leaf in weights else 0
        nonzeros = int(torch.count_nonzero(parameter))
        share = nonzeros / max(parameter.numel(), 1)
        found.append(Layer(name, tuple(parameter.shape), parameter.numel(), nonzeros, count, round(count * share)))
    return found


def _weights(module: nn.Module) -> dict[str, int]:
    """The parameters that a layer's work is done with, by name, and their entries: each is used equally often."""
    recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase)
    return {
        name: parameter.numel() for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1 and (name == "weight" or (recurrent and name.startswith("weight_")))
    }  # fmt: skip


def macs(model: nn.Module, example: object) -> dict[str, int]:
    """Multiply-accumulates of one example by module name, of the modules that compute themselves; "" is the whole."""
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    was_training = model.training
    model.eval()
    inputs = to_device(example, device_of(model))
    with torch.no_grad(), unfused(), counter:
        call(model, inputs)
    model.train(was_training)
    batch = _batch_size(inputs)
    root = type(model).__name__
    counts = {}
    for path, operations in counter.get_flop_counts().items():
        flops = sum(operations.values())
        if path == "Global":
            counts[""] = flops // 2 // batch
        elif path.startswith(f"{root}."):
            counts[path.removeprefix(f"{root}.")] = flops // 2 // batch
    return counts


def _lstm_flops(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    """Of one direction of a layer, from shapes: x (time, batch, features), w_ih (4 hidden, features), w_hh."""
    return 2 * x[0] * x[1] * (w_ih[0] * w_ih[1] + w_hh[0] * w_hh[1])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


UNCOUNTED = {
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
"""What torch's counter does not know of: the kernels that a CPU has for LSTMs and for attention."""


@contextmanager
def unfused() -> Iterator[None]:
    """Let torch's own transformer layers run as the operations that they are made of, which the counter sees."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _batch_size(inputs: object) -> int:
    values = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else [inputs]
    )
    first = next((value for value in values if isinstance(value, Tensor)), None)
    return max(first.shape[0], 1) if first is not None and first.dim() else 1


def raw_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors as they lie in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def zipped_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors as a safetensors file, deflated: what zipping a checkpoint gives."""
    packer, total = zlib.compressobj(6), 0
    with io.BytesIO(safetensors_bytes({name: tensor.contiguous() for name, tensor in tensors.items()})) as raw:
        while block := raw.read(1 << 20):
            total += len(packer.compress(block))
    return total + len(packer.flush())


def histogram(values: Tensor, bins: int = 61) -> tuple[list[float], list[int]]:
    """Edges (bins + 1) and counts (bins) of the non-zero entries, over a range that is symmetric about zero."""
    nonzero = values.detach().float().flatten()
    nonzero = nonzero[nonzero != 0].cpu()
    reach = max(float(nonzero.abs().max()), 1e-12) if nonzero.numel() else 1.0
    counts, edges = torch.histogram(nonzero, bins=bins, range=(-reach, reach))
    return [round(edge, 9) for edge in edges.tolist()], [int(count) for count in counts.tolist()]
