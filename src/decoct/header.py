"""The header of a `.dct`: everything before the chunks, written and read. `docs/format.md` is the specification.

Every count, length and shape is checked before memory is taken for it. What does not hold is a FormatError that names
the file and the byte.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn

from decoct.coding.reader import varint
from decoct.errors import FormatError, nearest

FORMAT_VERSION = 1
MAGIC = b"DCT"
DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "complex64",
)  # fmt: skip
EDITS = ("Keep", "Attribute", "Factor", "Replace")
CASTS = ("float16", "bfloat16")
NAMED, META, GRAPH = 1, 2, 4
LONGEST_PROLOGUE = 24
LARGEST_HEADER = LARGEST_DESCRIPTION = 64 << 20
LARGEST_RANK = 32
LONGEST_TEXT = 65_535

Shapes = Sequence[tuple[str, Sequence[int], str]]


class Row(NamedTuple):
    """A chunk that has been written, and the tensor in it; the graph has neither name nor shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    length: int
    checksum: int


def prologue(rows: list[Row], table: bytes, meta: Mapping[str, Any], graph: bool, bare: bool) -> bytes:
    """Everything before the chunks."""
    tensors = rows[:-1] if graph else rows
    flags = (0 if bare else NAMED) | (META if meta else 0) | (GRAPH if graph else 0)
    header = bytes([flags]) + varint(len(tensors))
    header += b"".join(varint(row.length) for row in rows)
    header += b"".join(struct.pack("<I", row.checksum) for row in rows)
    header += _runs([row.dtype for row in tensors])
    if bare:
        header += struct.pack("<I", fingerprint_of([(row.name, row.shape, row.dtype) for row in tensors]))
    text = json.dumps(meta, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode() if meta else b""
    description = (b"" if bare else table) + text
    if flags & (NAMED | META):
        header += varint(len(description)) + deflate(description)
    if len(header) > LARGEST_HEADER or len(description) > LARGEST_DESCRIPTION:
        raise FormatError(f"the header would have {len(header)} bytes; the most is {LARGEST_HEADER}")
    rest = varint(len(header)) + header
    length = len(rest) + 4 + sum(row.length for row in rows)
    start = MAGIC + bytes([FORMAT_VERSION]) + varint(length) + rest
    return start + struct.pack("<I", zlib.crc32(start))


def table_of(rows: list[Row], aliases: Mapping[str, str]) -> bytes:
    """Names, shapes and aliases; FormatError where they are not distinct or an alias has no owner."""
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


def fingerprint_of(shapes: Shapes) -> int:
    """What a bare file keeps of names and shapes."""
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


def deflate(data: bytes, dictionary: bytes = b"") -> bytes:
    """Raw DEFLATE, level 9."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return packer.compress(data) + packer.flush()


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
class Chunk:
    """Where a chunk lies and what its checksum must be."""

    offset: int
    length: int
    checksum: int


@dataclass(frozen=True)
class Header:
    """A header that has been read; `table` is its decoded bytes, the dictionary of the graph."""

    flags: int
    dtypes: tuple[str, ...]
    chunks: tuple[Chunk, ...]
    fingerprint: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    aliases: Mapping[str, str]
    meta: dict[str, Any]
    table: bytes


def read_header(read: Callable[[int, int], bytes], size: int, label: str) -> Header:
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


def _parse(cursor: Cursor, start: int, size: int) -> Header:
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
        described = Cursor(inflate(cursor, LARGEST_DESCRIPTION, "the description"), f"{cursor.label}, description")
        if flags & NAMED:
            names, shapes, aliases = _read_table(described, count)
            table = described.data[: described.place]
        if flags & META:
            meta = _read_meta(described)
        elif described.left:
            described.fail(f"{described.left} bytes are left over")
    elif cursor.left:
        cursor.fail(f"{cursor.left} bytes of the header are left over")
    return Header(flags, dtypes, chunks, fingerprint, tuple(names), tuple(shapes), aliases, meta, table)


def _chunks(cursor: Cursor, count: int, start: int, size: int) -> tuple[Chunk, ...]:
    lengths: list[int] = []
    left = size - start
    for place in range(count):
        lengths.append(cursor.varint(f"the length of chunk {place}", left))
        left -= lengths[-1]
    if left:
        cursor.fail(f"the chunks have {sum(lengths)} bytes together; {size - start} follow the header")
    checksums = struct.unpack(f"<{count}I", cursor.take(4 * count, "the checksums"))
    offsets = accumulate(lengths, initial=start)
    return tuple(Chunk(*parts) for parts in zip(offsets, lengths, checksums, strict=False))


def _dtypes(cursor: Cursor, count: int) -> tuple[str, ...]:
    dtypes: list[str] = []
    while len(dtypes) < count:
        run = cursor.varint("a run of dtypes", count - len(dtypes)) or cursor.fail("a run of no dtypes")
        code = cursor.take(1, "a dtype")[0]
        if code >= len(DTYPES):
            cursor.fail(f"dtype {code} is not known")
        dtypes += [DTYPES[code]] * run
    return tuple(dtypes)


def inflate(cursor: Cursor, most: int, what: str, dictionary: bytes = b"") -> bytes:
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
    check_meta(meta, f"{cursor.label}, byte {cursor.base + cursor.place}: meta")
    return meta


def check_meta(meta: Mapping[str, Any], where: str) -> None:
    """FormatError unless the keys with a fixed meaning have their form."""
    for key, holds in _FORMS.items():
        if key in meta and not holds(meta[key]):
            raise FormatError(f"{where}: {key!r} does not have the form that the format gives it")
    _check_edits(meta.get("edits", ()), where)


def _check_edits(edits: Iterable[Mapping[str, Any]], where: str) -> None:
    """FormatError for an edit that is unknown or not of its form, or of a dimension or number that had one before."""
    places: set[tuple[Any, ...]] = set()
    for number, edit in enumerate(edits):
        kind = edit["edit"]
        if kind not in EDITS:
            raise FormatError(f"{where}: unknown edit {kind!r}; this decoct knows {', '.join(EDITS)}")
        if kind not in _EDIT_FORMS:
            continue
        here = f"{where}: edit {number}, {kind}"
        form = _EDIT_FORMS[kind]
        for field, holds in form.items():
            if not holds(edit.get(field)):
                raise FormatError(f"{here}: its {field!r} does not have the form that the format gives it")
        if len(edit) > len(form) + 1:
            raise FormatError(f"{here}: it says too much: {', '.join(sorted(set(edit) - {'edit', *form}))}")
        if kind == "Keep" and not _is_bitmap(edit["kept"], edit["size"]):
            raise FormatError(f"{here}: its 'kept' is no bitmap of {edit['size']} positions")
        place = tuple(edit[field] for field in list(form)[:2])
        if (kind, *place) in places:
            raise FormatError(f"{here}: there is one of the same place before it")
        places.add((kind, *place))


def _is_bitmap(text: str, size: int) -> bool:
    """Whether this is base64 of one bit for each position, one of them set, and zero bits up to the end."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    if len(raw) != -(-size // 8) or raw.count(0) == len(raw) or base64.b64encode(raw).decode() != text:
        return False
    return not raw[-1] & (1 << -size % 8) - 1


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
    "casts": lambda value: isinstance(value, Mapping) and all(dtype in CASTS for dtype in value.values()),
    "safetensors": lambda value: isinstance(value, Mapping) and _texts([*value, *value.values()]),
}
_EDIT_FORMS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "Keep": {
        "tensor": lambda value: isinstance(value, str) and value != "",
        "dim": lambda value: type(value) is int and 0 <= value < LARGEST_RANK,
        "size": lambda value: type(value) is int and value > 0,
        "kept": lambda value: isinstance(value, str),
    },
    "Attribute": {
        "module": lambda value: isinstance(value, str),
        "name": lambda value: isinstance(value, str) and value != "",
        "value": lambda value: type(value) is int and 0 < value < 1 << 63,
    },
}
