"""Running a file: inputs, outputs, refusals, and no torch anywhere near."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoct import graph_weights
from decoct.coding import Stored
from decoct.errors import FormatError, TaskError
from decoct.file import Entry, open_file, write
from decoct.runtime import load, named_inputs

WEIGHT = np.random.default_rng(0).standard_normal((4, 600)).astype(np.float32)
BIAS = np.arange(600, dtype=np.float32)


def linear(names=("w", "b")) -> onnx.ModelProto:
    """y = x w + b and s = the sum of y."""
    nodes = [
        helper.make_node("MatMul", ["x", names[0]], ["product"]),
        helper.make_node("Add", ["product", names[1]], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["s"], keepdims=0),
    ]
    ports = [
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["n", 4]), ("y", ["n", 600]), ("s", []))
    ]
    weights = [numpy_helper.from_array(WEIGHT, names[0]), numpy_helper.from_array(BIAS, names[1])]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def saved(path, held=("w", "b"), names=("w", "b"), aliases=(), outputs=2, weight=WEIGHT, **meta):
    """The model as a file whose tensors are called `held`."""
    made = linear(names)
    del made.graph.output[outputs:]
    about = graph_weights.signature(made) | meta
    tensors = dict(zip(held, (weight, BIAS), strict=False))
    graph = graph_weights.strip(made, [*tensors, *dict(aliases)])
    entries = [Entry(name, Stored(each.shape, "float32", "plain", each.reshape(-1))) for name, each in tensors.items()]
    write(path, entries, about, graph, aliases=dict(aliases))
    return path


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)


def test_one_output_is_an_array(tmp_path, x):
    runtime = load(saved(tmp_path / "a.dct", outputs=1))
    assert np.allclose(runtime(x), x @ WEIGHT + BIAS, atol=1e-5)
    assert runtime.outputs == [{"name": "y", "shape": [None, 600], "dtype": "float32"}]
    assert np.array_equal(runtime(x=x), runtime(x)) and runtime(x[:1]).shape == (1, 600)


def test_several_outputs_are_named(tmp_path, x):
    found = load(saved(tmp_path / "a.dct"), threads=2)(x)
    assert set(found) == {"y", "s"} and found["s"].shape == ()


def test_what_the_file_says_of_its_inputs_and_outputs(tmp_path):
    normalisation = {"mean": [0.13], "std": [0.3]}
    runtime = load(saved(tmp_path / "a.dct", normalisation=normalisation, labels=["no", "yes"]))
    assert runtime.normalisation == normalisation and runtime.labels == ["no", "yes"]
    assert runtime.inputs == [{"name": "x", "shape": [None, 4], "dtype": "float32"}]
    assert np.array_equal(runtime.tensor("w"), WEIGHT)
    assert "x float32[None, 4]" in repr(runtime)


def test_bytes_run_as_a_path_does(tmp_path, x):
    path = saved(tmp_path / "a.dct", outputs=1)
    assert np.array_equal(load(path.read_bytes())(x), load(path)(x))


def test_weights_under_a_prefix_and_under_an_alias(tmp_path, x):
    expected = load(saved(tmp_path / "a.dct", outputs=1))(x)
    assert np.array_equal(load(saved(tmp_path / "b.dct", held=("graph.w", "b"), outputs=1))(x), expected)
    tied = saved(tmp_path / "c.dct", held=("owner", "b"), aliases=[("w", "owner")], outputs=1)
    assert np.array_equal(load(tied)(x), expected)


def test_constants_of_a_graph_become_tensors_of_the_file():
    made = linear()
    found = graph_weights.constants(made, {"b"})
    assert list(found) == ["graph.w"] and np.array_equal(found["graph.w"], WEIGHT)
    graph = graph_weights.strip(made, ["b", *found])
    assert onnx.ModelProto.FromString(graph).graph.initializer == []


def test_the_onnx_model_has_its_weights_again(tmp_path):
    made = load(saved(tmp_path / "a.dct")).onnx()
    onnx.checker.check_model(made, full_check=True)
    assert {weight.name: weight.dims for weight in made.graph.initializer} == {"w": [4, 600], "b": [600]}


def test_other_dtypes_and_wrong_shapes(tmp_path, x):
    runtime = load(saved(tmp_path / "a.dct", outputs=1))
    assert np.array_equal(runtime(x.astype(np.float64)), runtime(x))
    assert np.array_equal(runtime(x.tolist()), runtime(x))
    with pytest.raises(TaskError, match=r"'x' has the shape \[None, 4\]; given was \[3, 3\]"):
        runtime(x[:, :3])
    with pytest.raises(TaskError, match=r"given was \[4\]"):
        runtime(x[0])
    with pytest.raises(TaskError, match="'x' is float32; given was complex128"):
        runtime(x.astype(complex))


def test_inputs_by_place_and_name():
    assert named_inputs(["a", "b"], [1], {"b": 2}) == {"a": 1, "b": 2}
    for given, named, message in (
        ([1], {}, "inputs are a, b; given were 1"),
        ([1, 2, 3], {}, "given were 3"),
        ([1, 2], {"b": 3}, "given were 2"),
        ([1], {"bb": 2}, "no input 'bb'; did you mean 'b'"),
    ):
        with pytest.raises(TaskError, match=message):
            named_inputs(["a", "b"], given, named)


def test_a_file_that_carries_no_graph_says_what_to_do(tmp_path):
    entry = Entry("w", Stored((4, 600), "float32", "plain", WEIGHT.reshape(-1)))
    write(tmp_path / "a.dct", [entry], {}, bare=True)
    with pytest.raises(FormatError, match=r"is bare: it carries no graph to run; use decoct\.load_module"):
        load(tmp_path / "a.dct")
    write(tmp_path / "a.dct", [entry], {})
    with pytest.raises(FormatError, match="holds weights only and carries no graph"):
        load(tmp_path / "a.dct")


def test_a_graph_that_reads_what_is_not_there(tmp_path):
    made = linear()
    write(tmp_path / "a.dct", [], {}, graph_weights.strip(made, ["w"]))
    with pytest.raises(FormatError, match="its graph reads 'w', which neither"):
        load(tmp_path / "a.dct")
    with pytest.raises(FormatError, match="ONNX Runtime does not accept"):
        load(saved(tmp_path / "a.dct", weight=WEIGHT[:3]))


def test_a_graph_that_is_none(tmp_path):
    for graph in (b"", b"\xff\xff", b"\x08\x0a"):
        write(tmp_path / "a.dct", [], {}, graph)
        with pytest.raises(FormatError, match="graph is not an ONNX model"):
            load(tmp_path / "a.dct")


def test_a_stub_of_another_size(tmp_path):
    made = linear()
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 600]))  # so that a stub stays
    graph = graph_weights.strip(made, ["w"])
    write(tmp_path / "a.dct", [Entry("w", Stored((3,), "float32", "plain", WEIGHT[0, :3]))], {}, graph)
    with pytest.raises(FormatError, match=r"'w' is float32\[3\] in the file, another size in its graph"):
        load(tmp_path / "a.dct")


def test_short_names_do_not_meet_those_that_stay():
    """A weight called "a" keeps its name, and no value gets it."""
    made = linear(names=("a", "c"))
    made.graph.input[0].name = made.graph.node[0].input[0] = "b"
    graph = onnx.ModelProto.FromString(graph_weights.strip(made, ["a"])).graph
    assert [list(node.input) for node in graph.node] == [["b", "a"], ["d", "c"], ["y"]]


def test_running_a_file_imports_no_torch(tmp_path):
    path = saved(tmp_path / "a.dct")
    code = (
        "import sys, numpy as np, decoct; from decoct import pack, contents, bench\n"
        f"run = decoct.load({str(path)!r}); run(np.ones((1, 4), np.float32)); contents.inspect({str(path)!r})\n"
        f"pack.unpack({str(path)!r}, {str(tmp_path / 'b.onnx')!r})\n"
        "assert not {'torch', 'accelerate', 'matplotlib', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_device_may_have_less_memory_than_the_file_asks_for(tmp_path):
    with pytest.raises(FormatError, match="the limit is 100"):
        load(saved(tmp_path / "a.dct"), limit_bytes=100)
    assert open_file(saved(tmp_path / "a.dct"), 20_000).tensor("b").shape == (600,)
