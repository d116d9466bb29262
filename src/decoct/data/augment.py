"""Random changes of a batch of training images: warps, in one bilinear resampling, and crops with mirroring.

Patrice Simard, Dave Steinkraus, John Platt: Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis. ICDAR 2003: affine and elastic distortions of digits.
Chen-Yu Lee, Saining Xie, Patrick Gallagher, Zhengyou Zhang, Zhuowen Tu: Deeply-Supervised Nets. AISTATS 2015,
arXiv 1409.5185: crops and mirror images of CIFAR-10, as He 2016 and most since take them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LATTICE = 7


@dataclass(frozen=True)
class Warp:
    """A random warp per image; every amount is the largest of a uniform draw, but `elastic`.

    shift: pixels, both ways. rotation: degrees. zoom: share of the size, each axis by itself. shear: of x along y.
    elastic: standard deviation, in pixels, of a smooth displacement: noise on a 7x7 lattice spread by Gaussians.
    """

    shift: float = 2.0
    rotation: float = 10.0
    zoom: float = 0.1
    shear: float = 0.1
    elastic: float = 0.7

    def __call__(self, images: Tensor) -> Tensor:
        """Warp a float batch (batch, channels, height, width); what comes in from outside is zero."""
        count, _, height, width = images.shape
        return F.grid_sample(images, self.field(count, height, width), padding_mode="zeros", align_corners=False)

    def field(self, count: int, height: int, width: int) -> Tensor:
        """Where each output pixel is read, (batch, height, width, 2), in the units of `grid_sample`."""
        angle = _draw(count) * self.rotation * math.pi / 180
        across, down = 1 + _draw(count) * self.zoom, 1 + _draw(count) * self.zoom
        shear = _draw(count) * self.shear
        x = torch.arange(width) - (width - 1) / 2
        y = (torch.arange(height) - (height - 1) / 2)[:, None]
        cosine, sine = angle.cos(), angle.sin()
        read_x = cosine / across * x + (shear * cosine - sine) / across * y + _draw(count) * self.shift
        read_y = sine / down * x + (shear * sine + cosine) / down * y + _draw(count) * self.shift
        if self.elastic:
            noise = self.elastic * torch.randn(2, count, LATTICE, LATTICE)
            bend = _spread(height) @ noise @ _spread(width).T
            read_x, read_y = read_x + bend[0], read_y + bend[1]
        return torch.stack((read_x * 2 / width, read_y * 2 / height), dim=-1)


@dataclass(frozen=True)
class CropFlip:
    """A random crop of its own size from each image with a black border, and the mirror image of every other.

    pad: width of the border in pixels. flip: whether an image is mirrored, with probability one half.
    """

    pad: int = 4
    flip: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """Shift and mirror a float batch (batch, channels, height, width), before it is normalised: black is zero."""
        count, channels, height, width = images.shape
        down, right = torch.randint(2 * self.pad + 1, (2, count, 1))
        y = down + torch.arange(height)  # (batch, height)
        x = right + torch.arange(width)  # (batch, width)
        if self.flip:
            x = torch.where(torch.rand(count, 1) < 0.5, x.flip(1), x)
        padded = F.pad(images, (self.pad,) * 4)
        picture, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
        return padded[picture, channel, y[:, None, :, None], x[:, None, None, :]]


def _draw(count: int) -> Tensor:
    return torch.rand(count, 1, 1) * 2 - 1


def _spread(size: int) -> Tensor:
    """Weights (size, lattice) of Gaussians at the lattice points, of unit variance in sum."""
    points = torch.arange(LATTICE) * (size - 1) / (LATTICE - 1)
    weights = torch.exp(-0.5 * ((torch.arange(size)[:, None] - points) * 7 / size) ** 2)
    return weights / weights.square().sum(1, keepdim=True).sqrt()
