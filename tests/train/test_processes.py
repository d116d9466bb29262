"""Two gloo processes that share a global batch train as one process does: equal masks, losses within 1e-4 relative."""

import json
import subprocess
import sys
from pathlib import Path

WORKER = """
import json, sys, torch, torch.nn.functional as F
torch.set_num_threads(1)
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from decoct.apply import extend
from decoct.events import listening
from decoct.plan import Draft
from decoct.prune.magnitude import Magnitude
from decoct.task import Task
from decoct.train.finetune import Finetune

PartialState(cpu=True)
torch.manual_seed(0)
inputs = torch.randn(64, 8)
targets = (inputs.sum(1) > 0).long()
loader = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True)
task = Task(loader, [(inputs, targets)], inputs[:1], F.cross_entropy)
draft = Draft.of(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), task)
heard = []
method = Magnitude(density=0.3, gradual=True, every=2, retrain=Finetune(epochs=4, lr=0.05))
with listening(heard.append):
    after = extend(draft, method.plan(draft, task))
if PartialState().is_main_process:
    with open(sys.argv[1], "w") as file:
        json.dump({
            "processes": PartialState().num_processes,
            "losses": [event["loss"] for event in heard if event["kind"] == "epoch"],
            "masks": {name: after.mask(name).int().flatten().tolist() for name in after.weights()},
        }, file)
"""


def trained(folder: Path, processes: int) -> dict:
    script, out = folder / "worker.py", folder / f"{processes}.json"
    script.write_text(WORKER)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "29617"]
    command = [sys.executable, *(launch if processes > 1 else []), str(script), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, two = trained(tmp_path, 1), trained(tmp_path, 2)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["masks"] == two["masks"]
    for alone, together in zip(one["losses"], two["losses"], strict=True):
        assert abs(alone - together) <= 1e-4 * abs(alone)
