"""What a model weighs and computes, against counts by hand."""

import pytest
import torch
from torch import nn

from decoct.measure import histogram, layers, macs, raw_bytes, zipped_bytes
from decoct.models import gru_classifier, lenet_5, lenet_300_100, lstm_classifier, vit_small


def test_the_lenets_have_the_papers_sizes() -> None:
    assert sum(each.numel() for each in lenet_300_100().parameters()) == 266_610
    assert sum(each.numel() for each in lenet_5().parameters()) == 431_080
    assert raw_bytes(dict(lenet_300_100().state_dict())) == 1_066_440
    assert raw_bytes(dict(lenet_5().state_dict())) == 1_724_320


def test_macs_by_hand() -> None:
    """LeNet-5: 24*24*20*25 + 8*8*50*20*25 + 800*500 + 500*10 multiply-accumulates, whatever the batch."""
    expected = 288_000 + 1_600_000 + 400_000 + 5_000
    for batch in (1, 3):
        counted = macs(lenet_5(), torch.zeros(batch, 1, 28, 28))
        assert counted[""] == expected
        assert counted["conv2"] == 1_600_000
    assert sum(each.macs for each in layers(lenet_5(), torch.zeros(1, 1, 28, 28))) == expected


@pytest.mark.parametrize(("build", "gates"), [(lstm_classifier, 4), (gru_classifier, 3)])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_macs_of_recurrent_layers_by_hand(build, gates: int, both: bool) -> None:
    """Each step, each way: gates * 6 numbers from 5 inputs and 6 units; above, from all units below; 10 classes."""
    model, ways = build(features=5, hidden=6, bidirectional=both), 1 + both
    below = 7 * ways * gates * 6 * (5 + 6)
    above = 7 * ways * gates * 6 * (6 * ways + 6)
    for batch in (1, 3):
        counted = macs(model, torch.zeros(batch, 7, 5))
        assert counted["rnn"] == below + above
        assert counted["fc"] == 6 * ways * 10
        assert counted[""] == below + above + 6 * ways * 10
    rows = {each.name: each.macs for each in layers(model, torch.zeros(1, 7, 5))}
    assert rows["rnn.weight_ih_l0"] == 7 * gates * 6 * 5
    assert rows["rnn.weight_hh_l1"] == 7 * gates * 6 * 6
    assert sum(rows.values()) == counted[""]


def test_macs_of_attention_by_hand() -> None:
    """65 tokens of 96 features: patches; in each of 4 blocks four maps, q k^T and its product with v, and the mlp."""
    model = vit_small().train()
    block = 4 * 65 * 96 * 96 + 2 * 65 * 65 * 96 + 2 * 65 * 96 * 384
    assert macs(model, torch.zeros(2, 3, 32, 32))[""] == 64 * 48 * 96 + 4 * block + 96 * 10
    assert model.training


def test_macs_of_torchs_own_transformer_do_not_depend_on_its_fast_path() -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    assert macs(model, torch.zeros(1, 7, 16))[""] == 4 * 7 * 16 * 16 + 2 * 7 * 7 * 16 + 2 * 7 * 16 * 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_non_zeros_and_their_macs() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]]))
    weight, bias = layers(model, torch.zeros(1, 4))
    assert (weight.parameters, weight.nonzeros, weight.macs, weight.macs_nonzero) == (8, 2, 8, 2)
    assert (bias.parameters, bias.macs) == (2, 0)


def test_zipped_zeros_are_small() -> None:
    assert zipped_bytes({"w": torch.zeros(1000)}) < 200 < 4000 < zipped_bytes({"w": torch.rand(2000)})


def test_a_histogram_counts_the_non_zeros() -> None:
    edges, counts = histogram(torch.tensor([0.0, 1.0, -2.0, 2.0]), bins=4)
    assert edges == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert counts == [1, 0, 0, 2]
    assert sum(histogram(torch.zeros(3))[1]) == 0
