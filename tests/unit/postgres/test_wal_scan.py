"""The scan of WAL: every record found and verified, damage named, whatever the bytes are.

Method: WAL built record by record, so that every place and column is known beforehand; hypothesis
cuts and damages it. Each test holds for the reference and for its C twin. That real servers write
what the builder builds is shown by test_wal_golden.py.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.postgres.wal import scan as scanning
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import PAGE_BYTES
from pitr.postgres.wal.scan import RowChange, Scan, ScanState, scan, scan_straddling
from pitr.postgres.wal.scan_reference import scan_wal as reference
from pitr.postgres.wal.versions import RM_HEAP, RM_HEAP2, RM_XACT, RM_XLOG, version_of_major
from tests.unit.postgres.wal_builder import MIB, SYSTEM, Block, WalBuilder
from tests.unit.postgres.wal_world import BTREE, SIZES, mixed_wal

IMPLEMENTATIONS: dict[str, Callable] = {"reference": reference}
if importlib.util.find_spec("pitr._speedups"):
    compiled = importlib.import_module("pitr._speedups")
    if hasattr(compiled, "scan_wal"):
        IMPLEMENTATIONS["compiled"] = compiled.scan_wal


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS, autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "scan_wal", request.param)


def scan_all(wal: WalBuilder, state: ScanState | None = None, **changed: object) -> Scan:
    arguments = {"version": wal.version, "segment_bytes": wal.segment_bytes, **changed}
    state = state or ScanState(wal.begin)
    return scan(bytes(wal.data), wal.begin, state, **arguments)  # type: ignore[arg-type]


# ---- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version_number", range(13, 19))
def test_every_record_becomes_a_row(version_number: int) -> None:
    """Place, length, transaction, kind, blocks in order, each with its relation."""
    wal = mixed_wal(SIZES, major=version_number)
    found = scan_all(wal)
    assert (found.end, found.state) == (LogEnd.CLEAN, ScanState(wal.end, wal.prev, 1))
    assert list(found.records.lsn) == wal.starts
    assert list(found.records.length) == [len(record) for record in wal.records]
    assert list(found.records.xid) == list(range(len(SIZES)))
    assert set(found.records.rmgr) == {BTREE}
    assert set(found.records.info) == {0x10}
    rows = [n for n in range(len(SIZES)) for _ in range(n % 3)]
    assert list(found.blocks.record) == rows
    assert set(found.blocks.relation) == {16384}
    assert set(found.blocks.tablespace) == {1663}
    assert set(found.blocks.database) == {5}
    blocks = found.blocks
    places = list(zip(blocks.id, blocks.fork, blocks.block, strict=True))
    assert {place for place in places if place[0]} == {(1, 2, 7)}
    firsts = [block for id_, _, block in places if not id_]
    assert firsts == [n for n in range(len(SIZES)) if n % 3]


@pytest.mark.parametrize(
    ("rmgr", "info", "main", "expected"),
    [
        (RM_HEAP, 0x00, b"\1\0\0", (RowChange.INSERT, 1)),
        (RM_HEAP, 0x80, b"\1\0\0", (RowChange.INSERT, 1)),
        (RM_HEAP, 0x00, b"\1\0\4", (RowChange.NONE, 0)),
        (RM_HEAP, 0x50, b"\1\0", (RowChange.INSERT, 1)),
        (RM_HEAP, 0x10, bytes(8), (RowChange.DELETE, 1)),
        (RM_HEAP, 0x10, bytes(7) + b"\x08", (RowChange.NONE, 0)),
        (RM_HEAP, 0x10, bytes(7) + b"\x10", (RowChange.MOVE, 1)),
        (RM_HEAP, 0x20, bytes(14), (RowChange.UPDATE, 1)),
        (RM_HEAP, 0x40, bytes(14), (RowChange.UPDATE, 1)),
        (RM_HEAP, 0x60, bytes(8), (RowChange.NONE, 0)),
        (RM_HEAP, 0x70, bytes(2), (RowChange.NONE, 0)),
        (RM_HEAP2, 0x50, b"\0\0\x2c\x01", (RowChange.INSERT, 300)),
        (RM_HEAP2, 0xD0, b"\0\0\x07\x00", (RowChange.INSERT, 7)),
        (RM_HEAP2, 0x40, bytes(8), (RowChange.NONE, 0)),
    ],
)
def test_heap_record_tells_its_rows(
    rmgr: int, info: int, main: bytes, expected: tuple[RowChange, int]
) -> None:
    """Speculative inserts count at their confirmation, multi-inserts by row, updates once."""
    wal = WalBuilder()
    wal.add(rmgr, info, blocks=(Block(),), main=main)
    found = scan_all(wal)
    assert (found.records.change[0], found.records.rows[0]) == expected


@pytest.mark.parametrize(("rmgr", "info"), [(RM_HEAP, 0), (RM_HEAP, 0x10), (RM_HEAP2, 0x50)])
def test_heap_record_cut_short_is_malformed(rmgr: int, info: int) -> None:
    """A right checksum over too few bytes is not believed."""
    wal = WalBuilder()
    wal.add(rmgr, info, blocks=(Block(),), main=b"\1\0")
    assert scan_all(wal).end == LogEnd.MALFORMED


def test_rare_records_are_kept_whole() -> None:
    """What payload.py decodes comes along as bytes; fillers and images do not."""
    wal = mixed_wal([10])
    wal.add(RM_XACT, 0x00, main=bytes(8))
    wal.add(RM_XLOG, 0x20, main=bytes(20000))
    wal.add(RM_XLOG, 0xB0, blocks=(Block(image=bytes(8192)),))
    wal.add(RM_XACT, 0x20, main=bytes(9000))
    found = scan_all(wal)
    assert list(found.kept()) == [(1, wal.records[1]), (4, wal.records[4])]


# ---- cuts ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30000), max_size=12),
    cuts=st.lists(st.integers(0, 200000), max_size=8),
)
def test_scan_in_pieces_equals_scan_at_once(sizes: list[int], cuts: list[int]) -> None:
    """Cut anywhere, also in headers; each piece begins where the state asks for it."""
    wal = mixed_wal(sizes)
    whole = scan_all(wal)
    assert len(whole.records) == len(sizes)
    state, rows, blocks = ScanState(wal.begin), [], 0
    for cut in [*sorted(cut % (len(wal.data) + 1) for cut in cuts), len(wal.data)]:
        data = bytes(wal.data[max(0, state.position - wal.begin) : cut])
        found = scan(
            data, state.position, state, version=wal.version, segment_bytes=wal.segment_bytes
        )
        assert found.end in (LogEnd.CLEAN, LogEnd.TORN)
        state = found.state
        rows += list(zip(found.records.lsn, found.records.length, strict=True))
        blocks += len(found.blocks)
    assert rows == list(zip(whole.records.lsn, whole.records.length, strict=True))
    assert (state, blocks) == (whole.state, len(whole.blocks))


def test_segments_scanned_at_the_same_time_make_up_for_their_edges() -> None:
    """A fresh state skips what began before; scan_straddling adds exactly that."""
    wal = mixed_wal([300000] * 12)
    whole = scan_all(wal)
    lsns: list[int] = []
    before = ScanState(wal.begin)
    arguments = {"version": wal.version, "segment_bytes": MIB}
    for at in range(wal.begin, wal.end, MIB):
        data = bytes(wal.data[at - wal.begin :][:MIB])
        lsns += scan_straddling(data, at, before, **arguments).records.lsn
        alone = scan(data, at, ScanState(at), **arguments)
        lsns += alone.records.lsn
        before = alone.state
    assert lsns == list(whole.records.lsn)


def test_segment_switch_leads_to_the_next_segment() -> None:
    """What is left of the segment is passed over, also when the bytes end within it."""
    wal = mixed_wal([10, 20])
    wal.switch()
    wal.add(BTREE, 0x10)
    assert list(scan_all(wal).records.lsn) == wal.starts
    cut = scan(bytes(wal.data[:9000]), MIB, ScanState(MIB), version=wal.version, segment_bytes=MIB)
    assert (cut.end, cut.state.position) == (LogEnd.CLEAN, 2 * MIB)


def test_record_that_was_never_finished_is_passed_over() -> None:
    """Recovery writes on at the page after it, under a flag; the chain skips the lost record."""
    wal = mixed_wal([100])
    first = wal.prev
    wal.add(BTREE, 0x10, main=bytes(20000))
    del wal.data[3 * PAGE_BYTES :], wal.data[PAGE_BYTES:]
    wal.add_page_header(0, flags=0x08)
    wal.prev = first
    overwrite = wal.add(RM_XLOG, 0xD0, main=bytes(16))
    found = scan_all(wal)
    assert found.end == LogEnd.CLEAN
    assert list(found.records.lsn) == [first, overwrite]


def test_stop_leaves_what_begins_there() -> None:
    """The state goes on behind a stop."""
    wal = mixed_wal(SIZES)
    found = scan_all(wal, stop=wal.starts[5])
    assert (found.end, found.state.position) == (LogEnd.STOPPED, wal.starts[5])
    assert list(found.records.lsn) == wal.starts[:5]
    assert list(scan_all(wal, found.state).records.lsn) == wal.starts[5:]


# ---- ends ----------------------------------------------------------------------------------------


def altered(wal: WalBuilder, at: int, new: bytes) -> WalBuilder:
    wal.data[at : at + len(new)] = new
    return wal


@pytest.mark.parametrize(
    ("at", "new", "end", "records"),
    [
        (PAGE_BYTES, b"\0\0", LogEnd.BAD_MAGIC, 4),
        (PAGE_BYTES + 2, b"\x11", LogEnd.BAD_PAGE_FLAGS, 4),
        (PAGE_BYTES + 2, b"\x03", LogEnd.BAD_PAGE_FLAGS, 4),
        (2, b"\x00", LogEnd.BAD_PAGE_FLAGS, 0),
        (PAGE_BYTES + 4, b"\0", LogEnd.WRONG_TIMELINE, 4),
        (PAGE_BYTES + 8, b"\1", LogEnd.WRONG_ADDRESS, 4),
        (PAGE_BYTES + 2, b"\0", LogEnd.NO_CONTRECORD, 4),
        (PAGE_BYTES + 16, b"\xff\xff", LogEnd.BAD_CONTRECORD, 4),
        (24, b"\1", LogEnd.FOREIGN_SYSTEM, 0),
        (32, b"\0\0\x20", LogEnd.WRONG_SEGMENT_SIZE, 0),
        (36, b"\0\x40", LogEnd.WRONG_SEGMENT_SIZE, 0),
        (40, b"\x17", LogEnd.BAD_LENGTH, 0),
        (40, b"\0\0\0\x40", LogEnd.BAD_LENGTH, 0),
        (40, bytes(4), LogEnd.UNWRITTEN, 0),
        (57, b"\x16", LogEnd.BAD_RMGR, 0),
        (64 + 8, b"\x01", LogEnd.PREV_MISMATCH, 1),
        (60, b"\x01", LogEnd.CRC_MISMATCH, 0),
        (58, b"\x01", LogEnd.CRC_MISMATCH, 0),
    ],
)
def test_damage_is_named_with_its_place(at: int, new: bytes, end: LogEnd, records: int) -> None:
    """Each check of PostgreSQL's own reader has a name here."""
    wal = altered(mixed_wal(SIZES), at, new)
    found = scan_all(wal, system_identifier=SYSTEM)
    assert (found.end, len(found.records)) == (end, records)
    expected = wal.starts[records] if records else wal.begin + (40 if at >= 40 else 0)
    assert found.state.position == expected
    assert not found.state.carry


def test_unwritten_pages_are_no_damage() -> None:
    """A new segment is zeros; so is the next page of a record that a crash cut off."""
    wal = mixed_wal([100])
    wal.data += bytes(PAGE_BYTES * 2 - len(wal.data))
    assert scan_all(wal).end == LogEnd.UNWRITTEN
    torn = mixed_wal([100, 20000])
    torn.data[PAGE_BYTES:] = bytes(PAGE_BYTES)
    found = scan_all(torn)
    assert (found.end, found.state.position) == (LogEnd.UNWRITTEN, torn.starts[1])


def test_wal_of_another_version_is_refused() -> None:
    """The page magic of each major version differs."""
    wal = mixed_wal([1], major=17)
    assert scan_all(wal, version=version_of_major(16)).end == LogEnd.BAD_MAGIC


def test_resource_manager_of_an_extension_exists_from_15_on() -> None:
    """Ids 128 to 255."""
    for major in range(13, 19):
        wal = WalBuilder(major=major)
        wal.add(128, main=b"x")
        assert scan_all(wal).end == (LogEnd.CLEAN if major >= 15 else LogEnd.BAD_RMGR)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ScanState(MIB + 41), "begin"),
        (ScanState(MIB + 8), "page header"),
        (ScanState(MIB - 8), "after the position"),
        (ScanState(MIB + 64, begin=MIB + 40, carry=b"x"), "carries"),
        (ScanState(MIB + 64, begin=MIB + 40, carry=bytes(24)), "carries"),
        (ScanState(MIB + 64, carry=b"\xff" + bytes(23)), "carries"),
    ],
)
def test_state_that_cannot_be_is_refused(state: ScanState, reason: str) -> None:
    """A caller's mistake is no end of the WAL."""
    with pytest.raises(ValueError, match=reason):
        scan_all(mixed_wal([1]), state)


def test_state_beyond_the_bytes_is_kept() -> None:
    """After a switch the rest of the segment has nothing to say."""
    state = ScanState(4 * MIB, prev=MIB)
    assert scan_all(mixed_wal([1]), state).state == replace(state)
