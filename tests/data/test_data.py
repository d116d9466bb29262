"""Data sets as tasks, and the random warps of images."""

import pytest
import torch

from decoct.data import cifar10, digits, mnist
from decoct.data.augment import CropFlip, Warp
from decoct.data.hub import rows
from decoct.data.images import Images, loader
from decoct.errors import TaskError
from decoct.models import lenet_300_100, lenet_digits, resnet_20


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


def test_a_crop_without_border_and_mirror_changes_nothing() -> None:
    images = torch.rand(3, 2, 8, 6)
    assert torch.equal(CropFlip(pad=0, flip=False)(images), images)


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 3, 2, 5)
    out = CropFlip(pad=0)(images)
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert ((out == images).flatten(1).all(1) ^ mirrored).all()
    assert 160 < mirrored.sum() < 240


def test_crops_by_hand() -> None:
    torch.manual_seed(0)
    image = torch.tensor([[1.0, 2], [3, 4]])
    out = CropFlip(pad=1, flip=False)(torch.stack((image, 10 * image)).expand(300, 2, 2, 2))
    assert torch.equal(out[:, 1], 10 * out[:, 0])
    assert {tuple(crop.flatten().tolist()) for crop in out[:, 0]} == {
        (0, 0, 0, 1), (0, 0, 1, 2), (0, 0, 2, 0),
        (0, 1, 0, 3), (1, 2, 3, 4), (2, 0, 4, 0),
        (0, 3, 0, 0), (3, 4, 0, 0), (4, 0, 0, 0),
    }  # fmt: skip


def test_crops_are_seeded() -> None:
    images = torch.rand(8, 3, 32, 32)
    torch.manual_seed(0)
    one = CropFlip()(images)
    torch.manual_seed(0)
    assert torch.equal(one, CropFlip()(images))
    assert not torch.equal(one, CropFlip()(images))


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


@pytest.mark.data
def test_cifar10_has_its_splits() -> None:
    task = cifar10()
    sizes = [len(getattr(task, split).dataset) for split in ("train", "validation", "test")]  # type: ignore[attr-defined]
    assert sizes == [45_000, 5_000, 10_000]
    task.check(resnet_20())
    train, validation = task.train.dataset, task.validation.dataset  # type: ignore[attr-defined]
    pixels = torch.cat((train.images, validation.images)).float() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert torch.cat((train.labels, validation.labels)).bincount().tolist() == [5000] * 10


@pytest.mark.data
def test_cifar10_trains_on_its_first_images() -> None:
    whole, part = cifar10().train.dataset, cifar10(subset=64, augment=False).train.dataset  # type: ignore[attr-defined]
    assert len(part) == 64
    assert torch.equal(part.images, whole.images[:64])
    assert (part.augment, whole.augment) == (None, CropFlip(pad=4, flip=True))
    with pytest.raises(TaskError, match="1 to 45000"):
        cifar10(subset=45_001)
