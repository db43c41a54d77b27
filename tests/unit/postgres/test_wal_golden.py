"""WAL that PostgreSQL 14, 15, 17 and 18 wrote is read as their own pg_waldump reads it.

The files are made by tools/make_wal_golden.py: a workload with all index types, TOAST, COPY,
savepoints, two-phase commits, compressed images, records longer than a segment, a switch, both
wal_levels; and pg_waldump's list of it. Nothing here needs a server.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest
import zstandard

from pitr.errors import CorruptWal
from pitr.postgres.wal import scan as scanning
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import decode_segment_header
from pitr.postgres.wal.payload import (
    Checkpoint,
    CheckpointRedo,
    DatabaseCreated,
    DatabaseDropped,
    NextOid,
    ParameterChanged,
    Payload,
    RelationMapUpdated,
    RestorePoint,
    RunningTransactions,
    StandbyLocks,
    StorageCreated,
    StorageTruncated,
    TablespaceCreated,
    TablespaceDropped,
    TableTruncated,
    decode_payload,
)
from pitr.postgres.wal.reader import RecordReader
from pitr.postgres.wal.record import Record, RelationFile, decode_record
from pitr.postgres.wal.scan import RowChange, ScanState, scan
from pitr.postgres.wal.scan_reference import scan_wal as reference
from pitr.postgres.wal.transaction import (
    PREPARE,
    Invalidations,
    SubtransactionsAssigned,
    TransactionEnd,
    TransactionPrepared,
)
from pitr.postgres.wal.versions import RM_XACT, WalVersion, rmgr_name
from tests.postgres.wal_listing import listed
from tools.make_wal_golden import GOLDEN, MAJORS, format_listed

YEAR_2026_US = 1_767_225_600_000_000


@dataclass
class Golden:
    """One golden file."""

    version: WalVersion
    begin: int
    segment_bytes: int
    system: int
    wal: bytes
    listing: list[str]

    @cached_property
    def records(self) -> list[Record]:
        """Return every record, read from the file's beginning."""
        reader = RecordReader(
            lambda begin, end: self.wal[begin - self.begin : end - self.begin],
            self.begin,
            version=self.version,
            segment_bytes=self.segment_bytes,
            system_identifier=self.system,
        )
        found = list(reader)
        assert reader.end in (LogEnd.UNWRITTEN, LogEnd.CLEAN)
        return found


@cache
def golden(version_number: int) -> Golden:
    packed = Path(GOLDEN / f"wal-{version_number}.zst").read_bytes()
    line, _, rest = zstandard.decompress(packed).partition(b"\n")
    head = json.loads(line)
    wal, listing = rest[: head["wal_bytes"]], rest[head["wal_bytes"] :].decode().splitlines()
    page = decode_segment_header(wal)
    assert (page.version.major, page.begin) == (head["major"], head["begin"])
    return Golden(
        page.version, page.begin, page.segment_bytes, page.system_identifier, wal, listing
    )


@pytest.fixture(params=MAJORS, ids=lambda number: f"pg{number}")
def file(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def payloads(file: Golden) -> list[tuple[Record, Payload]]:
    """Return what has a payload, with it."""
    found = [(record, decode_payload(record, file.version)) for record in file.records]
    return [(record, payload) for record, payload in found if payload is not None]


# ---- records -------------------------------------------------------------------------------------


def test_records_are_those_of_pg_waldump(file: Golden) -> None:
    """LSN, prev, resource manager, operation, both lengths, xid and every block reference."""
    ours = [format_listed(listed(record, file.version)) for record in file.records]
    assert ours == file.listing
    assert len(ours) > 3000


@pytest.mark.parametrize("is_pure", [False, True], ids=["chosen", "reference"])
def test_columns_are_those_of_pg_waldump(
    file: Golden, is_pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segment after segment, each record in the one in which it ends."""
    if is_pure:
        monkeypatch.setattr(scanning, "scan_wal", reference)
    state, rows, blocks = ScanState(file.begin), [], 0
    for at in range(0, len(file.wal), file.segment_bytes):
        data = file.wal[at : at + file.segment_bytes]
        found = scan(
            data,
            file.begin + at,
            state,
            version=file.version,
            segment_bytes=file.segment_bytes,
            system_identifier=file.system,
        )
        r = found.records
        rows += zip(r.lsn, map(rmgr_name, r.rmgr), r.length, r.xid, strict=True)
        blocks += len(found.blocks)
        state = found.state
    fields = [line.split("\t") for line in file.listing]
    assert rows == [(int(f[0], 16), f[2], int(f[4]), int(f[6])) for f in fields]
    assert blocks == sum(len(f[7].split()) for f in fields)


def test_kept_records_are_all_that_payloads_need(file: Golden) -> None:
    """Whoever has the scan needs no second pass for transactions, storage and databases."""
    needed = [
        (record.lsn, record.data)
        for record, payload in payloads(file)
        if not isinstance(payload, StandbyLocks | RunningTransactions)
    ]
    found = scan(
        file.wal,
        file.begin,
        ScanState(file.begin),
        version=file.version,
        segment_bytes=file.segment_bytes,
    )
    kept = [(found.records.lsn[number], data) for number, data in found.kept()]
    wanted = set(needed)
    assert [item for item in kept if item in wanted] == needed
    for lsn, data in kept:
        decode_record(lsn, data, file.version)


# ---- payloads ------------------------------------------------------------------------------------


def test_every_payload_is_decoded_and_used_up(file: Golden) -> None:
    """Each kind occurs; a byte less is refused and never misread into another length."""
    found = payloads(file)
    kinds = Counter(type(payload) for _, payload in found)
    expected = {
        Checkpoint, DatabaseCreated, DatabaseDropped, Invalidations, NextOid, ParameterChanged,
        RelationMapUpdated, RestorePoint, RunningTransactions, StandbyLocks, StorageCreated,
        StorageTruncated, SubtransactionsAssigned, TablespaceCreated, TablespaceDropped,
        TableTruncated, TransactionEnd, TransactionPrepared,
    }  # fmt: skip
    if file.version.major >= 17:
        expected.add(CheckpointRedo)
    assert expected - set(kinds) == set()


def test_transactions_tell_their_time_and_what_they_drop(file: Golden) -> None:
    """Commits of the workload: sub-transactions, dropped files, two-phase names, origin."""
    ends = [payload for _, payload in payloads(file) if isinstance(payload, TransactionEnd)]
    assert all(end.time_us > YEAR_2026_US for end in ends)
    assert any(not end.is_commit for end in ends)
    assert max(len(end.subxids) for end in ends) >= 70
    prepared = {(end.gid, end.is_commit) for end in ends if end.is_prepared}
    # The name is in the record only with wal_level logical; PREPARE has it always.
    assert prepared == {(None, True), (None, False), ("third", True)}
    assert any(end.origin_lsn == 0xABC for end in ends)
    created = {p.file for _, p in payloads(file) if isinstance(p, StorageCreated)}
    dropped = {file for end in ends for file in end.dropped}
    assert len(dropped) > 10
    assert any(file in created for file in dropped)
    has_statistics = any(end.dropped_statistics for end in ends)
    assert has_statistics == (file.version.major >= 15)


def test_prepared_transaction_says_what_its_end_repeats(file: Golden) -> None:
    """The files that go with its commit are those that COMMIT PREPARED drops."""
    found = [payload for _, payload in payloads(file)]
    prepares = {p.xid: p for p in found if isinstance(p, TransactionPrepared)}
    ends = {p.xid: p for p in found if isinstance(p, TransactionEnd) and p.is_prepared}
    assert {p.gid for p in prepares.values()} == {"first one", "second", "third"}
    for xid, prepare in prepares.items():
        end = ends[xid]
        assert end.gid in (None, prepare.gid)
        assert prepare.subxids == end.subxids
        assert end.dropped == (
            prepare.dropped_by_commit if end.is_commit else prepare.dropped_by_abort
        )
    assert any(p.dropped_by_commit and p.dropped_by_abort for p in prepares.values())


def test_rare_records_say_what_the_workload_did(file: Golden) -> None:
    """Restore point, parameters, database and tablespace, relation map, checkpoints."""
    found = [payload for _, payload in payloads(file)]
    assert any(isinstance(p, RestorePoint) and p.name == "the point" for p in found)
    changes = [p for p in found if isinstance(p, ParameterChanged)]
    assert [(p.max_connections, p.wal_level) for p in changes] == [(41, 2)]
    places = [p.path for p in found if isinstance(p, TablespaceCreated)]
    assert [path.rpartition("/")[2] for path in places] == ["elsewhere"]
    databases = [p for p in found if isinstance(p, DatabaseCreated)]
    assert len(databases) == 2
    assert all(p.template for p in databases)
    assert {p.database for p in found if isinstance(p, DatabaseDropped)} < {
        p.database for p in databases
    }
    maps = [p for p in found if isinstance(p, RelationMapUpdated)]
    assert {(p.database, p.tablespace) for p in maps} == {(0, 1664)}
    assert all(0 < oid < 16384 and number for p in maps for oid, number in p.files)
    checkpoints = [p for p in found if isinstance(p, Checkpoint)]
    assert checkpoints[-1].is_shutdown
    assert all(p.time_us > YEAR_2026_US and p.timeline == 1 for p in checkpoints)
    levels = {p.wal_level for p in checkpoints}
    assert levels == ({1, 2} if file.version.major >= 17 else {None})


def test_row_changes_are_those_of_the_statements(file: Golden) -> None:
    """The 150 rows of COPY, deleted again, and the four that moved to another partition."""
    found = scan(
        file.wal,
        file.begin,
        ScanState(file.begin),
        version=file.version,
        segment_bytes=file.segment_bytes,
    )
    r, b = found.records, found.blocks
    by_file: Counter[tuple[RelationFile, int]] = Counter()
    for record, id_, *place in zip(
        b.record, b.id, b.tablespace, b.database, b.relation, strict=True
    ):
        if id_ == 0 and r.rows[record]:
            by_file[RelationFile(*place), r.change[record]] += r.rows[record]
    inserts = [n for (_, change), n in by_file.items() if change == RowChange.INSERT]
    assert 150 in inserts
    assert 150 in [n for (_, change), n in by_file.items() if change == RowChange.DELETE]
    assert sum(n for (_, change), n in by_file.items() if change == RowChange.MOVE) == 4


@pytest.mark.parametrize("version_number", MAJORS)
def test_transaction_cut_short_is_corrupt(version_number: int) -> None:
    """Whatever is missing, it is refused: no length of it is believed.

    PREPARE goes on behind what we decode with what only a server needs.
    """
    file = golden(version_number)
    longest: dict[int, Record] = {}
    for record in file.records:
        key = record.header.operation & 0x70
        if record.header.rmgr == RM_XACT and key != PREPARE and len(record.main) < 800:
            longest[key] = max(longest.get(key, record), record, key=lambda r: len(r.main))
    for record in longest.values():
        for size in range(len(record.main)):
            cut = Record(record.lsn, record.data, record.header, (), record.main[:size])
            with pytest.raises(CorruptWal):
                decode_payload(cut, file.version)
