"""Page decoding against SQLite itself, and against bytes that no SQLite ever wrote."""

from __future__ import annotations

import random
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.errors import CorruptDatabase
from pitr.sqlite.file import page
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import PageKind, PointerKind
from pitr.sqlite.past.schema import Schema
from tests.sqlite.past_files import FilePages

PAGE_SIZES = (512, 1024, 4096, 16384, 65536)
ENCODINGS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}


def write(
    path: Path, page_size: int, *, encoding: str = "UTF-8", auto_vacuum: int = 0, reserved: int = 0
) -> Path:
    """Write a database with rows of every kind, long ones among them."""
    rng = random.Random(page_size)
    connection = apsw.Connection(str(path))
    connection.reserve_bytes("main", reserved)
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    connection.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c)")
    connection.execute("CREATE TABLE w(k TEXT PRIMARY KEY, a, b, c) WITHOUT ROWID")
    connection.execute("CREATE INDEX t_c ON t(c)")
    numbers = [0, 1, -1, 127, -128, 2**15, 2**23, 2**31, 2**47, 2**63 - 1, -(2**63), 1.5, -2e300]
    with connection:
        for i in range(400):
            size = rng.choice([0, 1, 10, 100, 1000, 5000]) if i % 9 == 0 else 10
            row = rng.choice(numbers), "é" * size, rng.randbytes(size)
            connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (i * 7 - 900, *row))
            connection.execute("INSERT INTO w VALUES (?, ?, ?, ?)", (f"{i}é" * (size + 1), *row))
        connection.execute("DELETE FROM t WHERE id % 5 = 0")
    connection.close()
    return path


def read_rows(snapshot: Snapshot, table: str) -> list[tuple[object, ...]]:
    entry = Schema.read(snapshot).tables[table]
    found = []
    for cell, number in snapshot.cells(entry.root):
        record = page.decode_record(snapshot.payload(cell), number, snapshot.header.encoding)
        found.append(tuple(entry.definition.values(record, cell.rowid)))
    return sorted(found, key=repr)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_rows_of_a_database_are_what_select_gives(
    tmp_path: Path, page_size: int, encoding: str
) -> None:
    """Every value of every row, overflow included, at every page size and in every encoding."""
    path = write(tmp_path / "x.db", page_size, encoding=encoding)
    snapshot = Snapshot(FilePages(path))
    header = snapshot.header

    assert (header.page_size, header.encoding) == (page_size, ENCODINGS[encoding])
    with closing(sqlite3.connect(path)) as connection:
        assert header.schema_cookie == connection.execute("PRAGMA schema_version").fetchone()[0]
        assert header.freelist_count == connection.execute("PRAGMA freelist_count").fetchone()[0]
        for table in ("t", "w"):
            expected = sorted(connection.execute(f"SELECT * FROM {table}"), key=repr)
            assert read_rows(snapshot, table) == expected


def test_reserved_bytes_at_the_end_of_pages_are_left_alone(tmp_path: Path) -> None:
    """Encryption and checksum extensions keep bytes of each page; every formula allows for it."""
    path = write(tmp_path / "x.db", 512, reserved=32)
    snapshot = Snapshot(FilePages(path))

    assert snapshot.usable_size == 480
    with closing(sqlite3.connect(path)) as connection:
        expected = sorted(connection.execute("SELECT * FROM t"), key=repr)
    assert read_rows(snapshot, "t") == expected


@pytest.mark.parametrize("page_size", [512, 1024])
def test_pointer_map_agrees_with_the_trees(tmp_path: Path, page_size: int) -> None:
    """Each page's entry names the page that leads to it."""
    path = write(tmp_path / "x.db", page_size, auto_vacuum=1)
    snapshot = Snapshot(FilePages(path))
    assert snapshot.header.auto_vacuum
    checked = 0
    for root in Schema.read(snapshot).roots:
        assert snapshot.pointer(root) == (PointerKind.ROOT, 0)
        for _, pages in snapshot.levels(root):
            for number, parent in pages:
                checked += 1
                if parent:
                    assert snapshot.pointer(number) == (PointerKind.BTREE, parent)
        for cell, number in snapshot.cells(root):
            before, kind = number, PointerKind.OVERFLOW_FIRST
            for overflow in snapshot.overflow_pages(cell):
                assert snapshot.pointer(overflow) == (kind, before)
                before, kind = overflow, PointerKind.OVERFLOW_NEXT
                checked += 1
    bookkeeping = sum(snapshot.is_bookkeeping(n) for n in range(1, snapshot.page_count + 1))
    assert checked == snapshot.page_count - bookkeeping


def test_free_pages_are_those_of_the_freelist(tmp_path: Path) -> None:
    """All trunks and leaves of the freelist are found."""
    path = write(tmp_path / "x.db", 512)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE w")
    snapshot = Snapshot(FilePages(path))

    free = snapshot.free_pages(range(1, snapshot.page_count + 1))
    assert len(free) == snapshot.header.freelist_count > 0
    assert snapshot.free_pages(()) == set()


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_row_is_found_by_its_rowid(tmp_path: Path, page_size: int) -> None:
    """A search from the root finds every row, and none that is not there."""
    snapshot = Snapshot(FilePages(write(tmp_path / "x.db", page_size)))
    root = Schema.read(snapshot).tables["t"].root
    rowids = {cell.rowid for cell, _ in snapshot.cells(root)}

    for rowid in range(-910, 1910, 3):
        found = snapshot.seek(root, rowid)
        assert (found.rowid if found else None) == (rowid if rowid in rowids else None)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\x81\x00", 128),
        (b"\xff\x7f", 16383),
        (b"\x81\x80\x00", 16384),
        (b"\xff" * 8 + b"\x7f", ((1 << 64) - 1) & ~0x80 | 0x7F),
        (b"\xff" * 9, (1 << 64) - 1),
    ],
)
def test_varint_is_read_to_its_end(data: bytes, value: int) -> None:
    """One to nine bytes; the ninth counts whole."""
    assert page.read_varint(data + b"rest", 0) == (value, len(data))
    assert page.read_varint(b"x" + data, 1) == (value, len(data) + 1)


@pytest.mark.parametrize(
    ("payload", "values"),
    [
        (b"\x01", []),
        (b"\x03\x00\x01\xff", [None, -1]),
        (b"\x03\x08\x09", [0, 1]),
        (b"\x02\x02\x80\x00", [-32768]),
        (b"\x02\x05\xff\xff\xff\xff\xff\xfe", [-2]),
        (b"\x02\x07" + struct.pack(">d", 1.5), [1.5]),
        (b"\x02\x07" + struct.pack(">d", float("nan")), [None]),
        (b"\x03\x0c\x0d", [b"", ""]),
        (b"\x03\x0e\x0fxy", [b"x", "y"]),
        (b"\x02\x0f\xff", ["\ufffd"]),
    ],
)
def test_record_is_decoded_by_serial_type(payload: bytes, values: list[object]) -> None:
    """Each serial type gives its own kind of value; text that is no text does not stop it."""
    found = page.decode_record(payload, 1, "utf-8")

    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


# --- bytes that contradict the format ------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\x02",
        b"\x02\x01",
        b"\x02\x0a",  # reserved type
        b"\x02\x81",
        b"\x02\x01\x00\x00",  # longer than its fields
        b"\x7f\x01\x00",
        b"\x02\x7f",
    ],
)
def test_record_that_contradicts_itself_is_refused(payload: bytes) -> None:
    """A record that is cut short, too long or of reserved types is damage that names its page."""
    with pytest.raises(CorruptDatabase, match="page 7 "):
        page.decode_record(payload, 7, "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[:16] + b"\x00\x03" + image[18:],
        lambda image: b"X" + image[1:],
        lambda image: image[:20] + b"\xff" + image[21:],
        lambda image: image[:56] + b"\x00\x00\x00\x09" + image[60:],
        lambda image: image[:100],
    ],
    ids=["page size", "magic", "reserved bytes", "encoding", "cut short"],
)
def test_header_that_contradicts_the_format_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """What cannot be the first page of a database is not taken for one."""
    image = write(tmp_path / "x.db", 512).read_bytes()[:512]
    page.decode_header(image)
    with pytest.raises(CorruptDatabase):
        page.decode_header(change(image))


def read_everything(image: bytes, number: int, usable: int) -> None:
    """Put a page to every use that it may be put to."""
    kind = page.page_kind(image, number)
    if not kind.is_leaf:
        page.child_pages(image, number, usable)
        if kind is PageKind.INTERIOR_TABLE:
            page.separator_rowids(image, number, usable)
            return
    for extent in page.cell_extents(image, number, usable, is_index=kind.is_index):
        cell = page.decode_cell(extent, number, usable, is_index=kind.is_index)
        if not cell.overflow:
            page.decode_record(cell.local, number, "utf-16-le")


@given(st.data())
@settings(max_examples=400)
def test_damaged_page_is_refused_and_never_trips_the_decoder(
    real_pages: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """Whatever bytes of a page are other than they were, the decoder decodes or says damage."""
    number, image = data.draw(st.sampled_from(real_pages))
    changed = bytearray(image)
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly where the structure is: header, cell pointers, beginnings of cells.
        at = data.draw(st.integers(0, 40) | st.integers(0, len(image) - 1))
        changed[at] = data.draw(st.sampled_from([0, 1, 2, 5, 10, 13, 0x7F, 0x80, 0xFF]))
    with suppress(CorruptDatabase):
        read_everything(bytes(changed), number, len(image) - data.draw(st.sampled_from([0, 12])))


@pytest.fixture(scope="module")
def real_pages(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, bytes]]:
    """All b-tree pages of a small database."""
    data = write(tmp_path_factory.mktemp("pages") / "x.db", 512).read_bytes()
    images = ((at // 512 + 1, data[at : at + 512]) for at in range(0, len(data), 512))
    return [(n, image) for n, image in images if image[100 if n == 1 else 0] in (2, 5, 10, 13)]


@given(st.binary(min_size=512, max_size=512), st.integers(1, 400))
@settings(max_examples=300)
def test_any_bytes_are_refused_or_decoded(image: bytes, number: int) -> None:
    """Bytes that are no page at all raise CorruptDatabase and nothing else."""
    for use in (
        lambda: read_everything(image, number, 512),
        lambda: page.decode_header(image),
        lambda: page.decode_trunk(image, number, 512),
        lambda: page.decode_pointer(image, 2, number),
        lambda: page.decode_cell(image[number:], number, 512, is_index=bool(number % 2)),
        lambda: page.decode_record(image[number:], number, "utf-8"),
    ):
        with suppress(CorruptDatabase):
            use()
