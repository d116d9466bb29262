"""Weight sharing: the worked example of Han 2016, the traps, codes frozen while centroids train."""

import numpy as np
import pytest
import torch

from decoct.coding import Stored, encode
from decoct.errors import RecipeError
from decoct.method import step
from decoct.plan import ZERO_CODE, Share
from decoct.prune.magnitude import Magnitude
from decoct.quantize.cast import Cast
from decoct.quantize.kmeans import KMeans, share
from decoct.testing import small
from decoct.train.finetune import Finetune

FIGURE_3 = torch.tensor(
    [[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12], [-0.91, 1.92, 1e-9, -1.03], [1.87, 1e-9, 1.53, 1.49]]
)


def test_the_worked_example_of_the_paper() -> None:
    """16 weights of 32 bits become 16 codes of 2 bits and 4 centroids of 32 bits: 512 -> 160 bits, rate 3.2.

    The figure's two zeros stand here as 1e-9: an exact zero is a removed weight and gets no code.
    """
    found = share("w", FIGURE_3, 4)
    order = found.codebook.argsort(descending=True)
    torch.testing.assert_close(found.codebook[order], torch.tensor([2.0, 1.5, 0.0, -1.0]), atol=0.005, rtol=0)
    rank = order.argsort()[found.codes.long()]
    assert rank.tolist() == [[0, 3, 1, 2], [2, 2, 3, 0], [3, 0, 2, 3], [0, 2, 1, 1]]
    stored = Stored(
        (4, 4), "float32", "shared", found.codes.numpy().ravel().astype(np.uint8), None, found.codebook.numpy()
    )
    before, after = 16 * 32, 16 * 2 + 4 * 32
    assert (before, after, before / after) == (512, 160, 3.2)
    assert len(encode(stored, "fixed")) * 8 - after <= 7 * 8  # what the chunk adds to say what it is


def test_zeros_stay_zero_and_get_no_centroid() -> None:
    weight = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, -2.0]])
    found = share("w", weight, 8)
    assert found.codes.tolist() == [[ZERO_CODE, 2, 1], [3, ZERO_CODE, 0]]
    assert torch.equal(found.values(), weight)


def test_a_centroid_on_zero_is_merged_into_the_zeros() -> None:
    weight = torch.tensor([[-1.0, 1.0, -5.0, 5.0]])
    found = share("w", weight, 3, init="exact")
    assert 0 not in found.codebook
    assert found.values().tolist() == [[0.0, 0.0, -5.0, 5.0]]


@pytest.mark.parametrize("init", ["linear", "density", "random", "sketch", "exact"])
def test_fewer_values_than_clusters_are_kept_exactly(init: str) -> None:
    weight = torch.tensor([[0.5, 0.5, -0.25, 0.0]])
    found = share("w", weight, 32, init)
    assert torch.equal(found.values(), weight)
    assert found.codebook.numel() == 2


def test_an_all_zero_tensor_is_all_zero_codes() -> None:
    found = share("w", torch.zeros(3, 3), 4)
    assert (found.codes == ZERO_CODE).all()
    assert torch.equal(found.values(), torch.zeros(3, 3))


def test_each_tensor_has_its_own_codebook_and_width() -> None:
    draft, task = small()
    after = step(draft, KMeans(bits={"5*": 2, "*": 4}), task)
    assert len(after.tensors()["5.weight"].unique()) == 4
    assert len(after.tensors()["0.weight"].unique()) == 16


def test_codes_stay_while_centroids_train_after_pruning() -> None:
    draft, task = small()
    pruned = step(draft, Magnitude(density=0.3), task)
    before = step(pruned, KMeans(bits=3), task)
    after = step(pruned, KMeans(bits=3, retrain=Finetune(epochs=3, lr=0.01)), task)
    one, other = before.promises("5.weight")[Share], after.promises("5.weight")[Share]
    assert torch.equal(one.codes, other.codes)
    assert not torch.equal(one.codebook, other.codebook)
    assert torch.equal(after.tensors()["5.weight"] != 0, pruned.mask("5.weight"))


def test_training_later_keeps_the_sharing() -> None:
    draft, task = small()
    shared = step(step(draft, KMeans(bits=2), task), Cast(), task)
    after = step(shared, Finetune(epochs=2, lr=0.02), task)
    assert len(after.tensors()["5.weight"].unique()) <= 4
    assert torch.equal(after.tensors()["5.weight"], after.tensors()["5.weight"].half().float())


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"bits": 0}, "bits is 1 to 12"), ({"bits": 13}, "bits is 1 to 12"), ({"init": "kmeans++"}, "init is one of")],
)
def test_fields_out_of_range_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        KMeans(**fields)
