"""Chunks: every kind, dtype and shape comes back exactly; damage is a FormatError or a tensor of the right shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from decoct import coding
from decoct.coding import Stored
from decoct.errors import FormatError, RecipeError

CODERS = ("auto", "fixed", "huffman", "ans")
DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "float32", "float64")
SHAPES = st.one_of(
    st.just(()), arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9), st.tuples(st.integers(0, 400))
)


@st.composite
def stored(draw: Any) -> Stored:
    """Any tensor that can be stored."""
    shape = draw(SHAPES)
    size = int(np.prod(shape))
    kept = None
    if draw(st.booleans()):
        density = draw(st.sampled_from([0, 0.02, 0.3, 0.9, 1]))
        kept = np.flatnonzero(np.random.default_rng(draw(st.integers(0, 99))).random(size) < density)
    count = size if kept is None else len(kept)
    kind = draw(st.sampled_from(["plain", "shared", "grid"]))
    if kind == "plain":
        dtype = draw(st.sampled_from((*DTYPES, *FLOATS)))
        return Stored(shape, dtype, "plain", draw(arrays.arrays(dtype, count)), kept)
    width = draw(st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "int64"]))
    if kind == "shared":
        table = draw(arrays.arrays(draw(st.sampled_from(FLOATS)), st.integers(1, 40)))
        data = draw(arrays.arrays(width, count, elements=st.integers(0, len(table) - 1)))
        return Stored(shape, "float32", "shared", data, kept, table)
    axis = draw(st.sampled_from([None, *range(len(shape))]))
    channels = 1 if axis is None else shape[axis]
    zero = draw(st.one_of(st.none(), arrays.arrays("int8", channels)))
    data = draw(arrays.arrays(width, count, elements=draw(st.sampled_from([None, st.integers(0, 15)]))))
    return Stored(shape, "float32", "grid", data, kept, draw(arrays.arrays("float32", channels)), zero, axis)


def assert_equal(found: Stored, expected: Stored) -> None:
    assert (found.shape, found.dtype, found.kind, found.axis) == (
        tuple(expected.shape), expected.dtype, expected.kind, expected.axis,
    )  # fmt: skip
    for name in ("data", "kept", "table", "zero_point"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype, name
            assert ours.tobytes() == theirs.tobytes(), name


def sparse(seed: int = 0, kind: str = "shared", shape: tuple[int, ...] = (30, 50)) -> Stored:
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(rng.random(shape) < 0.1)
    codes = rng.binomial(15, 0.5, len(kept)).astype(np.uint8)
    if kind == "plain":
        return Stored(shape, "float32", "plain", rng.normal(0, 0.1, len(kept)).astype(np.float32), kept)
    if kind == "grid":
        return Stored(shape, "float32", "grid", codes.astype(np.int8) - 8, kept, np.array([0.1], np.float32))
    return Stored(shape, "float32", "shared", codes, kept, np.linspace(-1, 1, 16).astype(np.float32))


@settings(max_examples=150, deadline=None)
@given(stored(), st.sampled_from(CODERS))
def test_everything_comes_back(tensor: Stored, coder: str) -> None:
    chunk = coding.encode(tensor, coder)
    assert_equal(coding.decode(chunk, tensor.shape, tensor.dtype), tensor)
    assert sum(coding.sections(chunk).values()) == len(chunk)
    assert coding.describe(chunk).startswith(tensor.kind)
    assert chunk == coding.encode(tensor, coder)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("kind", ["plain", "shared", "grid"])
def test_larger_tensors_come_back(coder: str, kind: str) -> None:
    tensor = sparse(1, kind, (120, 40, 3, 3))
    assert_equal(coding.decode(coding.encode(tensor, coder), tensor.shape, tensor.dtype), tensor)
    dense = replace(tensor, kept=None, shape=(len(tensor.data),))
    assert_equal(coding.decode(coding.encode(dense, coder), dense.shape, dense.dtype), dense)


@pytest.mark.parametrize("coder", CODERS)
def test_odd_floats_survive(coder: str) -> None:
    odd = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, 3.4e38] * 40, np.float32)
    odd[0:8].view(np.uint32)[2] |= 5  # a payload
    half = odd.view(np.uint16).view(np.float16)
    for data, dtype in ((odd, "float32"), (half, "float32"), (odd.view(np.uint32), "uint32")):
        tensor = Stored(data.shape, dtype, "plain", data)
        assert_equal(coding.decode(coding.encode(tensor, coder), data.shape, dtype), tensor)


def test_bits_of_bfloat16() -> None:
    numbers = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
    bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    chunk = coding.encode(Stored((5000,), "bfloat16", "plain", bits))
    assert len(chunk) < 7500
    tensor = coding.decode(chunk, (5000,), "bfloat16")
    assert (tensor.data == bits).all()
    assert np.allclose(coding.values(tensor).astype(np.float32), numbers, rtol=2**-7)
    wide = coding.values(replace(tensor, dtype="float32"))
    assert (wide.view(np.uint32) >> 16 == bits).all()


def test_a_bias_costs_three_bytes_more_than_itself() -> None:
    bias = np.random.default_rng(0).normal(size=10).astype(np.float32)
    assert len(coding.encode(Stored((10,), "float32", "plain", bias))) == 43


def test_auto_is_the_smallest() -> None:
    for kind in ("plain", "shared", "grid"):
        sizes = [len(coding.encode(sparse(2, kind), coder)) for coder in CODERS]
        assert sizes[0] == min(sizes)


def test_one_code_takes_no_bits() -> None:
    tensor = Stored((1000,), "float32", "shared", np.zeros(1000, np.uint8), None, np.ones(1, np.float32))
    for coder in CODERS:
        assert len(coding.encode(tensor, coder)) < 20


def test_values_of_every_kind() -> None:
    kept = np.array([1, 2, 5])
    table = np.array([-1, 0.5, 2], np.float32)
    codes = np.array([2, 0, 1], np.uint8)
    assert coding.values(Stored((2, 3), "float32", "shared", codes, kept, table)).tolist() == [
        [0, 2, -1], [0, 0, 0.5],
    ]  # fmt: skip
    grid = Stored((2, 3), "float32", "grid", np.array([2, -1, 3], np.int8), kept, np.array([0.5, 2], np.float32),
                  np.array([0, 1], np.int8), 0)  # fmt: skip
    assert coding.values(grid).tolist() == [[0, 1, -0.5], [0, 0, 4]]
    dense = Stored((2, 2), "float16", "grid", np.array([1, 2, 3, 4], np.uint8), None, np.array([1, 10], np.float32),
                   None, 1)  # fmt: skip
    assert coding.values(dense).tolist() == [[1, 20], [3, 40]]
    assert coding.values(dense).dtype == np.float16
    scalar = Stored((), "int64", "plain", np.array([7]))
    assert coding.values(scalar).shape == ()
    half = Stored((3,), "bfloat16", "shared", codes, None, np.array([1, np.nan, 1 + 2**-8], np.float32))
    assert coding.values(half).astype(np.float32).tolist()[:2] == [1, 1]


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("kind", ["plain", "shared", "grid"])
def test_any_damage_is_told_or_harmless(coder: str, kind: str) -> None:
    tensor = sparse(3, kind, (6, 30))
    chunk = coding.encode(tensor, coder)
    rng = np.random.default_rng(0)
    for place in range(len(chunk)):
        for value in {0, 0xFF, chunk[place] ^ 1, int(rng.integers(256))} - {chunk[place]}:
            check_damaged(chunk[:place] + bytes([value]) + chunk[place + 1 :], tensor)
    for length in range(len(chunk)):
        check_damaged(chunk[:length], tensor)
    for more in (b"\0", b"\1", b"\xff" * 9):
        with pytest.raises(FormatError):
            coding.decode(chunk + more, tensor.shape, tensor.dtype)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), SHAPES, st.sampled_from((*FLOATS, "bfloat16", "uint8", "bool")))
def test_noise_is_told_or_harmless(chunk: bytes, shape: tuple[int, ...], dtype: str) -> None:
    size = int(np.prod(shape))
    check_damaged(chunk, Stored(shape, dtype, "plain", np.zeros(size, "uint8")))


def check_damaged(chunk: bytes, tensor: Stored) -> None:
    """A chunk may be refused with FormatError and a place, or decode to entries that fit the tensor; nothing else."""
    try:
        found = coding.decode(chunk, tensor.shape, tensor.dtype)
    except FormatError as error:
        assert str(error).startswith("chunk, byte "), error
        return
    there = tensor.size if found.kept is None else len(found.kept)
    assert len(found.data) == there <= tensor.size
    if found.kept is not None and there:
        assert found.kept[0] >= 0 and found.kept[-1] < tensor.size and (np.diff(found.kept) > 0).all()
    with np.errstate(all="ignore"):
        assert coding.values(found).shape == tensor.shape
    assert sum(coding.sections(chunk).values()) == len(chunk)


@pytest.mark.parametrize(
    ("coder", "parameters", "message"),
    [
        ("hufman", {}, "did you mean 'huffman'"),
        ("huffman", {"gap_bit": 5}, "did you mean 'gap_bits'"),
        ("huffman", {"gap_bits": 40}, "1 to 12"),
        ("ans", {"positions": "rows"}, "one of auto"),
        ("auto", {"gap_bits": 5}, "has none"),
    ],
)
def test_wrong_coders_are_told(coder: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        coding.encode(sparse(), coder, parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros(3, np.uint8)}, "values for"),
        ({"kept": np.zeros(150, np.int64)}, "values for|sorted"),
        ({"table": None}, "table"),
        ({"table": np.zeros(2, np.float32)}, "codebook of 2"),
        ({"axis": 0}, "axis"),
        ({"kind": "plain"}, "table"),
        ({"kind": "grid"}, "channels"),
        ({"table": np.zeros(4097, np.float32)}, "at most 4096"),
        ({"table": np.zeros(16, np.complex64)}, "complex64 cannot"),
    ],
)
def test_contradictions_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        coding.encode(replace(sparse(), **changes))


def test_decoding_checks_shape_and_dtype() -> None:
    chunk = coding.encode(Stored((4,), "float32", "plain", np.array([1, 2.5, -3, 1e-9], np.float32)))
    for shape, dtype in (((5,), "float32"), ((3,), "float32"), ((4,), "int32")):
        with pytest.raises(FormatError):
            coding.decode(chunk, shape, dtype)


def test_paper_form_uses_the_gap_width_that_was_asked_for() -> None:
    chunk = coding.encode(sparse(), "huffman", {"gap_bits": 4})
    assert coding.describe(chunk) == "shared, values huffman, positions fillers of 4 bits huffman"
    assert coding.sections(chunk)["model"] > 0
    assert "gaps of" in coding.describe(coding.encode(sparse(), "ans", {"positions": "gaps"}))
