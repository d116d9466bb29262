"""LeNet-300-100 and LeNet-5, as the compression literature means them.

Yann LeCun, Leon Bottou, Yoshua Bengio, Patrick Haffner: Gradient-Based Learning Applied to Document Recognition.
Proceedings of the IEEE 86(11), 1998. LeNet-5 is the form that Caffe made usual (20-50-500-10, 431,080 parameters),
which is the one of Han 2015 and of every table since; it is not the network of the 1998 paper.

Differs: a ReLU follows each convolution of LeNet-5, as in every later PyTorch form; Caffe's has one after ip1 alone.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet_300_100() -> nn.Sequential:
    """784-300-100-10 with ReLU: 266,610 parameters. Input (batch, 1, 28, 28), output logits (batch, 10)."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),  # (batch, 784)
            fc1=nn.Linear(784, 300), relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100), relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )  # fmt: skip


def lenet_5() -> nn.Sequential:
    """Two 5x5 convolutions and two dense layers: 431,080 parameters. Input (batch, 1, 28, 28), output (batch, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5), pool1=nn.MaxPool2d(2), relu1=nn.ReLU(),  # (batch, 20, 12, 12)
            conv2=nn.Conv2d(20, 50, 5), pool2=nn.MaxPool2d(2), relu2=nn.ReLU(),  # (batch, 50, 4, 4)
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500), relu3=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )  # fmt: skip


def lenet_digits() -> nn.Sequential:
    """A LeNet for the 8x8 digits of scikit-learn: 20-50-200-10 with 3x3 kernels. Input (batch, 1, 8, 8)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 3, padding=1), relu1=nn.ReLU(),  # (batch, 20, 8, 8)
            conv2=nn.Conv2d(20, 50, 3, padding=1), pool2=nn.MaxPool2d(2), relu2=nn.ReLU(),  # (batch, 50, 4, 4)
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 200), relu3=nn.ReLU(),
            fc2=nn.Linear(200, 10),
        )
    )  # fmt: skip
