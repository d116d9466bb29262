"""Data sets as Tasks: from the folder that DECOCT_DATA names, or by hub name, or embedded."""

from decoct.data.digits import digits
from decoct.data.mnist import mnist

__all__ = ["digits", "mnist"]
