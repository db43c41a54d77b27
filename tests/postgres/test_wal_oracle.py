"""The WAL that real servers write, read by us and by pg_waldump: the same records, one by one.

Method: tools/wal_workload.py makes every kind of record; pg_waldump of the server's own version is
the oracle for LSN, prev, resource manager, operation, lengths, xid and block references, of the
reader and of the packed columns. Segment sizes of 1, 16 and 64 MB. The programs of 13 that we can
have lack pg_waldump: there reader and columns are held to each other, and to the last record.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import PAGE_BYTES, decode_segment_header
from pitr.postgres.wal.payload import decode_payload
from pitr.postgres.wal.reader import RecordReader
from pitr.postgres.wal.record import Fork, decode_record
from pitr.postgres.wal.scan import RowChange, Scan, ScanState, scan
from pitr.postgres.wal.segment_name import SegmentName, is_segment_name
from pitr.postgres.wal.transaction import TransactionEnd
from pitr.postgres.wal.versions import rmgr_name
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import ServerMaker
from tests.postgres.wal_listing import listed
from tools import wal_workload
from tools.postgres_servers import Server
from tools.wal_workload import Listed

pytestmark = pytest.mark.timeout(300)


def segments(folder: Path, timeline: int) -> list[bytes]:
    files = sorted(file for file in folder.iterdir() if is_segment_name(file.name))
    return [file.read_bytes() for file in files if file.name.startswith(f"{timeline:08X}")]


def listed_columns(found: Scan) -> list[tuple[object, ...]]:
    """Return (lsn, rmgr, length, xid, blocks) of each row."""
    blocks: list[list[tuple[object, ...]]] = [[] for _ in found.records.lsn]
    b = found.blocks
    for record, *place in zip(
        b.record, b.id, b.tablespace, b.database, b.relation, b.fork, b.block, strict=True
    ):
        place[4] = Fork(place[4]).name.lower()
        blocks[record].append(tuple(place))
    r = found.records
    return [
        (lsn, rmgr_name(rmgr), length, xid, tuple(blocks[n]))
        for n, (lsn, rmgr, length, xid) in enumerate(
            zip(r.lsn, r.rmgr, r.length, r.xid, strict=True)
        )
    ]


def compare(server: Server, timeline: int = 1) -> list[Listed]:
    """Read all WAL of a stopped server from its first segment on in three ways, and compare."""
    data = segments(server.wal, timeline)
    head = decode_segment_header(data[0])
    whole = b"".join(data)
    arguments = {
        "version": head.version,
        "segment_bytes": head.segment_bytes,
        "system_identifier": head.system_identifier,
    }
    reader = RecordReader(
        lambda begin, end: whole[begin - head.begin : end - head.begin], head.begin, **arguments
    )
    records = list(reader)
    for record in records:
        decode_payload(record, head.version)
    ours = [listed(record, head.version) for record in records]
    assert reader.end == LogEnd.UNWRITTEN
    assert ours[-1].operation == "CHECKPOINT_SHUTDOWN"
    expected = ours
    if (server.bin / "pg_waldump").exists():
        first = str(SegmentName.at(timeline, head.begin, head.segment_bytes))
        lines = wal_workload.waldump(server, first, str(Lsn(records[0].lsn)))
        expected = list(wal_workload.listing(lines))
    assert ours == expected

    state, columns = ScanState(head.begin), []
    for number, segment in enumerate(data):
        found = scan(segment, head.begin + number * head.segment_bytes, state, **arguments)
        columns += listed_columns(found)
        state = found.state
        if found.end not in (LogEnd.CLEAN, LogEnd.TORN):
            break
    assert columns == [(e.lsn, e.rmgr, e.length, e.xid, e.blocks) for e in expected]
    return expected


@pytest.mark.parametrize("segment_megabytes", [1, 64])
def test_records_are_those_of_pg_waldump(make_server: ServerMaker, segment_megabytes: int) -> None:
    """Every operation that SQL can cause, over records that are longer than a segment."""
    server = make_server(settings=wal_workload.SETTINGS, segment_megabytes=segment_megabytes)
    wal_workload.run(server)
    server.stop()
    found = {(record.rmgr, record.operation) for record in compare(server)}
    assert len(found) > 80


def test_records_of_many_clients_are_those_of_pg_waldump(make_server: ServerMaker) -> None:
    """pgbench from four connections."""
    server = make_server(settings=wal_workload.SETTINGS)
    if not (server.bin / "pgbench").exists():
        pytest.skip(f"no pgbench of {server.major}")
    server.run("pgbench", "-i", "-q", "-s", "1")
    server.run("pgbench", "-c", "4", "-j", "2", "-t", "500", "-n")
    server.stop()
    assert len(compare(server)) > 20000


# ---- what a crash and a promotion leave ----------------------------------------------------------


def test_record_that_a_crash_cut_off_is_passed_over(make_server: ServerMaker) -> None:
    """The server writes on behind it under a flag, and says which record was lost."""
    server = make_server(settings=wal_workload.SETTINGS, segment_megabytes=1)
    server.query("CHECKPOINT")
    message = "SELECT pg_logical_emit_message(true, 'cut', repeat('x', 60000))"
    end = Lsn.parse(str(server.value(message))).value
    server.kill()
    lost_from = (end - 30000) // PAGE_BYTES * PAGE_BYTES
    for file in server.wal.iterdir():
        if is_segment_name(file.name):
            name = SegmentName.parse(file.name, 1 << 20)
            if name.begin > lost_from:
                file.unlink()
            elif name.end > lost_from:
                os.truncate(file, lost_from - name.begin)
                os.truncate(file, name.segment_bytes)
    server.start()
    server.query("CREATE TABLE after_the_crash (id int)")
    server.stop()
    found = compare(server)
    at = next(n for n, record in enumerate(found) if record.operation == "OVERWRITE_CONTRECORD")
    assert found[at].prev == found[at - 1].lsn
    assert found[at].lsn % PAGE_BYTES == 24
    assert not any(record.rmgr == "LogicalMessage" for record in found)


def test_timeline_that_a_promotion_begins_is_read(make_server: ServerMaker) -> None:
    """Its first segment begins with a copy of the old timeline; its first record ends recovery."""
    primary = make_server()
    if not (primary.bin / "pg_basebackup").exists():
        pytest.skip(f"no pg_basebackup of {primary.major}")
    primary.query("CREATE TABLE before (id int)")
    with primary.standby(settings={"wal_keep_size": "1GB"}) as standby:
        standby.promote()
        standby.query("CREATE TABLE after (id int)")
        standby.stop()
        found = compare(standby, timeline=2)
    ended = [record for record in found if record.operation == "END_OF_RECOVERY"]
    assert len(ended) == 1


# ---- rows ----------------------------------------------------------------------------------------

ROWS = [
    "INSERT INTO t SELECT n, n, repeat('x', 100) FROM generate_series(1, 3000) AS n",
    "UPDATE t SET note = 'short' WHERE id % 3 = 0",  # HOT and not
    "UPDATE t SET note = repeat('y', 1500) WHERE id % 5 = 0",  # to other pages
    "UPDATE t SET number = -number WHERE id < 500",  # an indexed column
    "DELETE FROM t WHERE id % 7 = 0",
    "INSERT INTO t VALUES (1, 1), (10000, 1) ON CONFLICT DO NOTHING",
    "INSERT INTO t VALUES (2, 1), (10001, 1) ON CONFLICT (id) DO UPDATE SET number = 0",
    "UPDATE t SET note = repeat(md5(id::text), 300) WHERE id < 40",  # to TOAST
    "DELETE FROM t WHERE id < 20",
]


def test_row_counts_are_those_that_the_server_reported(make_server: ServerMaker) -> None:
    """Per kind and table, of what was committed; of upserts the sum, since the tag says no more."""
    server = make_server(settings=wal_workload.SETTINGS)
    server.query("CREATE TABLE t (id int PRIMARY KEY, number int, note text)")
    server.query("CREATE INDEX ON t (number)")
    reported = Counter({"INSERT": 0})
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in ROWS:
            cursor.execute(statement.encode())
            reported[statement.split()[0]] += cursor.rowcount
        with cursor.copy("COPY t FROM STDIN") as copy:
            for number in range(20000, 21500):
                copy.write_row((number, number, "copied"))
        reported["INSERT"] += cursor.rowcount
        cursor.execute("BEGIN; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; COMMIT")
        cursor.execute("BEGIN; UPDATE t SET number = 5; ROLLBACK")
        file = server.value("SELECT pg_relation_filenode('t')")
    server.stop()
    # One row of the last INSERT was there and was updated.
    reported += Counter({"INSERT": -1, "UPDATE": 1})
    assert committed_rows(server, file) == reported


def committed_rows(server: Server, relation: int) -> Counter[str]:
    """Count rows as an index does: columns alone, and the ends of transactions."""
    data = segments(server.wal, 1)
    head = decode_segment_header(data[0])
    state, ends, counts = ScanState(head.begin), set(), Counter()
    for number, segment in enumerate(data):
        found = scan(
            segment,
            head.begin + number * head.segment_bytes,
            state,
            version=head.version,
            segment_bytes=head.segment_bytes,
        )
        state, r, b = found.state, found.records, found.blocks
        for row, data_of in found.kept():
            end = decode_payload(decode_record(r.lsn[row], data_of, head.version), head.version)
            if isinstance(end, TransactionEnd) and end.is_commit:
                ends |= {end.xid, *end.subxids}
        for row, id_, file in zip(b.record, b.id, b.relation, strict=True):
            if file == relation and id_ == 0 and r.change[row]:
                counts[r.xid[row], RowChange(r.change[row]).name] += r.rows[row]
    found_rows: Counter[str] = Counter()
    for (xid, change), rows in counts.items():
        if xid in ends:
            found_rows[change] += rows
    return found_rows
