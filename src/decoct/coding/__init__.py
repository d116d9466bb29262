"""Entropy coding of integer arrays, and of whole tensors."""

from decoct.coding.chunk import check_coder, decode, encode
from decoct.coding.decoded import values
from decoct.coding.parts import describe, sections
from decoct.coding.stored import Code, Stored, chosen
from decoct.coding.symbols import CODERS

__all__ = ["CODERS", "Code", "Stored", "check_coder", "chosen", "decode", "describe", "encode", "sections", "values"]
