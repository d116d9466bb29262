"""What a model weighs and computes, against counts by hand."""

import torch
from torch import nn

from decoct.measure import histogram, layers, macs, raw_bytes, zipped_bytes
from decoct.models import lenet_5, lenet_300_100


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
