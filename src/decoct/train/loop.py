"""The one training loop, on Accelerate: devices, mixed precision, processes and machines are its business.

Every training of decoct comes through here: retraining after pruning, centroid training, and whatever is to come calls
it with another loss, penalty or schedule. Promises of the draft hold throughout (`decoct.train.promises`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.utils.data import DataLoader

from decoct.errors import RecipeError, TaskError, TrainingError
from decoct.events import emit
from decoct.plan import Draft, Edit
from decoct.task import Task, call, evaluate, to_device
from decoct.train import promises
from decoct.train.schedule import factor

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

    masks: from the share of the training that is done (0-1) and the current values to the masks of that moment, or None
        to leave them; they may only shrink.
    every: optimizer steps between two calls.
    begin, until: shares of the training between which masks shrink; the best epoch is chosen from those after `until`.
    """

    tensors: tuple[str, ...]
    masks: Callable[[float, dict[str, Tensor]], dict[str, Tensor] | None]
    every: int = 50
    begin: float = 0.1
    until: float = 0.6

    def at(self, step: int, steps: int) -> float | None:
        """How much of the way (0-1) is done if masks are to shrink before this step, else None."""
        first, last = math.ceil(self.begin * steps), math.ceil(self.until * steps)
        if step < first or step > last or (step % self.every and step != last):
            return None
        return min((step / steps - self.begin) / (self.until - self.begin), 1.0) if step < last else 1.0


@dataclass
class _Best:
    """The best state so far, by validation."""

    score: float = math.nan
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


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
    loss: Callable[[Any, Any], Tensor] | None = None,
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

    Raises TrainingError, naming epoch and step, when the loss is no longer a number.
    """
    accelerator = Accelerator(split_batches=True)
    start = {name: torch.ones_like(draft.tensors()[name], dtype=torch.bool) for name in remask.tensors} if remask else {}
    model = promises.realise(draft, start).to(memory_format=torch.channels_last)
    groups = _groups(model, weight_decay)
    loader = _seeded(task.train)
    engine = OPTIMIZERS[optimizer](groups, momentum=momentum, lr=lr)
    model, engine = accelerator.prepare(model, engine)
    loader = accelerator.prepare(loader) if isinstance(loader, DataLoader) else _whole(loader, accelerator)
    inner = accelerator.unwrap_model(model)
    per_epoch = _length(loader)
    steps = max(1, round(per_epoch * epochs))
    best, step, epoch, began = _Best(), 0, 0, time.perf_counter()
    while step < steps:
        epoch += 1
        model.train()
        total = torch.zeros((), device=accelerator.device)
        first = step
        for batch in loader:
            rate = lr * factor(schedule, step / steps, warmup)
            for group in engine.param_groups:
                group["lr"] = rate
            if remask is not None and (done := remask.at(step, steps)) is not None:
                _prune(inner, remask, done, engine)
            value = _step(accelerator, model, engine, task, loss or task.loss, batch, l1, clip)
            total += value
            step += 1
            if not math.isfinite(value.item()):
                raise TrainingError(
                    f"the loss became {value.item()} at step {step - first} of epoch {epoch} (learning rate {rate:.3g}); "
                    "lower the learning rate or clip the gradient"
                )
            emit("progress", what=f"epoch {epoch}", done=step, total=steps)
            if step >= steps:
                break
        if step == first:
            raise TaskError("the train loader is empty: it yields no batch")
        final = remask is None or step > math.ceil(remask.until * steps)
        score = evaluate(inner, task) if accelerator.is_main_process else math.nan
        score = float(broadcast(torch.tensor(score, dtype=torch.float64)).item())
        emit(
            "epoch", epoch=epoch, epochs=math.ceil(steps / per_epoch), loss=(total / (step - first)).item(),
            validation=score, lr=rate, seconds=round(time.perf_counter() - began, 2),
        )  # fmt: skip
        if final and (keep == "last" or task.better(score, best.score)):
            best = _Best(score, epoch, {name: value.detach().clone() for name, value in inner.state_dict().items()})
    inner.load_state_dict(best.state)
    if accelerator.num_processes > 1:
        inner.load_state_dict(broadcast(dict(inner.state_dict())))
    edits = promises.bake(inner, draft)
    accelerator.free_memory()
    return edits


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    loss_of: Callable[[Any, Any], Tensor],
    batch: Any,
    l1: float,
    clip: float | None,
) -> Tensor:
    """One step of the optimizer; returns the loss over all processes."""
    inputs, target = task.split(batch)
    with accelerator.autocast():
        loss = loss_of(call(model, inputs), target)
    penalty = l1 * sum(group.abs().sum() for group in optimizer.param_groups[0]["params"]) if l1 else 0.0
    optimizer.zero_grad()
    accelerator.backward(loss + penalty)
    if clip is not None:
        accelerator.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return accelerator.reduce(loss.detach().float(), "mean") if accelerator.num_processes > 1 else loss.detach().float()


def _prune(model: nn.Module, remask: Remask, done: float, optimizer: Any) -> None:
    values = {name: promises.current(model, name).detach() for name in remask.tensors}
    masks = remask.masks(done, values)
    if masks:
        promises.narrow(model, masks, getattr(optimizer, "optimizer", optimizer))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights and codebooks first, with weight decay; then the rest, without."""
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            codebook = ".parametrizations." in f".{name}" and parameter.dim() == 1 and _from_codebook(model, name)
            (decayed if parameter.dim() > 1 or codebook else rest).append(parameter)
    if not decayed and not rest:
        raise TaskError("the model has no parameter to train")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return groups if decayed else groups[1:]


def _from_codebook(model: nn.Module, name: str) -> bool:
    path = name.replace("parametrizations.", "").removesuffix(".original")
    return promises.binding(model, path, promises.FromCodebook) is not None


def _seeded(loader: Any) -> Any:
    """Make a loader's shuffling start from torch's own seed, so that a training depends on that alone."""
    sampler = getattr(loader, "sampler", None)
    if sampler is not None and hasattr(sampler, "generator"):
        sampler.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
    return loader


class _whole:
    """Batches of any iterable, on the accelerator's device; one process only, since it cannot be parted."""

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
        from decoct.errors import nearest

        raise RecipeError(f"{name} is one of {', '.join(allowed)}, not {value!r}{nearest(str(value), allowed)}")
