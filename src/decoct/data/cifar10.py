"""CIFAR-10: 32x32 colour photographs of ten kinds of things.

45,000 to train on, the last 5,000 of the training split to choose by, 10,000 to test. Alex Krizhevsky: Learning
Multiple Layers of Features from Tiny Images. Technical report, University of Toronto, 2009. Hub name uoft-cs/cifar10.
The parting, 45,000 and 5,000, and the augmentation are those of He 2016 (arXiv 1512.03385, section 4.2).
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoct.data.augment import CropFlip
from decoct.data.hub import rows
from decoct.data.images import Images, loader
from decoct.errors import TaskError
from decoct.task import Task

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VALIDATION = 5_000
LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10(
    batch_size: int = 128, augment: bool = True, validation: int = VALIDATION, subset: int | None = None
) -> Task:
    """The task: cross-entropy, accuracy in percent.

    augment: random crops out of 4 more black pixels on each side, and mirroring, of the training images.
    validation: images held out of the training split, its last ones.
    subset: train on this many images alone, the first ones; validation and test stay whole.
    """
    images, labels = _split("train")
    first = len(labels) - validation
    count = first if subset is None else subset
    if not 0 < count <= first:
        raise TaskError(f"{count} CIFAR-10 images to train on are asked for: 1 to {first} can be had")
    train = Images(images[:count], labels[:count], MEAN, STD, CropFlip() if augment else None)
    return Task(
        train=loader(train, batch_size, shuffle=True),
        validation=loader(Images(images[first:], labels[first:], MEAN, STD), 500),
        test=loader(Images(*_split("test"), MEAN, STD), 500),
        example=torch.zeros(1, 3, 32, 32),
        loss=F.cross_entropy,
        normalisation={"mean": MEAN, "std": STD},
        labels=LABELS,
    )


@lru_cache
def _split(split: str) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 32, 32) uint8 and labels (count,)."""
    from PIL import Image

    table = rows("uoft-cs/cifar10", split).with_format("arrow")[:]
    pictures = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["img"].to_pylist()]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(table["label"].to_pylist())
