"""Write the hostile files of this folder, and README.md, the table of what each must be refused with.

    python tests/hostile/make.py

A file is built from its parts, each of which can be made to lie; checksums are right unless they are what lies.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

from decoct import coding
from decoct.coding import Stored

FOLDER = Path(__file__).parent
VALUES = np.arange(12, dtype=np.float32)
CHUNK = coding.encode(Stored((3, 4), "float32", "plain", VALUES), "fixed")
META = {"decoct": "0.1.0", "edits": []}
FLOAT32 = 10
NAMED, HAS_META, HAS_GRAPH = 1, 2, 4


def varint(number: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def u32(number: int) -> bytes:
    """Four bytes."""
    return number.to_bytes(4, "little")


def text(string: str | bytes) -> bytes:
    """Length and UTF-8."""
    raw = string if isinstance(string, bytes) else string.encode()
    return varint(len(raw)) + raw


def deflate(data: bytes, dictionary: bytes = b"") -> bytes:
    """Raw DEFLATE."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, dictionary)
    return packer.compress(data) + packer.flush()


def table(tensors: list[tuple[str | bytes, tuple[int, ...]]], aliases: tuple[tuple[str, int], ...] = ()) -> bytes:
    """Names, shapes, aliases."""
    parts = [text(name) + varint(len(shape)) + b"".join(map(varint, shape)) for name, shape in tensors]
    return b"".join(parts) + varint(len(aliases)) + b"".join(text(name) + varint(owner) for name, owner in aliases)


TABLE = table([("weight", (3, 4))])


def header(
    flags: int = NAMED | HAS_META,
    count: bytes | None = None,
    lengths: list[int] | None = None,
    checksums: list[int] | None = None,
    dtypes: bytes | None = None,
    named: bytes = TABLE,
    meta: bytes | dict = META,
    description: bytes | None = None,
    chunks: tuple[bytes, ...] = (CHUNK,),
) -> bytes:
    """A header of which each part can be given."""
    tensors = len(chunks) - bool(flags & HAS_GRAPH)
    meta = meta if isinstance(meta, bytes) else json.dumps(meta, separators=(",", ":")).encode()
    described = named + meta
    return (
        bytes([flags])
        + (varint(tensors) if count is None else count)
        + b"".join(map(varint, [len(chunk) for chunk in chunks] if lengths is None else lengths))
        + b"".join(map(u32, [zlib.crc32(chunk) for chunk in chunks] if checksums is None else checksums))
        + (varint(tensors) + bytes([FLOAT32]) if dtypes is None else dtypes)
        + (varint(len(described)) + deflate(described) if description is None else description)
    )


def build(
    head: bytes | None = None,
    chunks: tuple[bytes, ...] = (CHUNK,),
    magic: bytes = b"DCT",
    version: int = 1,
    length: int | None = None,
    header_length: bytes | None = None,
    checksum: int | None = None,
    tail: bytes = b"",
    **parts,
) -> bytes:
    """A file of which each part can be given; `parts` are those of `header`."""
    head = header(chunks=chunks, **parts) if head is None else head
    rest = (varint(len(head)) if header_length is None else header_length) + head
    total = len(rest) + 4 + sum(map(len, chunks)) if length is None else length
    start = magic + bytes([version]) + varint(total) + rest
    return start + u32(zlib.crc32(start) if checksum is None else checksum) + b"".join(chunks) + tail


def one(shape: tuple[int, ...]) -> bytes:
    """A file whose tensor has another shape than its chunk was written for."""
    return build(named=table([("weight", shape)]))


def two(first: str, second: str) -> bytes:
    """A file of two tensors with these names."""
    return build(chunks=(CHUNK, CHUNK), named=table([(first, (3, 4)), (second, (3, 4))]))


def with_meta(**meta) -> bytes:
    """A file with this meta."""
    return build(meta=META | meta)


def kept(**changes) -> bytes:
    """A file with one Keep, of 12 positions the first 3, of which something is changed; None takes a field away."""
    edit = {"edit": "Keep", "tensor": "weight", "dim": 0, "size": 12, "kept": "4AA="} | changes
    return with_meta(edits=[{name: value for name, value in edit.items() if value is not None}])


def counted(**changes) -> bytes:
    """A file with one Attribute of which something is changed."""
    return with_meta(edits=[{"edit": "Attribute", "module": "", "name": "groups", "value": 3} | changes])


def with_graph(graph: bytes) -> bytes:
    """A file with this graph chunk."""
    return build(flags=NAMED | HAS_META | HAS_GRAPH, chunks=(CHUNK, graph))


GOOD = build()
DEEP = b"[" * 100_000
BOMB = deflate(bytes(20 << 20))

CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "byte 0: no .dct file"),
    "magic": (build(magic=b"DCX"), "byte 0: no .dct file"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "byte 0: no .dct file"),
    "only-magic": (b"DCT", "byte 3: the version needs 1 bytes; 0 are left"),
    "version": (build(version=2), "byte 3: version 2; this decoct reads version 1"),
    "truncated": (GOOD[:-1], "the file is truncated"),
    "truncated-header": (GOOD[:20], "the file is truncated"),
    "trailing": (GOOD + b"\0", "followed by bytes that are not its own"),
    "length-endless": (b"DCT\x01" + b"\xff" * 20, "the length is not a varint below 2^63"),
    "length-padded": (b"DCT\x01\x80\x00" + bytes(30), "a varint with needless bytes"),
    "header-huge": (build(header_length=varint(2**40)), "the header's length is 1099511627776; the most is"),
    "header-beyond": (build(header_length=varint(5000)), "a header of 5000 bytes does not fit"),
    "header-checksum": (build(checksum=0), "the header is damaged, its checksum does not hold"),
    "flags": (build(flags=NAMED | HAS_META | 8), "flags 0x0b are not known"),
    "graph-unnamed": (build(head=bytes([HAS_GRAPH, 0, 0])), "flags 0x04 are not known"),
    "count-huge": (build(count=varint(2**60)), "the number of tensors is 1152921504606846976; the most is"),
    "count-more": (build(count=varint(2)), "byte"),
    "chunk-beyond": (build(lengths=[10_000]), "the length of chunk 0 is 10000; the most is"),
    "chunk-short": (build(lengths=[len(CHUNK) - 1]), "the chunks have"),
    "chunks-overlap": (
        build(chunks=(CHUNK, CHUNK[:1]), lengths=[len(CHUNK), len(CHUNK)]),
        "the length of chunk 1 is",
    ),
    "chunk-checksum": (build(checksums=[1]), "tensor 'weight' is damaged, its checksum does not hold"),
    "dtype": (build(dtypes=b"\x01\x63"), "dtype 99 is not known"),
    "dtype-run-none": (build(dtypes=b"\x00\x0a"), "a run of no dtypes"),
    "dtype-run-long": (build(dtypes=b"\x05\x0a"), "a run of dtypes is 5; the most is 1"),
    "shape-larger": (one((3, 5)), "tensor 'weight', chunk at byte"),
    "shape-smaller": (one((3, 3)), "tensor 'weight', chunk at byte"),
    "shape-overflow": (one((2**62, 2**62, 4)), "would decode to"),
    "shape-huge": (one((2**45,)), "would decode to"),
    "shape-empty-huge": (one((0, 2**60)), "would decode to"),
    "dtype-mismatch": (build(dtypes=b"\x01\x01"), "tensor 'weight', chunk at byte"),
    "rank": (build(named=table([("weight", (1,) * 33)])), "the rank of weight is 33; the most is 32"),
    "names-equal": (two("weight", "weight"), "the name 'weight' occurs twice"),
    "name-empty": (build(named=table([("", (3, 4))])), "a tensor's name is empty"),
    "name-not-text": (build(named=table([(b"\xff\xfe", (3, 4))])), "a tensor's name is not UTF-8"),
    "name-long": (build(named=table([("n" * 70_000, (3, 4))])), "the length of a tensor's name is 70000; the most is"),
    "alias-dangling": (
        build(named=table([("weight", (3, 4))], (("tied", 1),))),
        "alias 'tied' belongs to tensor 1; there are 1",
    ),
    "alias-cycle": (build(named=table([("weight", (3, 4))], (("weight", 0),))), "the name 'weight' occurs twice"),
    "aliases-many": (
        build(named=TABLE[:-1] + varint(2**50)),
        "the number of aliases is 1125899906842624; the most is",
    ),
    "description-bomb": (build(description=varint(100) + BOMB), "the description does not inflate to the 100 bytes"),
    "description-huge": (build(description=varint(2**50) + BOMB), "the size of the description is 1125899906842624"),
    "description-damaged": (build(description=varint(100) + b"\xff" * 60), "the description is not deflated data"),
    "description-more": (
        build(description=varint(len(TABLE)) + deflate(TABLE) + b"more"),
        "or does not end with its field",
    ),
    "description-left": (build(flags=NAMED, meta=b"left"), "4 bytes are left over"),
    "bare-left": (build(head=bytes([0, 0]) + u32(0) + b"left", chunks=()), "4 bytes of the header are left over"),
    "meta-not-json": (build(meta=b"{'single': 1}"), "the meta is not JSON"),
    "meta-list": (build(meta=b"[]"), "the meta is list, not an object"),
    "meta-deep": (build(meta=b'{"a":' + DEEP), "the meta is not JSON"),
    "meta-digits": (build(meta=b'{"a":' + b"9" * 10_000 + b"}"), "the meta is not JSON"),
    "meta-inputs": (with_meta(inputs=[{"name": 3}]), "'inputs' does not have the form"),
    "meta-labels": (with_meta(labels="cat"), "'labels' does not have the form"),
    "meta-normalisation": (with_meta(normalisation={"mean": 0}), "'normalisation' does not have the form"),
    "edits-unknown": (with_meta(edits=[{"edit": "Execute", "code": "1"}]), "unknown edit 'Execute'"),
    "edits-form": (with_meta(edits={"edit": "Keep"}), "'edits' does not have the form"),
    "edits-cycle": (with_meta(edits=[{"edit": ["Keep"]}]), "unknown edit ['Keep']"),
    "keep-base64": (kept(kept="4A!="), "edit 0, Keep: its 'kept' is no bitmap of 12 positions"),
    "keep-base64-loose": (kept(kept="4AB="), "edit 0, Keep: its 'kept' is no bitmap of 12 positions"),
    "keep-short": (kept(size=17), "edit 0, Keep: its 'kept' is no bitmap of 17 positions"),
    "keep-long": (kept(size=8), "edit 0, Keep: its 'kept' is no bitmap of 8 positions"),
    "keep-size-huge": (kept(size=2**40), "edit 0, Keep: its 'kept' is no bitmap of 1099511627776 positions"),
    "keep-beyond": (kept(kept="4Ag="), "edit 0, Keep: its 'kept' is no bitmap of 12 positions"),
    "keep-nothing": (kept(kept="AAA="), "edit 0, Keep: its 'kept' is no bitmap of 12 positions"),
    "keep-list": (kept(kept=[0, 1, 2]), "edit 0, Keep: its 'kept' does not have the form"),
    "keep-size-none": (kept(size=0, kept=""), "edit 0, Keep: its 'size' does not have the form"),
    "keep-size-float": (kept(size=12.0), "edit 0, Keep: its 'size' does not have the form"),
    "keep-dim-negative": (kept(dim=-1), "edit 0, Keep: its 'dim' does not have the form"),
    "keep-dim-large": (kept(dim=32), "edit 0, Keep: its 'dim' does not have the form"),
    "keep-dim-flag": (kept(dim=False), "edit 0, Keep: its 'dim' does not have the form"),
    "keep-unnamed": (kept(tensor=None), "edit 0, Keep: its 'tensor' does not have the form"),
    "keep-name-empty": (kept(tensor=""), "edit 0, Keep: its 'tensor' does not have the form"),
    "keep-more": (kept(then="exec"), "edit 0, Keep: it says too much"),
    "keep-twice": (
        with_meta(edits=[{"edit": "Keep", "tensor": "weight", "dim": 0, "size": 3, "kept": "4A=="}] * 2),
        "edit 1, Keep: there is one of the same place before it",
    ),
    "keep-bare": (
        build(
            flags=HAS_META,
            dtypes=varint(1) + bytes([FLOAT32]) + u32(0),
            named=b"",
            meta={"edits": [{"edit": "Keep", "tensor": "weight", "dim": 0, "size": 2**62, "kept": "4A=="}]},
        ),
        "edit 0, Keep: its 'kept' is no bitmap of 4611686018427387904 positions",
    ),
    "attribute-none": (counted(value=0), "edit 0, Attribute: its 'value' does not have the form"),
    "attribute-float": (counted(value=3.0), "edit 0, Attribute: its 'value' does not have the form"),
    "attribute-huge": (counted(value=2**63), "edit 0, Attribute: its 'value' does not have the form"),
    "attribute-unnamed": (counted(name=""), "edit 0, Attribute: its 'name' does not have the form"),
    "attribute-module": (counted(module=None), "edit 0, Attribute: its 'module' does not have the form"),
    "attribute-more": (counted(code="1"), "edit 0, Attribute: it says too much"),
    "casts-form": (with_meta(casts=["weight"]), "'casts' does not have the form"),
    "casts-dtype": (with_meta(casts={"weight": "float8"}), "'casts' does not have the form"),
    "graph-bomb": (with_graph(varint(100) + BOMB), "the graph does not inflate to the 100 bytes"),
    "graph-huge": (with_graph(varint(2**50) + BOMB), "the size of the graph is 1125899906842624; the most is"),
    "graph-empty": (with_graph(b""), "the size of the graph needs 1 bytes; 0 are left"),
    "chunk-empty": (build(chunks=(b"",)), "tensor 'weight', chunk at byte"),
    "chunk-noise": (build(chunks=(b"\xff" * 40,)), "tensor 'weight', chunk at byte"),
}


def main() -> None:
    """Write every file and the table."""
    lines = [
        "# Hostile files",
        "",
        "Written by `make.py`. `tests/test_file.py` opens each; the FormatError must say what the table says.",
        "",
        "| file | bytes | error |",
        "|---|---|---|",
    ]
    for name, (data, error) in CASES.items():
        (FOLDER / f"{name}.dct").write_bytes(data)
        lines.append(f"| {name}.dct | {len(data)} | {error} |")
    (FOLDER / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
