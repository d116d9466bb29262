"""ResNet-20 with squeeze-and-excitation: each block weighs its channels by what it sees in the whole image.

Jie Hu, Li Shen, Gang Sun: Squeeze-and-Excitation Networks. CVPR 2018, arXiv 1709.01507. z is the mean of each channel,
s = sigmoid(W2 relu(W1 z)) with C/r units between, and channel c becomes s_c * x_c, before the shortcut is added.

Differs: the two dense layers are 1x1 convolutions, which is the same; they have no bias, as in the paper's formula.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from decoct.models.resnet import ResNet, shortcut


def se_resnet_20(classes: int = 10, reduction: int = 16) -> ResNet:
    """SE-ResNet-20: 271,738 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    reduction: channels for one unit of the excitation, the paper's r.
    """
    return ResNet(3, classes, partial(SEBlock, reduction=reduction))


class SEBlock(nn.Module):
    """A residual block whose second convolution is followed by squeeze-and-excitation."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1, reduction: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcite(channels, reduction)
        self.shortcut = shortcut(channels_in, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.relu2(y + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Weigh each channel by a number between 0 and 1 that all channels' means decide."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, max(channels // reduction, 1), 1, bias=False)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(max(channels // reduction, 1), channels, 1, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        s = self.sigmoid(self.fc2(self.relu(self.fc1(self.pool(x)))))  # (batch, channels, 1, 1)
        return x * s
