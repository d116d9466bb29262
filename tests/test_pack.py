"""Packing and unpacking model files: every bit back, every kind of ONNX model, the rounding of each mode."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from decoct import events, onnx_stream, runtime
from decoct.errors import FormatError, RecipeError
from decoct.file import open_file
from decoct.pack import Tensor, distinct, lossless, output_axes, pack, scales, unpack

RNG = np.random.default_rng(0)
OPSET = 20


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def pruned(*shape: int) -> np.ndarray:
    """Weights of which a tenth is left, each one of 16 values."""
    table = normal(16)
    return np.where(RNG.random(shape) < 0.1, table[RNG.integers(0, 16, shape)], 0).astype(np.float32)


def model(nodes, inputs, outputs, weights, ir_version=10, opset=OPSET, extra=(), **graph_parts) -> onnx.ModelProto:
    tensors = [
        item if isinstance(item, TensorProto) else numpy_helper.from_array(*item[::-1]) for item in weights.items()
    ]
    tensors += list(extra)
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors, **graph_parts)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(made)
    return made


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


# -------------------------------------------------------------------------------------------------------------- models


def dense():
    nodes = [node("Gemm", "x w1 b1", "h", transB=1, name="first"), node("Relu", "h", "r"), node("MatMul", "r w2", "y")]
    weights = {"w1": normal(64, 32), "b1": normal(64), "w2": pruned(64, 40)}
    return model(nodes, [value("x", ["batch", 32])], [value("y", ["batch", 40])], weights), {"x": normal(3, 32)}


def convolution():
    nodes = [node("Conv", "x w b", "c"), node("ConvTranspose", "c t", "y")]
    weights = {"w": normal(8, 3, 3, 3), "b": normal(8), "t": normal(8, 5, 2, 2)}
    return model(nodes, [value("x", [1, 3, 9, 9])], [value("y", [1, 5, None, None])], weights), {
        "x": normal(1, 3, 9, 9)
    }


def quantised():
    """int8 weights in the QDQ form."""
    nodes = [
        node("DequantizeLinear", "w scale zero", "wf", axis=0),
        node("MatMul", "x wf", "m"),
        node("QuantizeLinear", "m one zero1", "q"),
        node("DequantizeLinear", "q one zero1", "y"),
    ]
    weights = {
        "w": RNG.integers(-127, 128, (32, 48)).astype(np.int8),
        "scale": np.abs(normal(32)) / 100,
        "zero": np.zeros(32, np.int8),
        "one": np.float32(0.05),
        "zero1": np.int8(3),
    }
    return model(nodes, [value("x", [2, 32])], [value("y", [2, 48])], weights), {"x": normal(2, 32)}


def branches():
    """An If whose branches hold weights of their own and read outer ones."""
    then = helper.make_graph(
        [node("MatMul", "x w", "m"), node("Add", "m inner", "then_out")],
        "then",
        [],
        [value("then_out", [2, 64])],
        [numpy_helper.from_array(normal(64), "inner")],
    )
    other = helper.make_graph([node("MatMul", "x only_here", "else_out")], "else", [], [value("else_out", [2, 64])])
    nodes = [node("If", "flag", "y", then_branch=then, else_branch=other)]
    weights = {"w": normal(32, 64), "only_here": normal(32, 64)}
    inputs = [value("x", [2, 32]), value("flag", [], TensorProto.BOOL)]
    return model(nodes, inputs, [value("y", [2, 64])], weights), {"x": normal(2, 32), "flag": np.array(True)}


def loop():
    body = helper.make_graph(
        [node("Identity", "on", "on_out"), node("MatMul", "h w", "h_out")],
        "body",
        [value("i", [], TensorProto.INT64), value("on", [], TensorProto.BOOL), value("h", [2, 32])],
        [value("on_out", [], TensorProto.BOOL), value("h_out", [2, 32])],
    )
    nodes = [node("Loop", "times yes x", "y", body=body)]
    weights = {"w": normal(32, 32) / 6, "times": np.int64(3), "yes": np.bool_(True)}
    return model(nodes, [value("x", [2, 32])], [value("y", [2, 32])], weights), {"x": normal(2, 32)}


def constants():
    """A Constant node with a large tensor, and one with a small."""
    large, small = numpy_helper.from_array(normal(32, 64), "t"), numpy_helper.from_array(np.float32(2), "s")
    nodes = [
        node("Constant", "", "w", value=large),
        node("Constant", "", "two", value=small),
        node("MatMul", "x w", "m"),
        node("Mul", "m two", "y"),
    ]
    return model(nodes, [value("x", [2, 32])], [value("y", [2, 64])], {}), {"x": normal(2, 32)}


def old():
    """Version 3, in which initializers are inputs too."""
    inputs = [value("x", [2, 32]), value("w", [32, 64])]
    return (
        model(
            [node("MatMul", "x w", "y")], inputs, [value("y", [2, 64])], {"w": normal(32, 64)}, ir_version=3, opset=8
        ),
        {"x": normal(2, 32)},
    )


def halves():
    nodes = [node("Cast", "x", "xh", to=TensorProto.FLOAT16), node("MatMul", "xh w", "m"), node("Cast", "m", "y", to=1)]
    weights = {"w": normal(32, 64).astype(np.float16)}
    return model(nodes, [value("x", [2, 32])], [value("y", [2, 64])], weights), {"x": normal(2, 32)}


def brains():
    nodes = [node("Cast", "w", "wf", to=1), node("MatMul", "x wf", "y")]
    weights = {"w": normal(32, 64).astype(ml_dtypes.bfloat16)}
    return model(nodes, [value("x", [2, 32])], [value("y", [2, 64])], weights), {"x": normal(2, 32)}


def doubles():
    nodes = [node("MatMul", "x w", "y")]
    ports = [value("x", [2, 32], TensorProto.DOUBLE)], [value("y", [2, 64], TensorProto.DOUBLE)]
    return model(nodes, *ports, {"w": RNG.standard_normal((32, 64))}), {"x": RNG.standard_normal((2, 32))}


def four_bits():
    packed = helper.make_tensor("w", TensorProto.INT4, [32, 64], RNG.integers(-8, 8, 2048).tolist())
    nodes = [node("DequantizeLinear", "w scale", "wf", axis=1), node("MatMul", "x wf", "y")]
    weights = {"scale": np.abs(normal(64))}
    made = model(nodes, [value("x", [2, 32])], [value("y", [2, 64])], weights, opset=21, extra=[packed])
    made.graph.initializer[1].raw_data = numpy_helper.from_array(numpy_helper.to_array(packed)).raw_data
    made.graph.initializer[1].ClearField("int32_data")
    return made, {"x": normal(2, 32)}


def typed_fields():
    """Numbers in the typed fields of the protobuf instead of raw data, and attributes that state defaults."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [32, 64], normal(2048).tolist())
    nodes = [node("Gemm", "x w", "y", alpha=1.0, transA=0, beta=0.5)]
    return model(nodes, [value("x", [2, 32])], [value("y", [2, 64])], {}, extra=[weight]), {"x": normal(2, 32)}


def words():
    """A table of embeddings, integers, and text that stays in the graph."""
    nodes = [node("Gather", "table x", "y", axis=0), node("Identity", "names", "z")]
    weights = {"table": normal(50, 16), "names": np.array(["a", "b"], object)}
    outputs = [value("y", [3, 16]), value("z", [2], TensorProto.STRING)]
    return model(nodes, [value("x", [3], TensorProto.INT64)], outputs, weights), {"x": np.array([1, 7, 49])}


MODELS = [dense, convolution, quantised, branches, loop, constants, old, halves, brains, doubles, four_bits]
MODELS += [typed_fields, words]


def run(path: Path, feeds) -> list[np.ndarray]:
    return ort.InferenceSession(str(path), runtime.options(1)).run(None, feeds)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_an_onnx_model_comes_back_and_runs_bit_by_bit(tmp_path, make):
    made, feeds = make()
    source, packed, again = tmp_path / "a.onnx", tmp_path / "a.dct", tmp_path / "b.onnx"
    onnx.save(made, source)
    expected = run(source, feeds)
    assert pack(source, packed) == packed.stat().st_size
    assert unpack(packed, again) == again.stat().st_size
    onnx.checker.check_model(str(again), full_check=True)
    assert [result.tolist() for result in run(again, feeds)] == [result.tolist() for result in expected]
    result = runtime.load(packed)(**feeds)
    found = list(result.values()) if isinstance(result, dict) else [result]
    assert [each.tolist() for each in found] == [each.tolist() for each in expected]
    onnx.checker.check_model(runtime.load(packed).onnx(), full_check=True)
    assert len(open_file(packed).names) > 0


def test_the_graph_of_a_small_network_is_small(tmp_path):
    made, _ = dense()
    for each in made.graph.node:
        each.doc_string = "source " * 50
    onnx.save(made, tmp_path / "a.onnx")
    pack(tmp_path / "a.onnx", tmp_path / "a.dct")
    file = open_file(tmp_path / "a.dct")
    assert file.sections()["graph"] < 200
    assert file.meta["inputs"] == [{"name": "x", "shape": [None, 32], "dtype": "float32"}]
    assert file.meta["outputs"] == [{"name": "y", "shape": [None, 40], "dtype": "float32"}]


def test_weights_beside_the_model(tmp_path):
    made, feeds = dense()
    source = tmp_path / "a.onnx"
    onnx.save(made, source, save_as_external_data=True, location="a.bin", size_threshold=0)
    expected = run(source, feeds)
    pack(source, tmp_path / "a.dct")
    assert runtime.load(tmp_path / "a.dct")(**feeds).tolist() == expected[0].tolist()


def test_weights_beside_the_model_do_not_lead_out_of_its_folder(tmp_path):
    made, _ = dense()
    (tmp_path / "inside").mkdir()
    source = tmp_path / "inside" / "a.onnx"
    onnx.save(made, source, save_as_external_data=True, location="a.bin", size_threshold=0)
    (tmp_path / "inside" / "a.bin").rename(tmp_path / "secret")
    (tmp_path / "secret").rename(tmp_path / "se")
    source.write_bytes(source.read_bytes().replace(b"a.bin", b"../se"))
    with pytest.raises((FormatError, OSError)):
        pack(source, tmp_path / "a.dct")
    assert not (tmp_path / "a.dct").exists()


def test_large_weights_are_read_and_written_apart(tmp_path, monkeypatch):
    """What happens beyond 2 GiB, with the bounds lowered."""
    weights = {"w": normal(200, 300), "v": normal(300, 100)}
    made = model(
        [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")],
        [value("x", [2, 200])],
        [value("y", [2, 100])],
        weights,
    )
    source, feeds = tmp_path / "a.onnx", {"x": normal(2, 200)}
    onnx.save(made, source)
    light, raws = onnx_stream.split(source)
    assert set(raws) == {"w", "v"} and light.ByteSize() < 500
    assert np.array_equal(np.frombuffer(raws["w"](), np.float32).reshape(200, 300), weights["w"])
    expected = run(source, feeds)
    pack(source, tmp_path / "a.dct")
    monkeypatch.setattr(onnx_stream, "LARGEST_PROTO", 1000)
    size = unpack(tmp_path / "a.dct", tmp_path / "b.onnx")
    beside = tmp_path / "b.onnx.data"
    assert beside.stat().st_size > 4 * 90_000 and size == beside.stat().st_size + (tmp_path / "b.onnx").stat().st_size
    onnx.checker.check_model(str(tmp_path / "b.onnx"))
    assert run(tmp_path / "b.onnx", feeds)[0].tolist() == expected[0].tolist()


def test_a_sparse_initializer_stays_in_the_graph(tmp_path):
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(3, np.float32), "s"), numpy_helper.from_array(np.array([0, 5, 9])), [4, 4]
    )
    nodes = [node("MatMul", "x w", "m"), node("MatMul", "m s", "y")]
    made = model(nodes, [value("x", [2, 32])], [value("y", [2, 4])], {"w": normal(32, 4)}, sparse_initializer=[sparse])
    onnx.save(made, tmp_path / "a.onnx")
    pack(tmp_path / "a.onnx", tmp_path / "a.dct")
    unpack(tmp_path / "a.dct", tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx").graph.sparse_initializer[0] == sparse


# --------------------------------------------------------------------------------------------------------- safetensors

KINDS = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
]


def test_safetensors_come_back_byte_by_byte(tmp_path):
    tensors = {kind: (100 * normal(7, 9)).astype(kind) for kind in KINDS}
    tensors |= {"pruned": pruned(40, 50), "brain": pruned(40, 50).astype(ml_dtypes.bfloat16)}
    tensors |= {"scalar": np.array(3, np.float32), "none": np.zeros((0, 5), np.float32), "ä": normal(3)}
    tensors["nan"] = np.array([np.nan, -0.0, 0, np.inf], np.float32)
    tensors["e4"] = np.arange(64, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).reshape(8, 8)
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt", "note": "ü"})
    pack(tmp_path / "a.safetensors", tmp_path / "a.dct")
    assert unpack(tmp_path / "a.dct", tmp_path / "b.safetensors") == (tmp_path / "b.safetensors").stat().st_size
    before, after = (
        {name: (part["dtype"], part["shape"], bytes(part["data"])) for name, part in deserialize(path.read_bytes())}
        for path in (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    )
    assert before == after and before.keys() == tensors.keys()
    header = (tmp_path / "b.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"] == {
        "format": "pt",
        "note": "ü",
    }
    file = open_file(tmp_path / "a.dct")
    assert file.stored("pruned").kind == file.stored("brain").kind == "shared"
    assert len(file.stored("pruned").table) == 16 and file.stored("pruned").kept is not None


def test_of_an_onnx_the_weights_unpack_to_safetensors(tmp_path):
    made, _ = dense()
    onnx.save(made, tmp_path / "a.onnx")
    pack(tmp_path / "a.onnx", tmp_path / "a.dct")
    unpack(tmp_path / "a.dct", tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == {"w1", "b1", "w2"}
    assert np.array_equal(found["w2"], numpy_helper.to_array(made.graph.initializer[2]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:4],
        lambda raw: b"\xff" * 8 + raw[8:],
        lambda raw: raw[:-1],
        lambda raw: raw.replace(b"F32", b"Q32"),
        lambda raw: raw.replace(b"[3,4]", b"[3,5]"),
        lambda raw: raw.replace(b"[3,4]", b"[-3]]"),
        lambda raw: raw.replace(b'"shape"', b'"shapf"'),
        lambda raw: raw.replace(b"{", b"[", 1),
    ],
)
def test_damaged_safetensors(tmp_path, damage):
    save_file({"w": normal(3, 4)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(damage((tmp_path / "a.safetensors").read_bytes()))
    with pytest.raises(FormatError, match=r"b\.safetensors"):
        pack(tmp_path / "b.safetensors", tmp_path / "b.dct")
    assert not (tmp_path / "b.dct").exists()


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a", b"\x3a\xff\xff\xff\x0f", bytes(range(256)) * 40])
def test_damaged_onnx(tmp_path, data):
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.onnx"):
        pack(tmp_path / "a.onnx", tmp_path / "a.dct")


# ------------------------------------------------------------------------------------------------------------ the modes


def held(tmp_path, tensors, **arguments):
    save_file(tensors, tmp_path / "a.safetensors")
    pack(tmp_path / "a.safetensors", tmp_path / "a.dct", **arguments)
    return open_file(tmp_path / "a.dct")


def test_half_rounds_to_float16_and_gives_float32(tmp_path):
    tensors = {"w": normal(30, 20), "large": normal(5, 5) * 1e5, "double": RNG.standard_normal((3, 3))}
    file = held(tmp_path, tensors, mode="half")
    assert file.stored("w").data.dtype == np.float16 and file.tensor("w").dtype == np.float32
    assert np.array_equal(file.tensor("w"), tensors["w"].astype(np.float16).astype(np.float32))
    assert np.array_equal(file.tensor("large"), tensors["large"])
    assert np.array_equal(file.tensor("double"), tensors["double"])
    assert held(tmp_path, tensors, mode="bits", bits=16).tensor("w").tolist() == file.tensor("w").tolist()


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_lays_a_symmetric_grid_over_each_channel(tmp_path, bits):
    tensors = {"w": normal(12, 50) * np.arange(1, 13, dtype=np.float32)[:, None], "b": normal(12)}
    file = held(tmp_path, tensors, mode="bits", bits=bits)
    stored = file.stored("w")
    assert stored.kind == "grid" and stored.axis == 0 and stored.table.shape == (12,)
    largest = max(1, 2 ** (bits - 1) - 1)
    assert np.abs(stored.data).max() <= largest
    assert np.array_equal(file.tensor("b"), tensors["b"])
    error = np.abs(file.tensor("w") - tensors["w"]).max(axis=1)
    assert (error <= (0.5 if bits == 8 else 100) * stored.table * 1.001).all()


def test_bits_by_hand(tmp_path):
    """Three bits, levels -3 to 3, a scale for each row; the largest weight of these rows sets it."""
    weights = np.array([[3, -1.5, 0.4, 0], [-0.6, 0.2, 0.4, 0.6]], np.float32)
    file = held(tmp_path, {"w": weights}, mode="bits", bits=8)
    stored = file.stored("w")
    assert stored.table.tolist() == pytest.approx([3 / 127, 0.6 / 127])
    dense = np.zeros(8, int)
    dense[np.arange(8) if stored.kept is None else stored.kept] = stored.data
    assert dense.tolist() == [127, -64, 17, 0, -127, 42, 85, 127]


def test_the_scale_is_at_least_as_good_as_the_largest_weight():
    channels = normal(20, 3000)
    levels = 7

    def error(scale):
        rounded = np.rint(channels / scale[:, None]).clip(-levels, levels) * scale[:, None]
        return ((rounded - channels) ** 2).sum(axis=1)

    plain = np.abs(channels).max(axis=1) / levels
    assert (error(scales(channels, 4)) < 0.9 * error(plain)).all()
    assert scales(np.zeros((2, 4), np.float32), 4).tolist() == [1, 1]
    assert scales(np.array([[1, -3]], np.float32), 1).tolist() == [2]


def test_bits_leaves_what_is_already_coarser(tmp_path):
    tensors = {"w": pruned(64, 64)}
    file = held(tmp_path, tensors, mode="bits", bits=5)
    assert file.stored("w").kind == "shared" and np.array_equal(file.tensor("w"), tensors["w"])


def test_infinite_weights_stay(tmp_path):
    tensors = {"mask": np.where(RNG.random((9, 9)) < 0.5, -np.inf, normal(9, 9)).astype(np.float32)}
    for mode in ({"mode": "bits", "bits": 4}, {"mode": "step", "step": 0.1}, {"mode": "half"}):
        assert np.array_equal(held(tmp_path, tensors, **mode).tensor("mask"), tensors["mask"])


def test_step_rounds_to_multiples(tmp_path):
    tensors = {"w": normal(30, 40), "brain": normal(30, 40).astype(ml_dtypes.bfloat16)}
    file = held(tmp_path, tensors, mode="step", step=0.125)
    assert np.array_equal(file.tensor("w"), np.rint(tensors["w"] / 0.125) * np.float32(0.125))
    assert np.array_equal(file.tensor("brain"), np.rint(tensors["brain"].astype(np.float32) / 0.125) * 0.125)


def test_output_channels_of_onnx_weights():
    made, _ = convolution()
    assert output_axes(made) == {"w": 0, "t": 1}
    made, _ = dense()
    assert output_axes(made) == {"w1": 0, "w2": 1}
    made, _ = words()
    assert output_axes(made) == {"table": 0}


def test_a_grid_of_an_onnx_runs(tmp_path):
    made, feeds = dense()
    onnx.save(made, tmp_path / "a.onnx")
    pack(tmp_path / "a.onnx", tmp_path / "a.dct", mode="bits", bits=8)
    exact = run(tmp_path / "a.onnx", feeds)[0]
    found = runtime.load(tmp_path / "a.dct")(**feeds)
    assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    unpack(tmp_path / "a.dct", tmp_path / "b.onnx")
    assert run(tmp_path / "b.onnx", feeds)[0].tolist() == found.tolist()


def test_a_warning_when_little_was_touched(tmp_path):
    heard: list[dict] = []
    with events.listening(heard.append):
        held(tmp_path, {"integers": np.arange(900), "w": normal(5, 5)}, mode="bits", bits=4)
    warnings = [event["text"] for event in heard if event["kind"] == "warning"]
    assert len(warnings) == 1 and "only 100 of 7,300 bytes took bits" in warnings[0]
    assert [event["done"] for event in heard if event["kind"] == "progress"] == [1, 2]
    heard.clear()
    with events.listening(heard.append):
        held(tmp_path, {"w": normal(5, 5)}, mode="bits", bits=4)
    assert not [event for event in heard if event["kind"] == "warning"]


# ---------------------------------------------------------------------------------------------------- one tensor's form


def tensor(values: np.ndarray) -> tuple[Tensor, np.ndarray]:
    made = Tensor("w", values.dtype.name, values.shape, None, values.tobytes)
    return made, made.bits()


def test_distinct_values_are_found_where_the_sample_misses_some():
    patterns = np.zeros(3_000_000, np.uint32)
    patterns[1] = 7
    patterns[-1] = 9
    assert distinct(patterns).tolist() == [0, 7, 9]
    assert distinct(np.arange(5000, dtype=np.uint32)) is None
    assert distinct(np.zeros(0, np.uint32)) is None


def test_minus_zero_and_nan_are_values():
    values = np.tile(np.array([0.0, -0.0, np.nan, 1.0, 0, 0, 0, 0], np.float32), 20)
    stored = lossless(*tensor(values))
    assert stored.kind == "shared" and len(stored.table) == 3 and len(stored.kept) == 60


def test_many_values_stay_plain():
    assert lossless(*tensor(normal(50, 50))).kind == "plain"


# ------------------------------------------------------------------------------------------------------------- refusals


def test_other_kinds_of_files_are_refused_by_name(tmp_path):
    for name, message in (
        ("a.pt", "it is a pickle.*safetensors"),
        ("a.txt", "cannot pack .txt"),
        ("a", "without a suffix"),
    ):
        with pytest.raises(RecipeError, match=message):
            pack(tmp_path / name, tmp_path / "a.dct")
    with pytest.raises(RecipeError, match=r"cannot unpack to \.npz"):
        unpack(tmp_path / "a.dct", tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        pack(tmp_path / "none.onnx", tmp_path / "a.dct")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "bit", "bits": 4}, "did you mean 'bits'"),
        ({"mode": "bits"}, "bits is given with mode 'bits'"),
        ({"bits": 4}, "bits is given with mode 'bits'"),
        ({"mode": "bits", "bits": 9}, "bits is 1 to 8, or 16, not 9"),
        ({"mode": "bits", "bits": 0}, "bits is 1 to 8, or 16, not 0"),
        ({"mode": "step", "step": 0.0}, "step is above 0"),
        ({"mode": "step", "step": float("nan")}, "step is above 0"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, arguments, message):
    with pytest.raises(RecipeError, match=message):
        pack(tmp_path / "a.onnx", tmp_path / "a.dct", **arguments)


def test_weights_alone_do_not_unpack_to_onnx(tmp_path):
    held(tmp_path, {"w": normal(3, 3)})
    with pytest.raises(FormatError, match="carries no graph"):
        unpack(tmp_path / "a.dct", tmp_path / "a.onnx")
