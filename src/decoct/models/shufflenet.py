"""ShuffleNets: cheap convolutions of groups of channels, and a shuffle that lets the groups meet.

V1: Xiangyu Zhang, Xinyu Zhou, Mengxiao Lin, Jian Sun: ShuffleNet: An Extremely Efficient Convolutional Neural Network
for Mobile Devices. CVPR 2018, arXiv 1707.01083.
V2: Ningning Ma, Xiangyu Zhang, Hai-Tao Zheng, Jian Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN
Architecture Design. ECCV 2018, arXiv 1807.11164.

The shuffle of C channels in g groups reads channel j of the result from channel (j mod g) * C/g + j div g. V1 groups
the 1x1 convolutions; V2 splits the channels in halves instead, and works on one of them.

Differs: by default the form for 32x32 images, whose stem has stride 1 and no pooling after it; with
``stem_stride=2, classes=1000`` the papers' for 224x224: 137 (V1, g = 3) and 145 million multiply-accumulates.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from decoct.errors import RecipeError

STAGE_2 = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""V1: the output channels of the first stage by groups; each later stage has twice as many."""
WIDTHS = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
"""V2: the output channels of the three stages and of the last convolution by width."""
UNITS = (4, 8, 4)


def shufflenet_v1(classes: int = 10, groups: int = 3, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """ShuffleNet: 914,338 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8. width: share of the channels of every layer, to whole groups.
    stem_stride: 1 for 32x32 images; 2, with a pooling after it, for 224x224.
    """
    if groups not in STAGE_2:
        raise RecipeError(f"shufflenet_v1: groups is {groups}; the paper gives widths for 1, 2, 3, 4 and 8")
    last = math.ceil(24 * width / groups) * groups
    channels = max(round(STAGE_2[groups] * width / (4 * groups)), 1) * 4 * groups
    modules = OrderedDict(stem=_stem(last, stem_stride))
    for stage, count in enumerate(UNITS, 2):
        first = GroupedDown(last, channels, groups, first_groups=1 if stage == 2 else groups)
        modules[f"stage{stage}"] = nn.Sequential(first, *(GroupedUnit(channels, groups) for _ in range(count - 1)))
        last, channels = channels, 2 * channels
    return _classifier(modules, last, classes)


def shufflenet_v2(classes: int = 10, width: float = 1.0, stem_stride: int = 1) -> nn.Sequential:
    """ShuffleNetV2: 1,263,854 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    width: 0.5, 1, 1.5 or 2. stem_stride: 1 for 32x32 images; 2, with a pooling after it, for 224x224.
    """
    if width not in WIDTHS:
        raise RecipeError(f"shufflenet_v2: width is {width}; the paper gives channels for 0.5, 1, 1.5 and 2")
    *stages, head = WIDTHS[width]
    last = 24
    modules = OrderedDict(stem=_stem(last, stem_stride))
    for stage, (channels, count) in enumerate(zip(stages, UNITS, strict=True), 2):
        units = (SplitUnit(channels) for _ in range(count - 1))
        modules[f"stage{stage}"] = nn.Sequential(SplitDown(last, channels), *units)
        last = channels
    modules["head"] = _conv(last, head)
    return _classifier(modules, head, classes)


class ChannelShuffle(nn.Module):
    """Deal the channels out of `groups` equal groups, one from each in turn."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.groups, -1))  # (batch, groups, channels / groups, height, width)
        return x.transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class GroupedUnit(nn.Module):
    """V1, figure 2 (b): relu(x + body(x)); the body is a bottleneck of a quarter of the channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.body = _grouped(channels, channels // 4, channels, 1, groups, groups)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.body(x))


class GroupedDown(nn.Module):
    """V1, figure 2 (c): half the size; the channels of the pooled input, then those of the body, are `channels`."""

    def __init__(self, channels_in: int, channels: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 2, padding=1)
        self.body = _grouped(channels_in, channels // 4, channels - channels_in, 2, first_groups, groups)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(torch.cat((self.pool(x), self.body(x)), dim=1))


class SplitUnit(nn.Module):
    """V2, figure 3 (c): the first half of the channels passes as it is, the second through the body."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(_conv(half, half), _depthwise(half, 1), _conv(half, half))
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)  # (batch, channels / 2, height, width) each
        return self.shuffle(torch.cat((kept, self.body(worked)), dim=1))


class SplitDown(nn.Module):
    """V2, figure 3 (d): half the size; both branches read all channels, and each gives half of `channels`."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.side = nn.Sequential(_depthwise(channels_in, 2), _conv(channels_in, half))
        self.body = nn.Sequential(_conv(channels_in, half), _depthwise(half, 2), _conv(half, half))
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat((self.side(x), self.body(x)), dim=1))


def _grouped(
    channels_in: int, middle: int, channels: int, stride: int, first_groups: int, groups: int
) -> nn.Sequential:
    """The body of a unit of V1: no ReLU after the depthwise convolution, nor at the end."""
    return nn.Sequential(
        _conv(channels_in, middle, groups=first_groups),
        ChannelShuffle(groups),
        _depthwise(middle, stride),
        _conv(middle, channels, groups=groups, relu=False),
    )


def _conv(channels_in: int, channels: int, groups: int = 1, relu: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), *([nn.ReLU()] if relu else []))


def _depthwise(channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _stem(channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(3, channels, 3, stride, padding=1, bias=False)
    pool = [nn.MaxPool2d(3, 2, padding=1)] if stride > 1 else []
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), *pool)


def _classifier(features: Mapping[str, nn.Module], channels: int, classes: int) -> nn.Sequential:
    modules = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    return nn.Sequential(OrderedDict([*features.items(), *modules.items()]))
