"""Entropy coding of integer arrays, and of whole tensors."""

from decoct.coding.stored import Code, Stored, chosen

__all__ = ["Code", "Stored", "chosen"]
