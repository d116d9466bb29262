"""The `.dct` container: header and chunks. `docs/format.md` is the specification; this module reads and writes it.

    write(path, entries, meta, graph) -> bytes written
    open_file(path) -> File           names, shapes, meta at once; tensors decoded one at a time when asked for

Every count, length and shape of a file is checked before memory is taken for it. What does not hold is a FormatError
that names the file and the byte.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from secrets import token_hex
from tempfile import SpooledTemporaryFile
from types import MappingProxyType
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from decoct import coding
from decoct.coding import Stored
from decoct.coding.reader import varint
from decoct.errors import FormatError, nearest
from decoct.header import (
    DTYPES,
    FORMAT_VERSION,
    GRAPH,
    NAMED,
    Cursor,
    Row,
    Shapes,
    check_meta,
    deflate,
    fingerprint_of,
    inflate,
    prologue,
    read_header,
    table_of,
)  # fmt: skip

SMALLEST_LIMIT = 64 << 20
LIMIT_FACTOR = 4096
SPOOL_BYTES = 16 << 20
WINDOW = 32_768


class Entry(NamedTuple):
    """One tensor to be written. `dtype` differs from the stored one only for dtypes that are coded as their bits."""

    name: str
    stored: Stored
    coder: str = "auto"
    parameters: Mapping[str, Any] = MappingProxyType({})
    dtype: str | None = None


def coded_dtype(dtype: str) -> str:
    """The dtype in which the coders see a tensor: that of the same bits for dtypes that they do not know.

    >>> coded_dtype("float32"), coded_dtype("float8_e5m2"), coded_dtype("complex64")
    ('float32', 'uint8', 'uint64')
    """
    return "uint64" if dtype == "complex64" else "uint8" if dtype.startswith("float8") else dtype


def itemsize(dtype: str) -> int:
    """Bytes of one decoded entry.

    >>> itemsize("bfloat16"), itemsize("float64")
    (2, 8)
    """
    known = coded_dtype(dtype)
    return 2 if known == "bfloat16" else np.dtype(known).itemsize


# ----------------------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of `path` when the block ends well, and is removed when it does not."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is no ordinary file and cannot be replaced by one")
    part = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write(
    path: str | Path,
    entries: Iterable[Entry | tuple[Any, ...]],
    meta: Mapping[str, Any],
    graph: bytes | None = None,
    bare: bool = False,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Write a `.dct` and return its bytes. One tensor is held at a time; the file appears whole or not at all.

    entries: the tensors in order: `Entry`, or tuples (name, Stored, coder, parameters).
    meta: JSON values, see docs/format.md. graph: an ONNX model without its weights (`graph_weights.strip`).
    bare: leave out names, shapes, graph, and of the meta all but structural edits and casts.
    aliases: further names of tied tensors, each to its owner's name.
    Raises FormatError for what the format cannot hold, OSError where the disk refuses.
    """
    rows: list[Row] = []
    with SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=str(Path(path).absolute().parent)) as chunks:
        for entry in entries:
            rows.append(_encode(Entry(*entry), chunks))
        table = table_of(rows, aliases)
        if bare:
            graph, meta = None, {key: meta[key] for key in ("edits", "casts") if meta.get(key)}
        if graph is not None:
            chunk = varint(len(graph)) + deflate(graph, table[-WINDOW:])
            rows.append(Row("", (), "", len(chunk), zlib.crc32(chunk)))
            chunks.write(chunk)
        check_meta(meta, "meta")
        with replacing(path) as file:
            file.write(prologue(rows, table, meta, graph is not None, bare))
            chunks.seek(0)
            shutil.copyfileobj(chunks, file, 1 << 20)
            return file.tell()


def _encode(entry: Entry, chunks: IO[bytes]) -> Row:
    dtype = entry.dtype or entry.stored.dtype
    if dtype not in DTYPES:
        raise FormatError(f"{entry.name}: the file has no dtype {dtype!r}{nearest(dtype, DTYPES)}")
    if coded_dtype(dtype) != coded_dtype(entry.stored.dtype):
        raise FormatError(f"{entry.name}: {dtype} is coded as {coded_dtype(dtype)}, not as {entry.stored.dtype}")
    chunk = coding.encode(entry.stored, entry.coder, entry.parameters)
    chunks.write(chunk)
    return Row(entry.name, tuple(entry.stored.shape), dtype, len(chunk), zlib.crc32(chunk))


# ----------------------------------------------------------------------------------------------------------- reading


class File:
    """A `.dct` that has been opened: header read and checked, chunks read and decoded when asked for.

    label: the name that errors give. size_bytes: of the whole file. meta: see docs/format.md.
    aliases: further names of tied tensors -> owner. bare: whether names and shapes must be bound first.
    """

    def __init__(self, read: Callable[[int, int], bytes], size_bytes: int, label: str, limit_bytes: int | None) -> None:
        self.label, self.size_bytes, self.version = label, size_bytes, FORMAT_VERSION
        self.limit_bytes = max(SMALLEST_LIMIT, LIMIT_FACTOR * size_bytes) if limit_bytes is None else limit_bytes
        self._read = read
        self._header = read_header(read, size_bytes, label)
        self.bare = not self._header.flags & NAMED
        self.meta = self._header.meta
        self.aliases = self._header.aliases
        self._places: dict[str, int] = {}
        self._shapes: tuple[tuple[int, ...], ...] = ()
        if not self.bare:
            self._name(self._header.names, self._header.shapes)
            self._check_size()

    def __repr__(self) -> str:
        return f"<File {self.label}: {self.count} tensors, {self.size_bytes:,} bytes{', bare' if self.bare else ''}>"

    @property
    def bound(self) -> bool:
        """Whether names and shapes are known."""
        return len(self._places) == self.count

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self.aliases

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return len(self._header.dtypes)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors in their order, without aliases; FormatError for a bare file to which no names were bound."""
        self._check_bound()
        return tuple(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shapes[self._place(name)]

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, as docs/format.md names it."""
        return self._header.dtypes[self._place(name)]

    def bind(self, shapes: Shapes) -> File:
        """Give a bare file the names, shapes and dtypes of its tensors, in the order of writing; returns the file.

        FormatError where they are not those that were written.
        """
        if not self.bare:
            raise FormatError(f"{self.label} names its tensors itself; only a bare file is bound")
        if len(shapes) != self.count:
            raise FormatError(f"{self.label} holds {self.count} tensors; {len(shapes)} were given to bind")
        for (name, _, given), dtype in zip(shapes, self._header.dtypes, strict=True):
            if given != dtype:
                raise FormatError(f"{self.label}: {name} was given as {given}; the file has {dtype} in its place")
        if fingerprint_of(shapes) != self._header.fingerprint:
            raise FormatError(f"{self.label} was not written for these names and shapes: the fingerprints differ")
        self._name([name for name, _, _ in shapes], [tuple(shape) for _, shape, _ in shapes])
        return self

    def stored(self, name: str) -> Stored:
        """What the file keeps of a tensor; FormatError where its chunk is damaged."""
        place = self._place(name)
        try:
            return coding.decode(self.chunk(name), self._shapes[place], coded_dtype(self._header.dtypes[place]))
        except FormatError as error:
            start = self._header.chunks[place].offset
            raise FormatError(f"{self.label}, tensor {name!r}, chunk at byte {start}: {error}") from error

    def tensor(self, name: str) -> np.ndarray:
        """A tensor, decoded. bfloat16 and the 8-bit floats come in the dtypes of ml_dtypes."""
        values, dtype = coding.values(self.stored(name)), self.dtype(name)
        if dtype in ("float16", "float32", "float64") or values.dtype.name == dtype:
            return values
        return values.view(numpy_dtype(dtype))

    def chunk(self, name: str) -> bytes:
        """The coded bytes of a tensor, their checksum checked."""
        return self._chunk(self._place(name), f"tensor {name!r}")

    def graph(self) -> bytes | None:
        """The ONNX model without its weights, serialised, or None; see `graph_weights.fill`."""
        if not self._header.flags & GRAPH:
            return None
        cursor = Cursor(self._chunk(self.count, "the graph"), f"{self.label}, graph")
        return inflate(cursor, self._left(), "the graph", self._header.table[-WINDOW:])

    def sections(self) -> dict[str, int]:
        """The bytes of the file by kind, which sum to `size_bytes`: those of `coding.sections`, "graph", and all else
        in "header"."""
        totals = dict.fromkeys(("positions", "values", "table", "model", "header"), 0)
        for place in range(self.count):
            for kind, size in coding.sections(self._chunk(place, f"tensor {place}")).items():
                totals[kind] = totals.get(kind, 0) + size
        totals["graph"] = self._header.chunks[-1].length if self._header.flags & GRAPH else 0
        totals["header"] += self.size_bytes - sum(chunk.length for chunk in self._header.chunks)
        return totals

    def _name(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._shapes = tuple(shapes)

    def _check_bound(self) -> None:
        if not self.bound:
            raise FormatError(
                f"{self.label} is bare: it holds no names and shapes; give them with bind, or load_module"
            )

    def _place(self, name: str) -> int:
        self._check_bound()
        place = self._places.get(self.aliases.get(name, name))
        if place is None:
            raise KeyError(f"{self.label} has no tensor {name!r}{nearest(name, self._places)}")
        return place

    def _decoded_bytes(self) -> int:
        pairs = zip(self._shapes, self._header.dtypes, strict=True)
        return sum(prod(max(size, 1) for size in shape) * itemsize(dtype) for shape, dtype in pairs)

    def _check_size(self) -> None:
        if self._left() < 0:
            raise FormatError(
                f"{self.label} would decode to {self._decoded_bytes():,} bytes; the limit is {self.limit_bytes:,}. "
                "If you trust the file, give a larger limit_bytes"
            )

    def _left(self) -> int:
        return self.limit_bytes - self._decoded_bytes()

    def _chunk(self, place: int, what: str) -> bytes:
        chunk = self._header.chunks[place]
        data = self._read(chunk.offset, chunk.length)
        if len(data) != chunk.length or zlib.crc32(data) != chunk.checksum:
            raise FormatError(f"{self.label}, byte {chunk.offset}: {what} is damaged, its checksum does not hold")
        return data


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of a decoded tensor; ml_dtypes has those that numpy does not."""
    if dtype == "bfloat16" or dtype.startswith("float8"):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, dtype))
    return np.dtype(dtype)


def open_file(source: str | Path | bytes, limit_bytes: int | None = None) -> File:
    """Open a `.dct`, by path or as bytes.

    limit_bytes: the most that its tensors and graph may decode to; None: the larger of 64 MiB and 4,096 times the file.
    Raises FormatError for what is no `.dct`, is damaged or goes beyond the limit, OSError where it cannot be read.
    """
    if isinstance(source, bytes):
        return File(lambda start, count: source[start : start + count], len(source), "<bytes>", limit_bytes)
    path = Path(source)

    def read(start: int, count: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)

    return File(read, path.stat().st_size, str(path), limit_bytes)
