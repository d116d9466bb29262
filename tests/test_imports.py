"""What an import brings along, seen in fresh processes: a device has no torch; nobody waits for what is not used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKSHOP = {"torch", "accelerate", "pydantic", "jinja2", "matplotlib", "onnxscript", "typer"}
UNUSED = {"transformers", "datasets", "matplotlib", "jinja2", "sklearn", "pandas", "onnxscript", "scipy", "torchvision"}


def imported(code: str, *args: str) -> set[str]:
    """The packages that a fresh process has imported after `code`."""
    tail = "\nimport sys\nprint('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code + tail, *args], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_importing_decoct_brings_nothing_heavy() -> None:
    found = imported("import decoct")
    assert "decoct" in found
    assert not found & (WORKSHOP | {"numpy", "onnx", "onnxruntime", "rich", "constriction"})


RUN = """
import decoct, numpy, sys
decoct.pack.pack(sys.argv[1], sys.argv[2])
run = decoct.load(sys.argv[2])
assert run(numpy.ones((2, 32), "f4")).shape == (2, 16)
assert decoct.inspect(sys.argv[2]).parameters == 32 * 16
assert decoct.bench.bench([sys.argv[2]], seconds=0.01)[0].rounds
decoct.pack.unpack(sys.argv[2], sys.argv[1] + ".safetensors")
"""


def test_running_packing_and_measuring_a_file_import_no_torch(network: Path) -> None:
    found = imported(RUN, str(network), str(network.with_suffix(".dct")))
    assert {"numpy", "onnxruntime"} <= found
    assert not found & WORKSHOP


def test_compressing_imports_what_it_uses(tiny: Path) -> None:
    names = imported("import decoct; decoct.compress, decoct.Task, decoct.Recipe, decoct.Draft, decoct.load_module")
    assert {"torch", "pydantic"} <= names
    assert not names & UNUSED
    code = (
        "import decoct, sys\nrecipe = decoct.Recipe.load(sys.argv[1])\n"
        "decoct.compress(recipe.build_model(), recipe, recipe.build_task())"
    )
    used = imported(code, str(tiny))
    assert "accelerate" in used
    assert not used & UNUSED


def test_help_imports_no_torch() -> None:
    code = "from decoct.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0"
    found = imported(code)
    assert "typer" in found
    assert not found & {"torch", "onnx", "onnxruntime", "numpy", "pydantic"}


def test_public_names_are_all_there() -> None:
    import decoct

    for name in decoct.__all__:
        assert getattr(decoct, name) is not None, name
    assert set(decoct.__all__) <= set(dir(decoct))
    with pytest.raises(AttributeError, match="no attribute 'kompress'"):
        decoct.kompress  # noqa: B018
