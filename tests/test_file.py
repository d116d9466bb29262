"""The container: round trips in both profiles, golden bytes, hostile files, damaged bytes, writing that fails."""

from __future__ import annotations

import contextlib
import re
import runpy
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoct.coding import Stored
from decoct.errors import FormatError, RecipeError
from decoct.file import FORMAT_VERSION, Entry, File, open_file, replacing, write

HERE = Path(__file__).parent
GOLDEN = runpy.run_path(str(HERE / "golden" / "make.py"))
HOSTILE = HERE / "hostile"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (HOSTILE / "README.md").read_text().splitlines()
    if line.startswith("|") and ".dct" in line
]
ENTRIES: list[Entry] = GOLDEN["ENTRIES"]
SHAPES = [(entry.name, entry.stored.shape, entry.dtype or entry.stored.dtype) for entry in ENTRIES]
MOST_BYTES = 8 << 20


def read_all(file: File) -> None:
    for name in file.names:
        file.tensor(name)
    file.graph()
    file.sections()


def same(left: Stored, right: Stored) -> bool:
    arrays = ("data", "kept", "table", "zero_point")
    pairs = [(getattr(left, name), getattr(right, name)) for name in arrays]
    equal = all(
        one is other is None or (one.dtype == other.dtype and one.tobytes() == other.tobytes()) for one, other in pairs
    )
    return equal and (left.shape, left.dtype, left.kind, left.axis) == (
        right.shape,
        right.dtype,
        right.kind,
        right.axis,
    )


# ---------------------------------------------------------------------------------------------------------- round trips


def test_a_named_file_gives_back_everything(tmp_path):
    size = write(tmp_path / "a.dct", ENTRIES, GOLDEN["META"], GOLDEN["GRAPH"], aliases=GOLDEN["ALIASES"])
    file = open_file(tmp_path / "a.dct")
    assert file.size_bytes == size == (tmp_path / "a.dct").stat().st_size
    assert file.version == FORMAT_VERSION and not file.bare
    assert file.names == tuple(entry.name for entry in ENTRIES)
    assert file.meta == GOLDEN["META"] and file.graph() == GOLDEN["GRAPH"] and file.aliases == GOLDEN["ALIASES"]
    for entry, (name, shape, dtype) in zip(ENTRIES, SHAPES, strict=True):
        assert same(file.stored(name), entry.stored) and file.shape(name) == shape and file.dtype(name) == dtype
    assert np.array_equal(file.tensor("tied"), GOLDEN["NUMBERS"].reshape(2, 5))
    assert "tied" in file and "other" not in file
    with pytest.raises(KeyError, match="'plan'; did you mean 'plain'"):
        file.shape("plan")


def test_a_bare_file_gives_back_everything_once_names_are_bound(tmp_path):
    write(tmp_path / "a.dct", ENTRIES, GOLDEN["META"], GOLDEN["GRAPH"], bare=True)
    file = open_file(tmp_path / "a.dct")
    assert file.bare and file.meta == {} and file.graph() is None and file.count == len(ENTRIES)
    with pytest.raises(FormatError, match="is bare"):
        _ = file.names
    assert file.bind(SHAPES) is file
    for entry in ENTRIES:
        assert same(file.stored(entry.name), entry.stored)


def test_a_bare_file_refuses_other_names_shapes_and_dtypes(tmp_path):
    write(tmp_path / "a.dct", ENTRIES, {}, bare=True)
    file = open_file(tmp_path / "a.dct")
    for wrong, message in (
        (SHAPES[1:], "holds 10 tensors; 9 were given"),
        ([("plain", (5, 2), "float32"), *SHAPES[1:]], "fingerprints differ"),
        ([("other", (2, 5), "float32"), *SHAPES[1:]], "fingerprints differ"),
        ([("plain", (2, 5), "float64"), *SHAPES[1:]], "plain was given as float64; the file has float32"),
    ):
        with pytest.raises(FormatError, match=message):
            file.bind(wrong)


def test_dtypes_of_decoded_tensors(tmp_path):
    write(tmp_path / "a.dct", ENTRIES, {})
    file = open_file(tmp_path / "a.dct")
    assert {name: file.tensor(name).dtype.name for name in file.names} == {name: dtype for name, _, dtype in SHAPES}
    assert file.tensor("brain").astype(np.float32).tolist() == [1.0, -1.0, np.inf]
    assert file.tensor("eight").view(np.uint8).tolist() == [0, 1, 126, 255]


@pytest.mark.parametrize("bare", [True, False])
def test_sections_sum_to_the_file(tmp_path, bare):
    size = write(tmp_path / "a.dct", ENTRIES, GOLDEN["META"], GOLDEN["GRAPH"], bare)
    sections = open_file(tmp_path / "a.dct").sections()
    assert sum(sections.values()) == size
    assert (sections["graph"] > 0) == (not bare)


def test_a_bare_lenet_costs_less_than_60_bytes_beyond_its_chunks(tmp_path):
    shapes = [(300, 784), (300,), (100, 300), (100,), (10, 100), (10,)]
    rng = np.random.default_rng(0)
    entries = [
        Entry(f"{place}", Stored(shape, "float32", "plain", rng.standard_normal(np.prod(shape)).astype(np.float32)))
        for place, shape in enumerate(shapes)
    ]
    size = write(tmp_path / "a.dct", entries, GOLDEN["META"], bare=True)
    file = open_file(tmp_path / "a.dct").bind([(entry.name, entry.stored.shape, "float32") for entry in entries])
    assert size - sum(len(file.chunk(name)) for name in file.names) < 60


def test_no_tensors_at_all(tmp_path):
    write(tmp_path / "a.dct", [], {})
    assert open_file((tmp_path / "a.dct").read_bytes()).names == ()


# --------------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize("name", ["bare", "named"])
def test_golden_bytes(tmp_path, name):
    """A changed byte is a change of the format: FORMAT_VERSION goes up, and only then golden/make.py is run."""
    arguments = {"bare": {"bare": True}, "named": {"graph": GOLDEN["GRAPH"], "aliases": GOLDEN["ALIASES"]}}[name]
    write(tmp_path / "a.dct", ENTRIES, GOLDEN["META"], **arguments)
    if name == "named" and "ng" in zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip("zlib-ng deflates to other, equally valid bytes")
    assert (tmp_path / "a.dct").read_bytes() == (HERE / "golden" / f"{name}.dct").read_bytes()


def test_golden_values():
    file = open_file(HERE / "golden" / "named.dct")
    assert file.tensor("plain").tolist() == GOLDEN["NUMBERS"].reshape(2, 5).tolist()
    assert file.tensor("half").tolist() == GOLDEN["NUMBERS"].astype(np.float16).astype(np.float32).tolist()
    assert file.tensor("grid").tolist() == [[-5.25, 0, 5.25], [6.0, -6.0, 2.0]]
    assert file.tensor("shared")[0, :9].tolist() == [-1.5, 0, 0, 0, 0, 0, 0, 2.0, 0]
    assert np.array_equal(file.tensor("shared"), file.tensor("huffman"))
    assert file.tensor("integers").tolist() == [-1, 0, 2**40, 5]
    assert file.tensor("flags").tolist() == [True, False] * 4 + [True]
    assert file.meta["labels"] == ["cat", "dog"]


# -------------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize(("name", "error"), [(row[0], row[2]) for row in ROWS])
def test_hostile_files_are_refused_in_bounded_memory(name, error):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=re.escape(error)) as caught:
            read_all(open_file(HOSTILE / name))
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert name in str(caught.value) and "byte" in str(caught.value)


def test_every_hostile_file_is_in_the_table():
    assert {row[0] for row in ROWS} == {path.name for path in HOSTILE.glob("*.dct")}
    assert len(ROWS) >= 50


@pytest.mark.parametrize("name", ["bare", "named"])
def test_no_single_changed_byte_goes_unnoticed(name):
    good = (HERE / "golden" / f"{name}.dct").read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 0x41
        with pytest.raises(FormatError):
            file = open_file(bytes(bad))
            read_all(file.bind(SHAPES) if file.bare else file)


def repaired(data: bytearray) -> bytes:
    """The named golden file with its header's checksum made right, and those of its chunks."""
    start = 6 + 2  # magic, version, length (2), header length (2)
    length = data[6] & 127 | data[7] << 7
    count = len(ENTRIES) + 1
    place = start + 2
    lengths = []
    for _ in range(count):
        number, shift = 0, 0
        while True:
            byte = data[place]
            number, shift, place = number | (byte & 127) << shift, shift + 7, place + 1
            if byte < 128:
                break
        lengths.append(number)
    offset = start + length + 4
    for size in lengths:
        data[place : place + 4] = zlib.crc32(data[offset : offset + size]).to_bytes(4, "little")
        place, offset = place + 4, offset + size
    end = start + length
    data[end : end + 4] = zlib.crc32(data[:end]).to_bytes(4, "little")
    return bytes(data)


@given(st.data())
def test_changed_bytes_under_right_checksums_give_values_or_a_format_error(data):
    """Whatever a chunk or the description says, there is no other error and no memory beyond bounds."""
    good = bytearray((HERE / "golden" / "named.dct").read_bytes())
    assert repaired(bytearray(good)) == good
    first = 6 + 2 + 2 + 2 * (len(ENTRIES) + 1)
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(first + 4 * len(ENTRIES), len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        read_all(open_file(repaired(good), limit_bytes=1 << 20))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(FormatError):
        open_file(b"DCT\x01" + data)


def test_the_limit_is_the_callers(tmp_path):
    entry = Entry("wide", Stored((100_000_000,), "float32", "plain", np.zeros(0, np.float32), np.zeros(0, np.int64)))
    write(tmp_path / "a.dct", [entry], {})
    with pytest.raises(FormatError, match=r"would decode to 400,000,000 bytes; the limit is 67,108,864.*limit_bytes"):
        open_file(tmp_path / "a.dct")
    assert open_file(tmp_path / "a.dct", limit_bytes=1 << 30).shape("wide") == (100_000_000,)
    with pytest.raises(FormatError, match="the limit is 1,000"):
        open_file(HERE / "golden" / "named.dct", limit_bytes=1000)


# -------------------------------------------------------------------------------------------------------- writing fails


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    def entries():
        yield ENTRIES[0]
        raise error

    (tmp_path / "a.dct").write_bytes(b"before")
    with pytest.raises(error if isinstance(error, type) else OSError):
        write(tmp_path / "a.dct", entries(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.dct"]
    assert (tmp_path / "a.dct").read_bytes() == b"before"


def test_a_full_disk_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No space"), replacing(tmp_path / "a.dct") as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    path, entry = tmp_path / "a.dct", ENTRIES[0]
    with pytest.raises(FormatError, match="differ from each other"):
        write(path, [entry, entry], {})
    with pytest.raises(FormatError, match=r"alias of 'plan', which is no tensor.*did you mean 'plain'"):
        write(path, [entry], {}, aliases={"tied": "plan"})
    with pytest.raises(FormatError, match="unknown edit 'Execute'"):
        write(path, [entry], {"edits": [{"edit": "Execute"}]})
    with pytest.raises(FormatError, match="no dtype 'complex128'"):
        write(path, [entry._replace(dtype="complex128")], {})
    with pytest.raises(FormatError, match="float64 is coded as float64, not as float32"):
        write(path, [entry._replace(dtype="float64")], {})
    with pytest.raises(FormatError, match="33 dimensions"):
        write(path, [Entry("deep", Stored((1,) * 33, "float32", "plain", np.ones(1, np.float32)))], {})
    with pytest.raises(RecipeError, match="huffmann"):
        write(path, [entry._replace(coder="huffmann")], {})
    with pytest.raises(IsADirectoryError):
        write(tmp_path, [entry], {})
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    write(tmp_path / "a.dct", ENTRIES, {})
    assert (tmp_path / "a.dct").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
