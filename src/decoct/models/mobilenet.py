"""MobileNets: convolutions over space, one channel each, and 1x1 convolutions over channels.

V1: Andrew G. Howard, Menglong Zhu, Bo Chen, Dmitry Kalenichenko, Weijun Wang, Tobias Weyand, Marco Andreetto,
Hartwig Adam: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications. 2017,
arXiv 1704.04861.
V2: Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov, Liang-Chieh Chen: MobileNetV2: Inverted Residuals and
Linear Bottlenecks. CVPR 2018, arXiv 1801.04381.

A k x k convolution of M to N channels costs k*k*M*N per pixel; a depthwise and a pointwise one k*k*M + M*N. V2 widens a
narrow map by a factor t, filters it, and narrows it again without a ReLU; the shortcut joins the narrow ends.

Differs: by default the form for 32x32 images, whose stem and first block that would halve the map do not; with
``stem_stride=2, classes=1000`` the paper's for 224x224: 569 and 301 million multiply-accumulates.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


def mobilenet_v1(classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """MobileNet: 3,217,226 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    width: share of the channels of every layer, the paper's alpha.
    stem_stride: of the stem and of the first block that changes the size: 1 for 32x32 images, 2 for 224x224.
    """
    channels = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    strides = (1, stem_stride, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    last = int(32 * width)
    blocks: list[nn.Module] = [_conv(3, last, nn.ReLU(), 3, stem_stride)]
    for full, stride in zip(channels, strides, strict=True):
        depthwise = _conv(last, last, nn.ReLU(), 3, stride, groups=last)
        pointwise = _conv(last, int(full * width), nn.ReLU())
        blocks.append(nn.Sequential(depthwise, pointwise))
        last = int(full * width)
    return _classifier(nn.Sequential(*blocks), last, classes)


def mobilenet_v2(classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """MobileNetV2: 2,236,682 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    width: share of the channels of every layer, to the nearest eight; of the last, 1,280, only if it is more than 1.
    stem_stride: of the stem and of the first block that changes the size: 1 for 32x32 images, 2 for 224x224.
    """
    last = _eights(32 * width)
    blocks: list[nn.Module] = [_conv(3, last, nn.ReLU6(), 3, stem_stride)]
    # t, the widening; channels; how many blocks; the stride of the first of them
    for t, full, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, stem_stride),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        channels = _eights(full * width)
        for number in range(count):
            blocks.append(InvertedResidual(last, channels, t, 1 if number else stride))
            last = channels
    head = _eights(1280 * max(width, 1))
    blocks.append(_conv(last, head, nn.ReLU6()))
    return _classifier(nn.Sequential(*blocks), head, classes)


class InvertedResidual(nn.Module):
    """Widen `t` times, filter each channel, narrow; the input is added where the output has its shape."""

    def __init__(self, channels_in: int, channels: int, t: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * t
        self.expand = _conv(channels_in, wide, nn.ReLU6()) if t > 1 else nn.Identity()
        self.depthwise = _conv(wide, wide, nn.ReLU6(), 3, stride, groups=wide)
        self.project = _conv(wide, channels, nn.Identity())
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def _conv(
    channels_in: int, channels: int, activation: nn.Module, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), act=activation))


def _classifier(features: nn.Module, channels: int, classes: int) -> nn.Sequential:
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # torch's own makes a signal of 28 layers vanish
    modules = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    return nn.Sequential(OrderedDict(features=features, **modules))


def _eights(channels: float) -> int:
    """The nearest multiple of eight, but no less than nine tenths of `channels`, as in the authors' code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
