"""Timing side by side: rounds, figures, refusals. Nothing here depends on how fast the machine is."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from decoct.bench import LEAST_ROUNDS, WARM_UP, bench, interleave, resident_peak
from decoct.errors import FormatError, RecipeError
from decoct.pack import pack


@pytest.fixture
def models(tmp_path):
    """An `.onnx` and the `.dct` packed from it; its inputs are floats and indices."""
    nodes = [helper.make_node("Gather", ["table", "place"], ["row"]), helper.make_node("MatMul", ["x", "row"], ["y"])]
    ports = [helper.make_tensor_value_info("x", 1, ["n", 9]), helper.make_tensor_value_info("place", 7, [9])]
    weights = [numpy_helper.from_array(np.ones((5, 4), np.float32), "table")]
    graph = helper.make_graph(nodes, "g", ports, [helper.make_tensor_value_info("y", 1, ["n", 4])], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, tmp_path / "a.onnx")
    pack(tmp_path / "a.onnx", tmp_path / "a.dct")
    return [tmp_path / "a.onnx", tmp_path / "a.dct"]


def test_the_figures_of_two_models(models):
    first, second = bench(models, threads=1, seconds=0.02, batch=3)
    assert (first.name, second.name) == tuple(map(str, models))
    assert first.rounds == second.rounds >= LEAST_ROUNDS and first.batch == 3 and first.threads == 1
    for row in (first, second):
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms and row.ratio == row.median_ms / first.median_ms
        assert row.peak_bytes > 10 << 20
    assert first.size_bytes == models[0].stat().st_size
    assert first.ratio == 1


def test_every_round_calls_all_of_them_in_random_order():
    calls: list[int] = []
    times = interleave([lambda place=place: calls.append(place) for place in range(3)], 0.0, random.Random(0))
    assert [len(taken) for taken in times] == [LEAST_ROUNDS] * 3
    assert calls[: 3 * WARM_UP] == [0] * WARM_UP + [1] * WARM_UP + [2] * WARM_UP
    rounds = [tuple(calls[start : start + 3]) for start in range(3 * WARM_UP, len(calls), 3)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds) and len(set(rounds)) > 1


def test_the_peak_of_this_process():
    assert resident_peak() > 10 << 20


@pytest.mark.parametrize(
    ("paths", "arguments", "message"),
    [
        ([], {}, "at least one file"),
        (["a.npz"], {}, "cannot bench .npz; known: .dct, .onnx, .pt2"),
        (["a.dct"], {"threads": 0}, "above 0"),
        (["a.dct"], {"seconds": 0}, "above 0"),
    ],
)
def test_arguments_that_cannot_be(paths, arguments, message):
    with pytest.raises(RecipeError, match=message):
        bench(paths, **arguments)


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(FormatError, match=r"a\.onnx"):
        bench([tmp_path / "a.onnx"])
    with pytest.raises(FileNotFoundError):
        bench([tmp_path / "b.onnx"])
