"""VGG-16 for CIFAR-10, the network of 15 million parameters that the pruning literature means.

Karen Simonyan, Andrew Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015,
arXiv 1409.1556. For CIFAR: Sergey Zagoruyko: 92.45 % on CIFAR-10 in Torch, 2015; with batch normalisation after each
convolution and after the first of two dense layers, and without dropout, it is that of Li 2017 (arXiv 1608.08710).

Differs: the convolutions have no bias, since batch normalisation takes it away.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg_16(classes: int = 10) -> nn.Sequential:
    """13 convolutions, 2 dense layers: 14,987,722 parameters. Input (batch, 3, 32, 32), output (batch, classes)."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    last, number = 3, 0
    for stage, widths in enumerate(STAGES, 1):
        for width in widths:
            number += 1
            modules[f"conv{number}"] = nn.Conv2d(last, width, 3, padding=1, bias=False)
            modules[f"bn{number}"] = nn.BatchNorm2d(width)
            modules[f"relu{number}"] = nn.ReLU()
            last = width
        modules[f"pool{stage}"] = nn.MaxPool2d(2)
    modules["flatten"] = nn.Flatten()  # (batch, 512)
    modules.update(fc1=nn.Linear(512, 512), bn_fc1=nn.BatchNorm1d(512), relu_fc1=nn.ReLU())
    modules["fc2"] = nn.Linear(512, classes)
    for module in modules.values():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return nn.Sequential(modules)
