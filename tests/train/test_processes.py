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


RUN = """
import sys, torch, torch.nn.functional as F, decoct
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from decoct.prune.magnitude import Magnitude
from decoct.train.finetune import Finetune

PartialState(cpu=True)
torch.manual_seed(0)
inputs = torch.randn(64, 8)
targets = (inputs.sum(1) > 0).long()
task = decoct.Task(DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True), [(inputs, targets)],
                   inputs[:1], F.cross_entropy)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
methods = [Finetune(epochs=2), Magnitude(density=0.3, retrain=Finetune(epochs=1))]
decoct.compress(model, methods, task, sys.argv[1], resume=True)
"""


def launch(script: Path, processes: int, *arguments: Path) -> None:
    """Run a script in so many processes that find each other; its errors are the test's."""
    apart = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "29617"]
    command = [sys.executable, *(apart if processes > 1 else []), str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def trained(folder: Path, processes: int) -> dict:
    script, out = folder / "worker.py", folder / f"{processes}.json"
    script.write_text(WORKER)
    launch(script, processes, out)
    return json.loads(out.read_text())


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, two = trained(tmp_path, 1), trained(tmp_path, 2)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["masks"] == two["masks"]
    for alone, together in zip(one["losses"], two["losses"], strict=True):
        assert abs(alone - together) <= 1e-4 * abs(alone)


def test_a_run_in_two_processes_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script, run = tmp_path / "run.py", tmp_path / "run"
    script.write_text(RUN)
    launch(script, 2, run)
    whole = (run / "model.dct").read_bytes()
    (run / "drafts" / "02-prune.magnitude.dct").unlink()
    (run / "model.dct").unlink()
    launch(script, 2, run)
    assert (run / "model.dct").read_bytes() == whole
