"""Half of ResNet-20's work on CIFAR-10, beside Torch-Pruning: accuracy right after pruning and after retraining.

    python benchmarks/torch_pruning.py --rival RIVAL/bin/python [--results results/torch-pruning.json]
        [--recipe recipes/resnet-20-half.toml] [--run runs/resnet-20-half] [--threads 2] [--seed 0]

Both sides start from the same trained weights, see the same 45,000 images, have the same threads, and run one after the
other; accuracy is in percent of the 10,000 test images, of the last model. Torch-Pruning removes half of the filters
inside every block, those with the lowest L1 norm, then retrains for 3 epochs: SGD, lr 0.02 one-cycle, momentum 0.9,
weight decay 5e-4, batch 128, no distillation. Its row "filters" ranks by the norm of the filters alone (group_reduction
"first"); "group", its default, by the mean norm of all that goes with a filter (not retrained here). "anew" is the
accuracy before retraining with BatchNorm statistics estimated anew on 20 batches, which it leaves to its user; decoct's
pruning steps do such things themselves, so that ours has this figure alone, from the recipe's pruning steps without
their retraining. Seconds are of pruning and retraining. The rows of the whole network say whether what Torch-Pruning
leaves still runs when the residual stream may be pruned as well, by 0.3.

RIVAL is an environment of its own, and DECOCT_DATA names the folder of data and weights:

    python3.11 -m venv RIVAL
    RIVAL/bin/pip install torch==2.13.0 torch-pruning==1.6.1 numpy constriction datasets pillow safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decoct.data import cifar10
from decoct.measure import macs
from decoct.models import resnet_20
from decoct.task import Task, evaluate, first_line
from decoct.weights import load_weights

WEIGHTS = "cifar10-resnet20.safetensors"
SCORES = ("pruned", "anew", "retrained")
BATCH, EPOCHS, LR, MOMENTUM, DECAY = 128, 3, 0.02, 0.9, 5e-4
STATISTICS = 20  # batches, as decoct's prune.filters takes by default
WHOLE_RATIO = 0.3
STREAM = "conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"


def trained() -> nn.Module:
    """ResNet-20 with the shared weights."""
    model = resnet_20()
    load_weights(model, Path(os.environ["DECOCT_DATA"]) / "weights" / WEIGHTS)
    return model.eval()


def halved(reduction: str, example: Tensor) -> nn.Module:
    """ResNet-20 after Torch-Pruning: of each block's first convolution half of the filters, group by group."""
    import torch_pruning as tp

    model = trained()
    importance = tp.importance.MagnitudeImportance(p=1, group_reduction=reduction)
    graph = tp.DependencyGraph().build_dependency(model, example)
    for block in [*model.layer1, *model.layer2, *model.layer3]:
        layer = block.conv1
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))
        lowest = importance(group).argsort()[: layer.out_channels // 2].tolist()
        graph.get_pruning_group(layer, tp.prune_conv_out_channels, lowest).prune()
    return model


def retrain(model: nn.Module, task: Task) -> None:
    """Plain retraining, without distillation; the last epoch stays."""
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    steps = EPOCHS * len(task.train)  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        for images, labels in task.train:
            optimizer.zero_grad()
            task.loss(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def anew(model: nn.Module, task: Task) -> nn.Module:
    """A copy with the BatchNorm statistics of the first training batches."""
    model = deepcopy(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the plain average
    model.train()
    with torch.no_grad():
        for images, _ in islice(task.train, STATISTICS):
            model(images)
    return model.eval()


def theirs(reduction: str, name: str, task: Task, seed: int, retrained: bool) -> dict[str, Any]:
    """The row of one of Torch-Pruning's importances."""
    torch.manual_seed(seed)
    before = macs(trained(), task.example)[""]
    start = time.perf_counter()
    model = halved(reduction, task.example)
    seconds = time.perf_counter() - start
    found = row(f"Torch-Pruning, {name}", before, macs(model, task.example)[""])
    found |= {"pruned": evaluate(model, task, "test"), "anew": evaluate(anew(model, task), task, "test")}
    if not retrained:
        return found | {"retrained": None, "seconds": round(seconds, 1)}
    torch.manual_seed(seed)
    start = time.perf_counter()
    retrain(model, task)
    seconds += time.perf_counter() - start
    return found | {"retrained": evaluate(model, task, "test"), "seconds": round(seconds, 1)}


def whole(scope: str, task: Task) -> dict[str, Any]:
    """Torch-Pruning on all of the network but its classes: the width of each stage's stream, and whether it runs."""
    import torch_pruning as tp

    model = trained()
    pruner = tp.pruner.MagnitudePruner(
        model, task.example, tp.importance.MagnitudeImportance(p=1), global_pruning=scope == "global",
        pruning_ratio=WHOLE_RATIO, ignored_layers=[model.linear],
    )  # fmt: skip
    try:
        pruner.step()
        left = "-".join(str(model.get_submodule(name).out_channels) for name in STREAM)
        reads = str(model.linear.in_features)
        return {"scope": scope, "stream": left, "classifier reads": reads} | runs(model, task)
    except Exception as error:  # noqa: BLE001  whatever the rival raises is its result
        return {"scope": scope, "stream": None, "classifier reads": None, "runs": False, "says": first_line(error)}


def runs(model: nn.Module, task: Task) -> dict[str, Any]:
    """Whether a model takes an image, and what it says if not."""
    try:
        with torch.no_grad():
            model(task.example)
    except Exception as error:  # noqa: BLE001  whatever the rival's model raises is its result
        return {"runs": False, "says": first_line(error)}
    return {"runs": True, "says": ""}


def rival(seed: int, threads: int) -> dict[str, Any]:
    """The rival's side, in its own environment."""
    torch.set_num_threads(threads)
    task = cifar10(BATCH)
    rows = []
    for reduction, name in (("first", "filters"), ("mean", "group")):
        rows.append(theirs(reduction, name, task, seed, retrained=name == "filters"))
        print(show(rows[-1]), file=sys.stderr, flush=True)
    return {
        "unpruned": evaluate(trained(), task, "test"),
        "rows": rows,
        "whole": [whole(scope, task) for scope in ("global", "local")],
        "versions": {name: version(name) for name in ("torch-pruning", "torch", "numpy")},
    }


def row(program: str, before: int, after: int) -> dict[str, Any]:
    """The beginning of a line of the table."""
    return {"program": program, "MACs before": before, "MACs after": after, "MACs ratio": round(before / after, 3)}


def apart(chosen: argparse.Namespace) -> dict[str, Any]:
    """:func:`rival` by its interpreter. -P: this file bears the package's name and would be found in its place."""
    command = [chosen.rival, "-P", __file__, "--side", "rival", "--seed", chosen.seed, "--threads", chosen.threads]
    source = str(Path(__file__).resolve().parents[1] / "src")
    said = call(command, chosen.threads, stdout=subprocess.PIPE, source=source).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def call(
    command: Sequence[object], threads: int, stdout: int | None = None, source: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a side of the comparison on `threads` threads; CalledProcessError where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"PYTHONPATH": source} if source else {}
    return subprocess.run(list(map(str, command)), check=True, stdout=stdout, text=True, env=environment)


def compressed(recipe: Path, folder: Path, threads: int, *record: object) -> list[dict[str, Any]]:
    """The rows of `decoct compress`, one per stage; the last is the file's, its score on the test images."""
    call([sys.executable, "-m", "decoct", "compress", recipe, "-o", folder, "--cpu", *record], threads)
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def unhealed(recipe: Path, folder: Path) -> Path:
    """The recipe's pruning steps alone, without retraining, as a recipe in `folder`."""
    from decoct.recipe import Recipe

    asked = Recipe.load(recipe)
    steps = [
        {name: value for name, value in step.items() if name != "retrain"}
        for step in asked.step
        if step["method"].startswith("prune.")
    ]
    path = folder / f"{asked.name}-unhealed.toml"
    path.write_text(asked.model_copy(update={"step": steps}).to_toml())
    return path


def ours(recipe: Path, run: Path, results: Path, threads: int) -> dict[str, Any]:
    """The row of decoct; the whole run stays in the folder `run`, and is recorded beside the comparison."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pruned = compressed(unhealed(recipe, folder), folder / "unhealed", threads)
    rows = compressed(recipe, run, threads, "--results", results.parent)
    last = rows[-1]
    found = row(f"decoct, {recipe.stem}", rows[0]["macs"], last["macs"])
    scores = {"pruned": None, "anew": pruned[-1]["score"], "retrained": last["score"]}
    return found | scores | {"seconds": last["seconds"]}


def show(line: dict[str, Any]) -> str:
    """One row as text."""
    scores = "".join(f"{line[name]:9.2f}" if line[name] is not None else f"{'':9}" for name in SCORES)
    return f"{line['program']:28}{line['MACs ratio']:8.3f} x{scores}{line['seconds']:9.1f} s"


def result(chosen: argparse.Namespace, theirs: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What is written."""
    from decoct.report.results import machine

    versions = {"python": platform.python_version()} | {name: version(name) for name in ("decoct", "torch", "numpy")}
    return {
        "benchmark": True, "name": "torch-pruning", "title": "Half of ResNet-20's work, beside Torch-Pruning",
        "description": " ".join((__doc__ or "").split("\n\n")[2].split()),
        "command": f"python benchmarks/torch_pruning.py --rival RIVAL/bin/python --recipe {chosen.recipe}",
        "versions": versions, "rival_versions": theirs["versions"], "machine": machine() | {"threads": chosen.threads},
        "seed": chosen.seed, "unpruned_accuracy": theirs["unpruned"],
        "table": [*theirs["rows"], own], "the whole network": theirs["whole"],
    }  # fmt: skip


def main() -> None:
    """Measure both sides, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", type=Path, help="the Python of the environment that has torch-pruning")
    parser.add_argument("--results", type=Path, default=Path("results/torch-pruning.json"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/resnet-20-half.toml"))
    parser.add_argument("--run", type=Path, default=Path("runs/resnet-20-half"), help="folder of decoct's own run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the rival's retraining; the recipe has its own")
    parser.add_argument("--side", choices=["rival"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(rival(chosen.seed, chosen.threads)))
        return
    if chosen.rival is None or not chosen.recipe.is_file():
        parser.error(f"--rival is needed, and the recipe {chosen.recipe} must be there")
    from decoct.report.page import replace_text

    print(f"{'':28}{'MACs':>10}{SCORES[0]:>9}{SCORES[1]:>9}{SCORES[2]:>9}")
    found = apart(chosen)
    own = ours(chosen.recipe, chosen.run, chosen.results, chosen.threads)
    print(show(own))
    replace_text(chosen.results, json.dumps(result(chosen, found, own), indent=1) + "\n")


if __name__ == "__main__":
    main()
