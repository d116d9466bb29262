"""The one training loop, on Accelerate: devices, mixed precision, processes and machines are its business.

Every training of decoct comes through here: retraining after pruning, centroid training, and whatever is to come calls
it with another loss, penalty or schedule. Promises of the draft hold throughout (`decoct.train.promises`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, broadcast
from torch import Tensor, nn
from torch.utils.data import DataLoader

from decoct.errors import RecipeError, TaskError, TrainingError, nearest
from decoct.events import emit
from decoct.plan import Draft, Edit
from decoct.task import Task, call, evaluate, to_device
from decoct.train import promises
from decoct.train.schedule import factor

Loss = Callable[[Any, Any], Tensor]
Penalty = Callable[[nn.Module], Tensor]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, momentum, **rest: torch.optim.SGD(
        parameters, momentum=momentum, nesterov=momentum > 0, fused=True, **rest
    ),
    "adam": lambda parameters, momentum, **rest: torch.optim.Adam(parameters, fused=True, **rest),
    "adamw": lambda parameters, momentum, **rest: torch.optim.AdamW(parameters, fused=True, **rest),
}


@dataclass(frozen=True)
class Remask:
    """Pruning while training: which entries may live, as training goes on.

    masks: from the share of the way that is done (0-1) and the current values to the masks of that moment.
    every: optimizer steps between two calls.
    begin, until: shares of the training between which masks shrink; the best epoch is chosen from those after `until`.
    """

    tensors: tuple[str, ...]
    masks: Callable[[float, dict[str, Tensor]], dict[str, Tensor]]
    every: int = 50
    begin: float = 0.1
    until: float = 0.6

    def start(self, draft: Draft) -> dict[str, Tensor]:
        """Masks that keep everything."""
        tensors = draft.tensors()
        return {name: torch.ones_like(tensors[name], dtype=torch.bool) for name in self.tensors}

    def last(self, steps: int) -> int:
        """The step before which masks shrink for the last time."""
        return min(math.ceil(self.until * steps), steps - 1)

    def at(self, step: int, steps: int) -> float | None:
        """How much of the way (0-1) is done if masks are to shrink before this step, else None."""
        last = self.last(steps)
        first = min(math.ceil(self.begin * steps), last)
        if step < first or step > last or (step % self.every and step != last):
            return None
        return min((step / steps - self.begin) / (self.until - self.begin), 1.0) if step < last else 1.0


def train(
    draft: Draft,
    task: Task,
    *,
    epochs: float,
    lr: float,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    schedule: str = "cosine",
    warmup: float = 0.0,
    clip: float | None = None,
    keep: str = "best",
    loss: Loss | None = None,
    penalty: Penalty | None = None,
    remask: Remask | None = None,
) -> list[Edit]:
    """Train a copy of the draft's model on ``task.train`` and return what changed, as edits.

    epochs: passes over the training data; a fraction ends within one.
    lr, schedule, warmup: see `decoct.train.schedule.factor`; `warmup` is a share of the training.
    weight_decay: on tensors of two or more dimensions and codebooks; biases and norms have none.
    l1: penalty on the absolute values of the same tensors.
    clip: largest norm of the whole gradient.
    keep: "best" keeps the epoch with the best validation score, "last" the last.
    loss: instead of the task's.
    penalty: one number that is added to every loss, of the model as it stands, without any wrapping for processes;
        `promises.current` reads its tensors by name, whatever is promised of them.

    Raises TrainingError, naming epoch and step, when the loss is no longer a number.
    """
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
    masks = remask.start(draft) if remask else {}
    model = _laid_out(promises.realise(draft, masks))
    engine = OPTIMIZERS[optimizer](_groups(model, weight_decay), momentum=momentum, lr=lr)
    prepared, engine = accelerator.prepare(model, engine)
    training = _Training(accelerator, task, prepared, engine, loss or task.loss, l1, penalty, clip, remask)
    best = training.run(
        _batches(task.train, accelerator), epochs, lambda done: lr * factor(schedule, done, warmup), keep
    )
    inner = accelerator.unwrap_model(prepared)
    inner.load_state_dict(best)
    if accelerator.num_processes > 1:
        inner.load_state_dict(broadcast(dict(inner.state_dict())))
    edits = promises.bake(inner, draft)
    accelerator.free_memory()
    return edits


@dataclass
class _Training:
    """One training under way."""

    accelerator: Accelerator
    task: Task
    model: nn.Module
    optimizer: Any
    loss: Loss
    l1: float
    penalty: Penalty | None
    clip: float | None
    remask: Remask | None
    step: int = 0

    def run(self, batches: Any, epochs: float, rate: Callable[[float], float], keep: str) -> dict[str, Tensor]:
        """Train, and return the state of the epoch to keep."""
        per_epoch, inner = _length(batches), self.accelerator.unwrap_model(self.model)
        steps = max(1, round(per_epoch * epochs))
        count, began = math.ceil(steps / per_epoch), time.perf_counter()
        best, state = math.nan, {}
        for epoch in range(1, count + 1):
            loss = self._epoch(batches, epoch, steps, rate)
            score = self._score(inner)
            emit(
                "epoch", epoch=epoch, epochs=count, loss=loss, validation=score, lr=rate((self.step - 1) / steps),
                seconds=round(time.perf_counter() - began, 2),
            )  # fmt: skip
            may_keep = self.remask is None or self.step > self.remask.last(steps)
            if may_keep and (keep == "last" or self.task.better(score, best)):
                best, state = score, {name: each.detach().clone() for name, each in inner.state_dict().items()}
        return state

    def _epoch(self, batches: Any, epoch: int, steps: int, rate: Callable[[float], float]) -> float:
        """Go through the batches once, or until the last step; the mean loss."""
        self.model.train()
        total, first = 0.0, self.step
        for batch in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.step / steps)
            self._prune(steps)
            loss = self._one(batch)
            total, self.step = total + loss, self.step + 1
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} at step {self.step - first} of epoch {epoch} (learning rate "
                    f"{rate(self.step / steps):.3g}); lower the learning rate or clip the gradient"
                )
            emit("progress", what=f"epoch {epoch}", done=self.step, total=steps)
            if self.step >= steps:
                break
        if self.step == first:
            raise TaskError("the train loader is empty: it yields no batch")
        return total / (self.step - first)

    def _one(self, batch: Any) -> float:
        """One step of the optimizer; the loss over all processes."""
        inputs, target = self.task.split(batch)
        with self.accelerator.autocast():
            loss = self.loss(call(self.model, inputs), target)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss + self._penalties())
        if self.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        loss = loss.detach().float()
        return float(self.accelerator.reduce(loss, "mean") if self.accelerator.num_processes > 1 else loss)

    def _penalties(self) -> Tensor | float:
        """What is added to the loss of a batch; the loss that is told of goes without."""
        weights = self.optimizer.param_groups[0]["params"] if self.l1 else ()
        norm = self.l1 * sum(each.abs().sum() for each in weights)
        return norm if self.penalty is None else norm + self.penalty(self.accelerator.unwrap_model(self.model))

    def _prune(self, steps: int) -> None:
        """Shrink the masks if it is time to."""
        if self.remask is None or (done := self.remask.at(self.step, steps)) is None:
            return
        inner = self.accelerator.unwrap_model(self.model)
        values = {name: promises.current(inner, name).detach() for name in self.remask.tensors}
        promises.narrow(inner, self.remask.masks(done, values), self.optimizer.optimizer)

    def _score(self, inner: nn.Module) -> float:
        """The validation score, computed by the main process and told to all."""
        score = evaluate(inner, self.task) if self.accelerator.is_main_process else math.nan
        return float(broadcast(torch.tensor(score, dtype=torch.float64, device=self.accelerator.device)))


def _laid_out(model: nn.Module) -> nn.Module:
    """The model with channels last in memory, which makes two-dimensional convolutions quicker on CPU and GPU."""
    dims = {tensor.dim() for tensor in [*model.parameters(), *model.buffers()]}
    if 4 in dims and 5 not in dims:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights and codebooks first, with weight decay; then the rest, without."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    codebooks = promises.codebooks(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() > 1 or id(parameter) in codebooks else rest).append(parameter)
    if not decayed and not rest:
        raise TaskError("the model has no parameter to train")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return groups if decayed else groups[1:]


def _batches(loader: Any, accelerator: Accelerator) -> Any:
    """The training batches, on the accelerator's device; how they are shuffled depends on torch's seed alone."""
    if not isinstance(loader, DataLoader):
        return _Whole(loader, accelerator)
    if hasattr(loader.sampler, "generator"):
        loader.sampler.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
    return accelerator.prepare(loader)


class _Whole:
    """Batches of any iterable; for one process only, since they cannot be parted."""

    def __init__(self, batches: Any, accelerator: Accelerator) -> None:
        if accelerator.num_processes > 1:
            raise TaskError("training in several processes needs a torch DataLoader as Task.train")
        self.batches, self.device = batches, accelerator.device

    def __iter__(self) -> Any:
        return (to_device(batch, self.device) for batch in self.batches)


def _length(loader: Any) -> int:
    """Batches per epoch; those of a loader without a length are counted."""
    batches = getattr(loader, "batches", loader)
    length = len(batches) if hasattr(batches, "__len__") else sum(1 for _ in batches)
    if not length:
        raise TaskError("the train loader is empty: it yields no batch")
    return length


def check_choice(name: str, value: str, allowed: Any) -> None:
    """RecipeError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise RecipeError(f"{name} is one of {', '.join(allowed)}, not {value!r}{nearest(str(value), allowed)}")
