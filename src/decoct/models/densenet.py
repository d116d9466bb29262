"""DenseNets: each layer reads the maps of all layers before it in its block, and adds a few of its own.

Gao Huang, Zhuang Liu, Laurens van der Maaten, Kilian Q. Weinberger: Densely Connected Convolutional Networks. CVPR
2017, arXiv 1608.06993. x_l = H([x_0, ..., x_(l-1)]) with k channels, the growth. In the form BC, H narrows its input to
4k channels by a 1x1 convolution first (B), and a transition between blocks halves the channels (C).

Differs: no dropout, which the paper has where it does not augment. ``densenet_40()`` is of the form BC; that of the
paper's table, of 1.0 million parameters, is ``densenet_40(bottleneck=False)``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def densenet_40(classes: int = 10, growth: int = 12, bottleneck: bool = True) -> nn.Sequential:
    """DenseNet of 40 layers: 176,122 parameters. Input (batch, 3, 32, 32), output logits (batch, classes).

    growth: channels that a layer adds, the paper's k. bottleneck: form BC, of 6 layers of two convolutions in each of 3
    blocks; without it the basic form, of 12 layers of one.
    """
    channels = 2 * growth if bottleneck else 16
    stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False))
    return _network(stem, channels, (6, 6, 6) if bottleneck else (12, 12, 12), growth, bottleneck, classes)


def densenet_121(classes: int = 1000) -> nn.Sequential:
    """DenseNet-121 of ImageNet: 7,978,856 parameters. Input (batch, 3, 224, 224), output logits (batch, classes)."""
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
    )  # (batch, 64, 56, 56)
    return _network(stem, 64, (6, 12, 24, 16), 32, True, classes)


class DenseLayer(nn.Module):
    """Its input, and `growth` channels made of it."""

    def __init__(self, channels: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        middle = 4 * growth if bottleneck else channels
        narrow = [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, middle, 1, bias=False)]
        self.body = nn.Sequential(
            *(narrow if bottleneck else []),
            nn.BatchNorm2d(middle), nn.ReLU(), nn.Conv2d(middle, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), dim=1)


def _network(
    stem: nn.Module, channels: int, blocks: Sequence[int], growth: int, bottleneck: bool, classes: int
) -> nn.Sequential:
    modules: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    for number, count in enumerate(blocks, 1):
        layers = [DenseLayer(channels + index * growth, growth, bottleneck) for index in range(count)]
        modules[f"block{number}"] = nn.Sequential(*layers)
        channels += count * growth
        if number < len(blocks):
            kept = channels // 2 if bottleneck else channels
            modules[f"transition{number}"] = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, kept, 1, bias=False), nn.AvgPool2d(2)
            )
            channels = kept
    modules.update(bn=nn.BatchNorm2d(channels), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    modules["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(modules)
