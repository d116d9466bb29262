"""What a model weighs and what it computes: parameters, non-zeros, bytes, multiply-accumulates."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from decoct.plan import tied
from decoct.task import call, device_of, to_device


@dataclass(frozen=True)
class Layer:
    """One tensor of a model and the work that is done with it.

    macs: multiply-accumulates of one example in the layer that owns the tensor, if it is that layer's weight; else 0.
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
        count = work.get(owner, 0) if leaf == "weight" and parameter.dim() > 1 else 0
        nonzeros = int(torch.count_nonzero(parameter))
        share = nonzeros / max(parameter.numel(), 1)
        found.append(Layer(name, tuple(parameter.shape), parameter.numel(), nonzeros, count, round(count * share)))
    return found


def macs(model: nn.Module, example: object) -> dict[str, int]:
    """Multiply-accumulates of one example by module name, of the modules that compute themselves; "" is the whole."""
    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    inputs = to_device(example, device_of(model))
    with torch.no_grad(), counter:
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
