"""Images in memory as batches: bytes until a batch is asked for, then warped, scaled and normalised all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[Any]):
    """Images (count, channels, height, width) uint8 and labels (count,); a batch is normalised float32 and labels.

    mean, std: per channel, of pixels scaled to 0-1. augment: from a float batch in 0-255 to another, before that.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.images, self.labels, self.augment = images, labels, augment
        self.mean = torch.tensor(mean).view(1, -1, 1, 1) * 255
        self.std = torch.tensor(std).view(1, -1, 1, 1) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images = self.images[indices].float()  # (batch, channels, height, width)
        if self.augment is not None:
            images = self.augment(images)
        return (images - self.mean) / self.std, self.labels[indices]


def loader(images: Images, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of images; a batch is made at once, so no worker is needed."""
    return DataLoader(images, batch_size=batch_size, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
