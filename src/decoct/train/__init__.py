"""Training: one loop, and the method that runs it."""

from decoct.train.loop import train

__all__ = ["train"]
