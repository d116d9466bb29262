"""Trained weights from a file, into a model that has their architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from decoct.errors import DecoctError, RecipeError
from decoct.plan import tied


def load_weights(model: nn.Module, path: Path) -> None:
    """Give `model` the tensors of a .safetensors file, or of a .pt or .pth that holds nothing but tensors.

    RecipeError, naming the first few, for tensors that are missing, unexpected, or of another shape. Counters of batch
    normalisation may be missing: old files have none, and nothing that runs reads them.
    """
    found = read_weights(path)
    state, aliases = model.state_dict(), tied(model)
    missing = [
        name
        for name in state
        if name not in found and aliases.get(name) not in found and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in found if name not in state]
    misfits = [
        f"{name} is {tuple(value.shape)}, the model's is {tuple(state[name].shape)}"
        for name, value in found.items()
        if name in state and value.shape != state[name].shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": misfits}
    if any(wrong.values()):
        said = "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in wrong.items() if names)
        raise RecipeError(f"{path} does not fit the model: {said}")
    model.load_state_dict(found, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix in (".pt", ".pth"):
            held = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(held, Mapping) and all(isinstance(value, Tensor) for value in held.values()):
                return dict(held)
            raise RecipeError(f"{path} holds more than tensors by name: save model.state_dict()")
    except (DecoctError, OSError):
        raise
    except Exception as error:
        raise RecipeError(f"{path} cannot be read as weights: {type(error).__name__}: {error}") from error
    raise RecipeError(f"{path} is no weights file: .safetensors, .pt or .pth is expected")


def _few(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
