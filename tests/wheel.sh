#!/usr/bin/env bash
# Builds the wheel and uses it where the sources are out of reach. PYTHON: an interpreter with the locked packages.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
python="$(cd "$(dirname "${PYTHON:-$here/.venv/bin/python}")" && pwd)/$(basename "${PYTHON:-python}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$python" -m build --wheel --no-isolation --outdir "$work" "$here" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --no-deps --no-index "$work"/decoct-*.whl
# The other packages come from the interpreter that has them; the wheel's own decoct stands before them on the path.
site="$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/locked.pth"

cd "$work"
"$work/venv/bin/decoct" --help >/dev/null
"$work/venv/bin/decoct" methods >/dev/null
"$work/venv/bin/decoct" inspect "$here/tests/golden/named.dct" >/dev/null
"$work/venv/bin/python" - <<'EOF'
import sys
from importlib.resources import files

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import decoct

assert decoct.__file__.startswith(sys.prefix), f"the wheel is not what was imported: {decoct.__file__}"
for data in ("py.typed", "report/page.html.jinja", "report/page.css", "report/page.js"):
    assert (files("decoct") / data).is_file(), f"{data} is not in the wheel"
matrix = np.eye(4, dtype=np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])], "line",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    [numpy_helper.from_array(matrix, "w")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "line.onnx")
decoct.pack.pack("line.onnx", "line.dct")
assert np.array_equal(decoct.load("line.dct")(matrix), matrix)
assert "torch" not in sys.modules
EOF
echo "the wheel works: $(basename "$work"/decoct-*.whl)"
