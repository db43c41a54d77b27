"""The WAL that real servers write, read by us and by pg_waldump: the same records, one by one.

Method: tools/wal_workload.py makes every kind of record; pg_waldump of the server's own version is
the oracle for LSN, prev, resource manager, operation, lengths, xid and block references, of the
reader and of the packed columns. Segment sizes of 1, 16 and 64 MB. The programs of 13 that we can
have lack pg_waldump: there reader and columns are held to each other, and to the last record.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import decode_segment_header
from pitr.postgres.wal.payload import decode_payload
from pitr.postgres.wal.reader import RecordReader
from pitr.postgres.wal.record import Fork
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.segment_name import is_segment_name
from pitr.postgres.wal.versions import rmgr_name
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import ServerMaker
from tests.postgres.wal_listing import listed
from tools import wal_workload
from tools.postgres_servers import Server
from tools.wal_workload import Listed

pytestmark = pytest.mark.timeout(300)


def segments(folder: Path) -> list[bytes]:
    names = sorted(file for file in folder.iterdir() if is_segment_name(file.name))
    return [file.read_bytes() for file in names]


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


def compare(server: Server) -> list[Listed]:
    """Read all WAL of a server from its first segment on in three ways, and compare them."""
    data = segments(server.wal)
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
        lines = wal_workload.waldump(server, str(Lsn(records[0].lsn)))
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
