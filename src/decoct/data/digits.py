"""The 8x8 digits that scikit-learn carries: 1,797 real scans, small enough for a demonstration without a download.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998, CC BY 4.0.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from decoct.data.augment import Warp
from decoct.data.images import Images, loader
from decoct.errors import MissingExtraError
from decoct.task import Task

MEAN, STD = [0.305], [0.376]


def digits(batch_size: int = 64, warp: float = 0.0, seed: int = 0) -> Task:
    """The task: 1,097 digits to train on, 300 to choose by, 400 to test, parted by `seed`; accuracy in percent.

    warp: strength of random warps of the training images, 0 for none.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError('the digits come with scikit-learn: pip install "decoct[demo]"') from error
    pixels, names = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(names))
    images = torch.from_numpy((pixels[order] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(names[order].astype(np.int64))
    augment = Warp(0.5 * warp, 10 * warp, 0.1 * warp, 0.1 * warp, 0.2 * warp) if warp else None
    return Task(
        train=loader(Images(images[700:], labels[700:], MEAN, STD, augment), batch_size, shuffle=True),
        validation=loader(Images(images[400:700], labels[400:700], MEAN, STD), 300),
        test=loader(Images(images[:400], labels[:400], MEAN, STD), 400),
        example=torch.zeros(1, 1, 8, 8),
        loss=F.cross_entropy,
        normalisation={"mean": MEAN, "std": STD},
        labels=[str(digit) for digit in range(10)],
    )
