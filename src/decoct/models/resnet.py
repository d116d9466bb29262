"""The residual networks for CIFAR-10: 6n + 2 layers in three stages of 16, 32 and 64 channels.

Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun: Deep Residual Learning for Image Recognition. CVPR 2016,
arXiv 1512.03385, section 4.2. Shortcuts are option A: where the map shrinks, every other pixel, and zeros for the
channels that are new; hence no parameters. Names of tensors as in akamaster/pytorch_resnet_cifar10, whose trained
weights load.

Differs: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

MakeBlock: TypeAlias = Callable[[int, int, int], nn.Module]


def resnet_20(classes: int = 10) -> ResNet:
    """ResNet-20: 269,722 parameters. Input (batch, 3, 32, 32), output logits (batch, classes)."""
    return ResNet(3, classes)


def resnet_32(classes: int = 10) -> ResNet:
    """ResNet-32: 464,154 parameters. Input (batch, 3, 32, 32), output logits (batch, classes)."""
    return ResNet(5, classes)


def resnet_44(classes: int = 10) -> ResNet:
    """ResNet-44: 658,586 parameters. Input (batch, 3, 32, 32), output logits (batch, classes)."""
    return ResNet(7, classes)


def resnet_56(classes: int = 10) -> ResNet:
    """ResNet-56: 853,018 parameters. Input (batch, 3, 32, 32), output logits (batch, classes)."""
    return ResNet(9, classes)


def resnet_110(classes: int = 10) -> ResNet:
    """ResNet-110: 1,727,962 parameters. Input (batch, 3, 32, 32), output logits (batch, classes)."""
    return ResNet(18, classes)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(channels_in, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


def shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The way around a block: as it is where the shapes agree, else option A."""
    new = channels - channels_in
    return PaddedShortcut(new // 2, new - new // 2, stride) if new or stride > 1 else nn.Identity()


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel of each row and column, with `before` and `after` channels of zeros around."""

    def __init__(self, before: int, after: int, stride: int = 2) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, self.before, self.after))
        # A maximum over one pixel is that pixel. Runtimes keep the layout of their convolutions across it, as they do
        # not across x[:, :, ::2, ::2].
        return F.max_pool2d(x, 1, self.stride)

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}, stride={self.stride}"


class ResNet(nn.Module):
    """Three stages of `blocks` residual blocks each: 6 * blocks + 2 layers.

    block: makes one of the channels that it reads, those that it gives, and its stride.
    """

    def __init__(self, blocks: int, classes: int = 10, block: MakeBlock = Block) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(block, 16, 16, blocks, stride=1)
        self.layer2 = _stage(block, 16, 32, blocks, stride=2)
        self.layer3 = _stage(block, 32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # (batch, 16, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (batch, 64, 8, 8)
        return self.linear(self.flatten(self.pool(x)))


def _stage(block: MakeBlock, channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    others = (block(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(channels_in, channels, stride), *others)
