"""MNIST: 28x28 grey digits. 50,000 to train on, the last 10,000 of the training split to choose by, 10,000 to test.

Yann LeCun, Corinna Cortes, Christopher J. C. Burges: The MNIST database of handwritten digits. Hub name ylecun/mnist.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoct.data.augment import Warp
from decoct.data.hub import rows
from decoct.data.images import Images, loader
from decoct.task import Task

MEAN, STD = [0.1307], [0.3081]
VALIDATION = 10_000


def mnist(batch_size: int = 128, warp: float = 0.0, validation: int = VALIDATION) -> Task:
    """The task: cross-entropy, accuracy in percent.

    warp: strength of random warps of the training images, 0 for none; 1 is 2 pixels, 10 degrees, a tenth of zoom and
        shear, and an elastic displacement of 0.7 pixels.
    validation: images held out of the training split, its last ones.
    """
    images, labels = _split("train")
    augment = Warp(2 * warp, 10 * warp, 0.1 * warp, 0.1 * warp, 0.7 * warp) if warp else None
    first = len(labels) - validation
    return Task(
        train=loader(Images(images[:first], labels[:first], MEAN, STD, augment), batch_size, shuffle=True),
        validation=loader(Images(images[first:], labels[first:], MEAN, STD), 1000),
        test=loader(Images(*_split("test"), MEAN, STD), 1000),
        example=torch.zeros(1, 1, 28, 28),
        loss=F.cross_entropy,
        normalisation={"mean": MEAN, "std": STD},
        labels=[str(digit) for digit in range(10)],
    )


@lru_cache
def _split(split: str) -> tuple[Tensor, Tensor]:
    """Images (count, 1, 28, 28) uint8 and labels (count,)."""
    from PIL import Image

    table = rows("ylecun/mnist", split).with_format("arrow")[:]
    pictures = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(pictures))[:, None], torch.tensor(table["label"].to_pylist())
