"""Data sets as Tasks: from the folder that DECOCT_DATA names, or by hub name, or embedded."""

from decoct.data.cifar10 import cifar10
from decoct.data.digits import digits
from decoct.data.mnist import mnist

__all__ = ["cifar10", "digits", "mnist"]
