"""A Task: the user's problem, all of it. Data, an example input, what is lost and what is scored.

A batch may be a tensor, a tuple or list ``(inputs, target)``, or a dict as transformers gives it; the loss and the
score are any functions of the model's output and the target. Nothing here knows of classification but :func:`accuracy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from decoct.errors import TaskError

Split = Literal["train", "validation", "test"]
Score = Callable[[Any, Any], float]


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Part a batch into what the model is called with and what its output is compared to.

    ``(inputs, target)`` is itself; of a longer tuple the last is the target; a dict gives up its ``labels`` (or
    ``label``) if it has them; a lone tensor is its own target, as for an autoencoder.
    """
    if isinstance(batch, Mapping):
        for key in ("labels", "label"):
            if key in batch:
                return {name: value for name, value in batch.items() if name != key}, batch[key]
        return batch, batch
    if isinstance(batch, Sequence) and len(batch) >= 2:
        return (batch[0] if len(batch) == 2 else tuple(batch[:-1])), batch[-1]
    if isinstance(batch, Sequence) and len(batch) == 1:
        return batch[0], batch[0]
    return batch, batch


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call `model` on inputs in any form; an output that carries ``logits`` (transformers) gives these."""
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    elif isinstance(inputs, tuple | list):
        output = model(*inputs)
    else:
        output = model(inputs)
    return getattr(output, "logits", output)


def accuracy(output: Tensor, target: Tensor) -> float:
    """Percent of rows of `output` (batch, classes) whose largest entry is at `target` (batch,)."""
    return 100.0 * (output.argmax(1) == target).double().mean().item()


@dataclass(frozen=True, eq=False)
class Task:
    """The user's problem.

    train, validation, test: iterables of batches that can be gone through many times (a DataLoader, a list). Choices
        are made on validation; test is read once, for the last model.
    example: one input as the model is called with it: a tensor, a tuple, or a dict; its first dimension is the batch.
    loss: ``loss(output, target) -> scalar tensor``.
    score: ``score(outputs, targets) -> float`` over a whole split, tensors joined along the batch.
    normalisation: ``{"mean": [...], "std": [...]}`` that the data has had, per channel; travels in the file.
    labels: the names of the classes; travel in the file.
    split: parts a batch into inputs and target; see :func:`split_batch`.
    """

    train: Iterable[Any]
    validation: Iterable[Any]
    example: Any
    loss: Callable[[Any, Any], Tensor]
    score: Score = accuracy
    test: Iterable[Any] | None = None
    normalisation: Mapping[str, Sequence[float]] | None = None
    labels: Sequence[str] | None = None
    higher_is_better: bool = True
    split: Callable[[Any], tuple[Any, Any]] = split_batch

    @property
    def score_name(self) -> str:
        """The name of the score, for tables."""
        return getattr(self.score, "__name__", type(self.score).__name__)

    def better(self, score: float, than: float) -> bool:
        """Whether `score` is better than another, or that other is no number yet."""
        if math.isnan(than):
            return True
        return score > than if self.higher_is_better else score < than

    def batches(self, split: Split) -> Iterable[Any]:
        """The batches of a split; TaskError where the task has none."""
        loader = getattr(self, split)
        if loader is None:
            raise TaskError(f"the task has no {split} data: give Task({split}=...)")
        return loader

    def check(self, model: nn.Module) -> None:
        """Raise TaskError, naming the part, unless model, data, loss and score fit together on one batch."""
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                self._check(model)
        finally:
            model.train(was_training)

    def _check(self, model: nn.Module) -> None:
        device = device_of(model)
        try:
            call(model, to_device(self.example, device))
        except Exception as error:
            raise TaskError(f"the model's forward fails on the task's example: {first_line(error)}") from error
        for split in ("train", "validation"):
            batch = next(iter(islice(self.batches(split), 1)), None)
            if batch is None:
                raise TaskError(f"the {split} loader is empty: it yields no batch")
            inputs, target = self.split(to_device(batch, device))
            try:
                output = call(model, inputs)
                loss = self.loss(output, target)
            except Exception as error:
                raise TaskError(f"forward or loss fails on a {split} batch: {first_line(error)}") from error
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise TaskError(f"the loss must return one number as a tensor, not {describe(loss)}")
            self.scored(output, target)

    def scored(self, outputs: Any, targets: Any) -> float:
        """The score as a float; TaskError if it is not one finite number."""
        try:
            score = float(self.score(outputs, targets))
        except Exception as error:
            raise TaskError(f"the score {self.score_name!r} fails: {first_line(error)}") from error
        if not math.isfinite(score):
            raise TaskError(f"the score {self.score_name!r} gave {score}, which is not a number to compare by")
        return score


def evaluate(model: Callable[..., Any], task: Task, split: Split = "validation") -> float:
    """Score `model` (a module, or anything that is called like one, such as a Runtime) on a whole split."""
    device = device_of(model) if isinstance(model, nn.Module) else torch.device("cpu")
    was_training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    outputs, targets = [], []
    try:
        with torch.inference_mode():
            for batch in task.batches(split):
                inputs, target = task.split(to_device(batch, device))
                outputs.append(to_device(call(model, inputs), torch.device("cpu")))
                targets.append(to_device(target, torch.device("cpu")))
    finally:
        if isinstance(model, nn.Module):
            model.train(was_training)
    if not outputs:
        raise TaskError(f"the {split} loader is empty: it yields no batch")
    return task.scored(join(outputs), join(targets))


def join(parts: Sequence[Any]) -> Any:
    """Join batches of tensors, or of tuples and dicts of them, along the batch; other things become one list."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part if part.dim() else part[None] for part in parts])
    if isinstance(first, Mapping):
        return {name: join([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(join(column) for column in zip(*parts, strict=True))
    return [item for part in parts for item in (part if isinstance(part, list) else [part])]


def to_device(values: Any, device: torch.device) -> Any:
    """Move every tensor in a nest of tuples, lists and dicts."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first tensor lies; the CPU for a model without any."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def first_line(error: BaseException) -> str:
    """An error in one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def describe(value: Any) -> str:
    """A value in a few words, for messages."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
