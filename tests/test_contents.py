"""What a file is said to hold: figures worked by hand, and sums that must hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from decoct.coding import Stored
from decoct.contents import (
    coded_bytes,
    entropy_bits,
    huffman_bits,
    inspect,
    mask_entropy_bits,
    paper_bytes,
    values_entropy_bits,
)
from decoct.file import Entry, open_file, write

RNG = np.random.default_rng(0)
TABLE = np.array([-1, 0.5, 2, 3], np.float32)
KEPT = np.flatnonzero(RNG.random(40_000) < 0.1)
CODES = RNG.choice(4, len(KEPT), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
WEIGHT = Stored((200, 200), "float32", "shared", CODES, KEPT, TABLE)
BIAS = Stored((200,), "float32", "plain", RNG.standard_normal(200).astype(np.float32))


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "a.dct", [Entry("weight", WEIGHT), Entry("bias", BIAS)], {"decoct": "0.1.0"})
    return tmp_path / "a.dct"


def test_the_whole(path):
    found = inspect(path)
    assert found.total_bytes == path.stat().st_size == sum(found.sections.values())
    assert found.parameters == 40_200 and found.kept == len(KEPT) + 200 and found.decoded_bytes == 4 * 40_200
    assert [tensor.name for tensor in found.tensors] == ["weight", "bias"]
    assert found.entropy_bytes == sum(tensor.entropy_bytes for tensor in found.tensors)
    assert found.paper_bytes == paper_bytes(WEIGHT)
    again = json.loads(found.to_json())
    assert again["tensors"][0]["shape"] == [200, 200] and again["total_bytes"] == found.total_bytes


def test_a_tensor(path):
    weight, bias = inspect(path).tensors
    assert sum(weight.sections.values()) == weight.bytes and weight.kind == "shared"
    assert weight.bits_per_weight == 8 * weight.bytes / 40_000
    assert weight.values_entropy_bytes == pytest.approx(entropy_bits(np.bincount(CODES)) / 8)
    assert weight.mask_entropy_bytes == pytest.approx(mask_entropy_bits(len(KEPT), 40_000) / 8)
    assert 0 < weight.excess < 0.05
    assert bias.mask_entropy_bytes == 0 and bias.paper_bytes == 0 and "plain" in bias.coder


def test_a_bare_file_has_no_tensors_until_names_are_bound(tmp_path):
    write(tmp_path / "a.dct", [Entry("weight", WEIGHT)], {}, bare=True)
    found = inspect(tmp_path / "a.dct")
    assert found.tensors == () and found.bare and sum(found.sections.values()) == found.total_bytes
    bound = open_file(tmp_path / "a.dct").bind([("weight", (200, 200), "float32")])
    assert inspect(bound).tensors[0].kept == len(KEPT)


def test_one_coder_for_all(path):
    file = open_file(path)
    huffman, ans = coded_bytes(file, "huffman"), coded_bytes(file, "ans")
    assert path.stat().st_size <= min(huffman, ans) < huffman + ans


def test_entropies():
    assert entropy_bits(np.array([4, 4])) == 8
    assert entropy_bits(np.array([7, 0])) == 0
    assert mask_entropy_bits(0, 10) == 0 == mask_entropy_bits(10, 10)
    halves = Stored((4,), "uint16", "plain", np.array([0x0100, 0x0101, 0x0100, 0x0101], np.uint16))
    assert values_entropy_bits(halves) == 4  # the low byte: two values, half each; the high byte: one


def test_huffman_bits():
    assert huffman_bits([1, 1]) == 2
    assert huffman_bits([5, 2, 1, 1]) == 5 * 1 + 2 * 2 + 2 * 3


def test_the_papers_accounting_by_hand():
    """Kept at 3, 10 and 80 of 100: gaps 3, 6 and 69 zeros, of which the last takes two fillers of 32.

    Gap symbols 3, 6, 31, 31, 5: counts 1, 1, 1, 2 -> Huffman 2 x 5 = 10 bits. Codes 0, 1, 1 and two fillers:
    counts 1, 2, 2 -> 3 + 5 = 8 bits. Codebook: 2 x 32 bits. (10 + 8 + 64) / 8 bytes.
    """
    stored = Stored((10, 10), "float32", "shared", np.array([0, 1, 1], np.uint8), np.array([3, 10, 80]), TABLE[:2])
    assert paper_bytes(stored) == (10 + 8 + 64) / 8


def test_the_paper_counts_shared_matrices_only():
    assert paper_bytes(BIAS) == 0
    dense = Stored((2, 2), "float32", "shared", np.array([0, 1, 1, 1], np.uint8), None, TABLE[:2])
    assert paper_bytes(dense) == (4 + 64) / 8
