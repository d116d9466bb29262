"""The networks of the recipes."""

from decoct.models.lenet import lenet_5, lenet_300_100, lenet_digits

__all__ = ["lenet_5", "lenet_300_100", "lenet_digits"]
