"""AlexNet, in a form for 32x32 images.

Alex Krizhevsky, Ilya Sutskever, Geoffrey E. Hinton: ImageNet Classification with Deep Convolutional Neural Networks.
NIPS 2012. Five convolutions and three dense layers; the second, fourth and fifth convolution are parted in two groups,
because the network lay on two GPUs.

Differs: the first convolution is 5x5 with stride 1 instead of 11x11 with stride 4, for small images; the dense layers
have 1,024 units instead of 4,096. No local response normalisation, which VGG (arXiv 1409.1556, section 4.1) found to
gain nothing. Convolutions two to five are the paper's.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def alexnet(classes: int = 10, groups: int = 2, dense: int = 1024) -> nn.Sequential:
    """Five convolutions, three dense layers: 5,726,602 parameters. Input (batch, 3, 32, 32), output (batch, classes).

    groups: of the second, fourth and fifth convolution; 1 is the form on one GPU. dense: units of a hidden dense layer.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 5, padding=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(3, 2),  # (batch, 96, 15, 15)
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=groups), relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(3, 2),  # (batch, 256, 7, 7)
            conv3=nn.Conv2d(256, 384, 3, padding=1), relu3=nn.ReLU(),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=groups), relu4=nn.ReLU(),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=groups), relu5=nn.ReLU(),
            pool5=nn.MaxPool2d(3, 2),  # (batch, 256, 3, 3)
            flatten=nn.Flatten(),
            drop6=nn.Dropout(), fc6=nn.Linear(2304, dense), relu6=nn.ReLU(),
            drop7=nn.Dropout(), fc7=nn.Linear(dense, dense), relu7=nn.ReLU(),
            fc8=nn.Linear(dense, classes),
        )
    )  # fmt: skip
