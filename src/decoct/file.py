"""The `.dct` container: header and chunks. `docs/format.md` is the specification; this module reads and writes it.

    write(path, entries, meta, graph) -> bytes written
    open_file(path) -> File           names, shapes, meta at once; tensors decoded one at a time when asked for

Every count, length and shape of a file is checked before memory is taken for it. What does not hold is a FormatError
that names the file and the byte.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from secrets import token_hex
from tempfile import SpooledTemporaryFile
from types import MappingProxyType
from typing import IO, Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from decoct import coding
from decoct.coding import Stored
from decoct.coding.reader import varint
from decoct.errors import FormatError, nearest

FORMAT_VERSION = 1
MAGIC = b"DCT"
DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "complex64",
)  # fmt: skip
EDITS = ("Keep", "Factor", "Replace")
NAMED, META, GRAPH = 1, 2, 4
LONGEST_PROLOGUE = 24
LARGEST_HEADER = LARGEST_DESCRIPTION = 64 << 20
LARGEST_RANK = 32
LONGEST_TEXT = 65_535
SMALLEST_LIMIT = 64 << 20
LIMIT_FACTOR = 4096
SPOOL_BYTES = 16 << 20
WINDOW = 32_768

Shapes = Sequence[tuple[str, Sequence[int], str]]


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
    bare: leave out names, shapes, meta (unless it has structural edits) and graph.
    aliases: further names of tied tensors, each to its owner's name.
    Raises FormatError for what the format cannot hold, OSError where the disk refuses.
    """
    rows: list[_Row] = []
    with SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=str(Path(path).absolute().parent)) as chunks:
        for entry in entries:
            rows.append(_encode(Entry(*entry), chunks))
        table = _table(rows, aliases)
        if bare:
            graph, meta = None, ({"edits": meta["edits"]} if meta.get("edits") else {})
        if graph is not None:
            chunk = varint(len(graph)) + _deflate(graph, table[-WINDOW:])
            rows.append(_Row("", (), "", len(chunk), zlib.crc32(chunk)))
            chunks.write(chunk)
        _check_meta(meta, "meta")
        with replacing(path) as file:
            file.write(_prologue(rows, table, meta, graph is not None, bare))
            chunks.seek(0)
            shutil.copyfileobj(chunks, file, 1 << 20)
            return file.tell()


class _Row(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: str
    length: int
    checksum: int


def _encode(entry: Entry, chunks: IO[bytes]) -> _Row:
    dtype = entry.dtype or entry.stored.dtype
    if dtype not in DTYPES:
        raise FormatError(f"{entry.name}: the file has no dtype {dtype!r}{nearest(dtype, DTYPES)}")
    if coded_dtype(dtype) != coded_dtype(entry.stored.dtype):
        raise FormatError(f"{entry.name}: {dtype} is coded as {coded_dtype(dtype)}, not as {entry.stored.dtype}")
    chunk = coding.encode(entry.stored, entry.coder, entry.parameters)
    chunks.write(chunk)
    return _Row(entry.name, tuple(entry.stored.shape), dtype, len(chunk), zlib.crc32(chunk))


def _prologue(rows: list[_Row], table: bytes, meta: Mapping[str, Any], graph: bool, bare: bool) -> bytes:
    """Everything before the chunks."""
    tensors = rows[:-1] if graph else rows
    flags = (0 if bare else NAMED) | (META if meta else 0) | (GRAPH if graph else 0)
    header = bytes([flags]) + varint(len(tensors))
    header += b"".join(varint(row.length) for row in rows)
    header += b"".join(struct.pack("<I", row.checksum) for row in rows)
    header += _runs([row.dtype for row in tensors])
    if bare:
        header += struct.pack("<I", _fingerprint([(row.name, row.shape, row.dtype) for row in tensors]))
    text = json.dumps(meta, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode() if meta else b""
    description = (b"" if bare else table) + text
    if flags & (NAMED | META):
        header += varint(len(description)) + _deflate(description)
    if len(header) > LARGEST_HEADER or len(description) > LARGEST_DESCRIPTION:
        raise FormatError(f"the header would have {len(header)} bytes; the most is {LARGEST_HEADER}")
    rest = varint(len(header)) + header
    length = len(rest) + 4 + sum(row.length for row in rows)
    start = MAGIC + bytes([FORMAT_VERSION]) + varint(length) + rest
    return start + struct.pack("<I", zlib.crc32(start))


def _table(rows: list[_Row], aliases: Mapping[str, str]) -> bytes:
    places = {row.name: place for place, row in enumerate(rows)}
    if len(places) < len(rows) or places.keys() & aliases.keys() or "" in places or "" in aliases:
        raise FormatError("the names of the tensors and aliases must be non-empty and differ from each other")
    for alias, owner in aliases.items():
        if owner not in places:
            raise FormatError(
                f"{alias} is an alias of {owner!r}, which is no tensor of the file{nearest(owner, places)}"
            )
    described = _described([(row.name, row.shape) for row in rows])
    tied = b"".join(_text(alias) + varint(places[owner]) for alias, owner in aliases.items())
    return described + varint(len(aliases)) + tied


def _described(shapes: Iterable[tuple[str, Sequence[int]]]) -> bytes:
    parts = []
    for name, shape in shapes:
        if len(shape) > LARGEST_RANK:
            raise FormatError(f"{name} has {len(shape)} dimensions; the most is {LARGEST_RANK}")
        parts += [_text(name), varint(len(shape)), *(varint(size) for size in shape)]
    return b"".join(parts)


def _fingerprint(shapes: Shapes) -> int:
    return zlib.crc32(_described([(name, tuple(shape)) for name, shape, _ in shapes]) + varint(0))


def _runs(dtypes: list[str]) -> bytes:
    out, start = b"", 0
    for end in range(1, len(dtypes) + 1):
        if end == len(dtypes) or dtypes[end] != dtypes[start]:
            out, start = out + varint(end - start) + bytes([DTYPES.index(dtypes[start])]), end
    return out


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > LONGEST_TEXT:
        raise FormatError(f"a name of {len(raw)} bytes is too long; the most is {LONGEST_TEXT}")
    return varint(len(raw)) + raw


def _deflate(data: bytes, dictionary: bytes = b"") -> bytes:
    """Raw DEFLATE, level 9."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return packer.compress(data) + packer.flush()


# ----------------------------------------------------------------------------------------------------------- reading


class Cursor:
    """Reads `data` from front to back and never past its end; an error names `label` and the byte.

    base: where `data` begins in what `label` names.
    """

    def __init__(self, data: bytes, label: str, base: int = 0) -> None:
        self.data, self.label, self.base, self.place = data, label, base, 0

    def fail(self, problem: str) -> NoReturn:
        """Raise FormatError at the present place."""
        raise FormatError(f"{self.label}, byte {self.base + self.place}: {problem}")

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.data) - self.place

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if count > self.left:
            self.fail(f"{what} needs {count} bytes; {self.left} are left")
        self.place += count
        return self.data[self.place - count : self.place]

    def varint(self, what: str, most: int = 2**63 - 1) -> int:
        """The next number, at most `most`."""
        start, number = self.place, 0
        for shift in range(0, 63, 7):
            byte = self.take(1, what)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            self.place = start
            self.fail(f"{what} is not a varint below 2^63")
        if byte == 0 and shift:
            self.place = start
            self.fail(f"{what} is a varint with needless bytes")
        if number > most:
            self.place = start
            self.fail(f"{what} is {number}; the most is {most}")
        return number

    def u32(self, what: str) -> int:
        """The next four bytes."""
        return int.from_bytes(self.take(4, what), "little")

    def text(self, what: str) -> str:
        """The next text, not empty."""
        raw = self.take(self.varint(f"the length of {what}", LONGEST_TEXT), what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")
        return text or self.fail(f"{what} is empty")


@dataclass(frozen=True)
class _Chunk:
    offset: int
    length: int
    checksum: int


@dataclass(frozen=True)
class _Header:
    flags: int
    dtypes: tuple[str, ...]
    chunks: tuple[_Chunk, ...]
    fingerprint: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    aliases: Mapping[str, str]
    meta: dict[str, Any]
    table: bytes


class File:
    """A `.dct` that has been opened: header read and checked, chunks read and decoded when asked for.

    label: the name that errors give. size_bytes: of the whole file. meta: see docs/format.md.
    aliases: further names of tied tensors -> owner. bare: whether names and shapes must be bound first.
    """

    def __init__(self, read: Callable[[int, int], bytes], size_bytes: int, label: str, limit_bytes: int | None) -> None:
        self.label, self.size_bytes, self.version = label, size_bytes, FORMAT_VERSION
        self.limit_bytes = max(SMALLEST_LIMIT, LIMIT_FACTOR * size_bytes) if limit_bytes is None else limit_bytes
        self._read = read
        self._header = _open(read, size_bytes, label)
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
        if _fingerprint(shapes) != self._header.fingerprint:
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
        return _inflate(cursor, self._left(), "the graph", self._header.table[-WINDOW:])

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


def _open(read: Callable[[int, int], bytes], size: int, label: str) -> _Header:
    """Check and parse everything before the chunks."""
    cursor = Cursor(read(0, min(size, LONGEST_PROLOGUE)), label)
    if cursor.take(min(3, cursor.left), "magic") != MAGIC:
        raise FormatError(f"{label}, byte 0: no .dct file: it does not begin with DCT")
    version = cursor.take(1, "the version")[0]
    if version != FORMAT_VERSION:
        raise FormatError(f"{label}, byte 3: version {version}; this decoct reads version {FORMAT_VERSION}")
    length = cursor.varint("the length")
    left = size - cursor.place
    if length != left:
        state = "truncated" if length > left else "followed by bytes that are not its own"
        cursor.fail(f"the file is {state}: {length} bytes should come, there are {left}")
    header_length = cursor.varint("the header's length", LARGEST_HEADER)
    start = cursor.place
    if header_length + 4 > size - start:
        cursor.fail(f"a header of {header_length} bytes does not fit in the {size - start} that are left")
    data = read(0, start + header_length + 4)
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FormatError(f"{label}, byte {start + header_length}: the header is damaged, its checksum does not hold")
    return _parse(Cursor(data[start:-4], label, start), len(data), size)


def _parse(cursor: Cursor, start: int, size: int) -> _Header:
    """The header between its length and its checksum; `start` is where the chunks begin."""
    flags = cursor.take(1, "the flags")[0]
    if flags & ~(NAMED | META | GRAPH) or (flags & GRAPH and not flags & NAMED):
        cursor.fail(f"flags {flags:#04x} are not known")
    count = cursor.varint("the number of tensors", cursor.left // 5)  # a tensor takes at least a length and a checksum
    chunks = _chunks(cursor, count + bool(flags & GRAPH), start, size)
    dtypes = _dtypes(cursor, count)
    fingerprint = 0 if flags & NAMED else cursor.u32("the fingerprint")
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    aliases: dict[str, str] = {}
    meta: dict[str, Any] = {}
    table = b""
    if flags & (NAMED | META):
        described = Cursor(_inflate(cursor, LARGEST_DESCRIPTION, "the description"), f"{cursor.label}, description")
        if flags & NAMED:
            names, shapes, aliases = _read_table(described, count)
            table = described.data[: described.place]
        if flags & META:
            meta = _read_meta(described)
        elif described.left:
            described.fail(f"{described.left} bytes are left over")
    elif cursor.left:
        cursor.fail(f"{cursor.left} bytes of the header are left over")
    return _Header(flags, dtypes, chunks, fingerprint, tuple(names), tuple(shapes), aliases, meta, table)


def _chunks(cursor: Cursor, count: int, start: int, size: int) -> tuple[_Chunk, ...]:
    lengths: list[int] = []
    left = size - start
    for place in range(count):
        lengths.append(cursor.varint(f"the length of chunk {place}", left))
        left -= lengths[-1]
    if left:
        cursor.fail(f"the chunks have {sum(lengths)} bytes together; {size - start} follow the header")
    checksums = struct.unpack(f"<{count}I", cursor.take(4 * count, "the checksums"))
    offsets = accumulate(lengths, initial=start)
    return tuple(_Chunk(*parts) for parts in zip(offsets, lengths, checksums, strict=False))


def _dtypes(cursor: Cursor, count: int) -> tuple[str, ...]:
    dtypes: list[str] = []
    while len(dtypes) < count:
        run = cursor.varint("a run of dtypes", count - len(dtypes)) or cursor.fail("a run of no dtypes")
        code = cursor.take(1, "a dtype")[0]
        if code >= len(DTYPES):
            cursor.fail(f"dtype {code} is not known")
        dtypes += [DTYPES[code]] * run
    return tuple(dtypes)


def _inflate(cursor: Cursor, most: int, what: str, dictionary: bytes = b"") -> bytes:
    """Decoded size and deflated bytes to the cursor's end, in bounded memory."""
    size = cursor.varint(f"the size of {what}", max(most, 0))
    unpacker = zlib.decompressobj(-15, dictionary)
    try:
        data = unpacker.decompress(cursor.data[cursor.place :], size + 1)
    except zlib.error as error:
        cursor.fail(f"{what} is not deflated data ({error})")
    if len(data) != size or not unpacker.eof or unpacker.unused_data:
        cursor.fail(f"{what} does not inflate to the {size} bytes that it states, or does not end with its field")
    return data


def _read_table(cursor: Cursor, count: int) -> tuple[list[str], list[tuple[int, ...]], dict[str, str]]:
    """Names, shapes and aliases of the decoded description."""
    names: list[str] = []
    shapes = []
    seen: set[str] = set()

    def name(what: str) -> str:
        text = cursor.text(what)
        if text in seen:
            cursor.fail(f"the name {text!r} occurs twice")
        seen.add(text)
        return text

    for _ in range(count):
        names.append(name("a tensor's name"))
        rank = cursor.varint(f"the rank of {names[-1]}", LARGEST_RANK)
        shapes.append(tuple(cursor.varint(f"a dimension of {names[-1]}") for _ in range(rank)))
    aliases = {}
    for _ in range(cursor.varint("the number of aliases", cursor.left)):
        alias = name("an alias")
        owner = cursor.varint(f"the owner of {alias}")
        if owner >= count:
            cursor.fail(f"alias {alias!r} belongs to tensor {owner}; there are {count}")
        aliases[alias] = names[owner]
    return names, shapes, aliases


def _read_meta(cursor: Cursor) -> dict[str, Any]:
    try:
        meta = json.loads(cursor.data[cursor.place :].decode())
    except (ValueError, RecursionError) as error:
        cursor.fail(f"the meta is not JSON: {type(error).__name__}: {error}")
    if not isinstance(meta, dict):
        cursor.fail(f"the meta is {type(meta).__name__}, not an object")
    _check_meta(meta, f"{cursor.label}, byte {cursor.base + cursor.place}: meta")
    return meta


def _check_meta(meta: Mapping[str, Any], where: str) -> None:
    """FormatError unless the keys with a fixed meaning have their form."""
    for key, holds in _FORMS.items():
        if key in meta and not holds(meta[key]):
            raise FormatError(f"{where}: {key!r} does not have the form that the format gives it")
    for edit in meta.get("edits", []):
        if edit["edit"] not in EDITS:
            raise FormatError(f"{where}: unknown edit {edit['edit']!r}; this decoct knows {', '.join(EDITS)}")


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value)


def _normalisation(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(_numbers(value.get(key)) for key in ("mean", "std")))


def _ports(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(port, Mapping)
        and isinstance(port.get("name"), str)
        and isinstance(port.get("dtype"), str | None)
        and (port.get("shape") is None or _sizes(port["shape"]))
        for port in value
    )


def _edits(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(edit, Mapping) and "edit" in edit for edit in value)


def _sizes(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(size is None or type(size) is int for size in value)


_FORMS: dict[str, Callable[[Any], bool]] = {
    "decoct": lambda value: isinstance(value, str),
    "inputs": _ports,
    "outputs": _ports,
    "normalisation": _normalisation,
    "labels": lambda value: value is None or _texts(value),
    "edits": _edits,
    "safetensors": lambda value: isinstance(value, Mapping) and _texts([*value, *value.values()]),
}
