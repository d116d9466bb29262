"""Data sets as tasks, and the random warps of images."""

import pytest
import torch

from decoct.data import digits, mnist
from decoct.data.augment import Warp
from decoct.data.hub import rows
from decoct.data.images import Images, loader
from decoct.errors import TaskError
from decoct.models import lenet_300_100, lenet_digits


def test_digits_are_parted_without_overlap_and_fit_their_network() -> None:
    task = digits()
    task.check(lenet_digits())
    sizes = [len(getattr(task, split).dataset) for split in ("train", "validation", "test")]  # type: ignore[attr-defined]
    assert sizes == [1097, 300, 400]
    assert task.labels == [str(digit) for digit in range(10)]


def test_images_are_normalised_as_the_task_says() -> None:
    pixels = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    image, label = next(iter(loader(Images(pixels, torch.tensor([7]), [0.5], [0.25]), 1)))
    assert image.flatten().tolist() == [-2.0, 2.0]
    assert label.tolist() == [7]


def test_a_warp_of_no_strength_changes_nothing() -> None:
    images = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(Warp(0, 0, 0, 0, 0)(images), images)


def test_a_warp_moves_and_is_seeded() -> None:
    images = torch.rand(2, 1, 28, 28)
    torch.manual_seed(0)
    one = Warp()(images)
    torch.manual_seed(0)
    assert torch.equal(one, Warp()(images))
    assert not torch.equal(one, Warp()(images))
    assert one.shape == images.shape


def test_the_elastic_field_has_the_deviation_it_is_told() -> None:
    torch.manual_seed(0)
    plain = Warp(0, 0, 0, 0, 0).field(1, 28, 28)
    bent = Warp(0, 0, 0, 0, 0.7).field(400, 28, 28)
    assert ((bent - plain) * 14).std().item() == pytest.approx(0.7, rel=0.1)


def test_data_that_is_nowhere_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOCT_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TaskError, match=r"nobody/nothing/train\.parquet is not there"):
        rows("nobody/nothing", "train")


@pytest.mark.data
def test_mnist_has_its_splits() -> None:
    task = mnist(warp=1.0)
    sizes = [len(getattr(task, split).dataset) for split in ("train", "validation", "test")]  # type: ignore[attr-defined]
    assert sizes == [50_000, 10_000, 10_000]
    task.check(lenet_300_100())
    images = task.test.dataset.images.float() / 255  # type: ignore[union-attr]
    assert images.mean().item() == pytest.approx(0.1325, abs=1e-3)
