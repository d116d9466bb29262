"""Bytes read with every bound checked before anything is allocated, and the integers that chunks are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from decoct.errors import FormatError

LONGEST_VARINT = 9  # bytes: 63 bits


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits a byte, lowest first; all but the last byte have their top bit set.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """Fold the signed integers onto 0, 1, 2, ... in the order 0, -1, 1, -2, 2, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


class Reader:
    """A place in some bytes. Whatever is off raises FormatError with the offset.

    start: where `data` lies in the chunk, so that offsets in messages are those of the chunk.
    """

    def __init__(self, data: bytes | memoryview, start: int = 0) -> None:
        self.data = memoryview(data).cast("B")
        self.start = start
        self.at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self.data) - self.at

    def fail(self, message: str) -> NoReturn:
        """Raise FormatError for the place where the reader stands."""
        raise FormatError(f"chunk, byte {self.start + self.at}: {message}")

    def take(self, count: int, what: str) -> Reader:
        """A reader of the next `count` bytes, which this one skips."""
        if not 0 <= count <= self.left:
            self.fail(f"{what} takes {count} bytes, but {self.left} are left")
        part = Reader(self.data[self.at : self.at + count], self.start + self.at)
        self.at += count
        return part

    def rest(self) -> bytes:
        """Everything that is left."""
        found = bytes(self.data[self.at :])
        self.at = len(self.data)
        return found

    def byte(self, what: str) -> int:
        """The next byte."""
        if not self.left:
            self.fail(f"{what} is missing: the chunk ends here")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self, what: str, most: int) -> int:
        """The next integer, which may be at most `most`."""
        value = 0
        for place in range(LONGEST_VARINT):
            byte = self.byte(what)
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if value > most:
                    self.fail(f"{what} is {value}, but at most {most} can be")
                if not byte and place:
                    self.fail(f"{what} is written with more bytes than it needs")
                return value
        self.fail(f"{what} has no end")

    def signed(self, what: str) -> int:
        """The next integer of either sign."""
        folded = self.varint(what, 2**63 - 1)
        return folded // 2 if folded % 2 == 0 else -(folded + 1) // 2

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Within the block, give a FormatError that names no place the place of this reader."""
        at = self.at
        try:
            yield
        except FormatError as error:
            if str(error).startswith("chunk, byte"):
                raise
            raise FormatError(f"chunk, byte {self.start + at}: {error}") from error

    def end(self) -> None:
        """Refuse bytes that nothing asked for."""
        if self.left:
            self.fail(f"{self.left} bytes too many")
