"""Tell pages that were caught half-written from damaged ones.

The server writes pages while it sends them, and a page is more than the operating system writes at
once: the copy may hold the old head of a page, LSN included, with the new rest. Its checksum is
wrong, and no damage: the WAL since the start of the backup holds the page whole, and replay puts it
back. So a page that contradicts its checksum is damaged only if that WAL has no image of it.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from psycopg import pq

from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import DatabaseRefused
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.replication import ReplicationStream
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import PAGE_BYTES
from pitr.postgres.wal.record import HAS_IMAGE, WILL_INIT
from pitr.postgres.wal.scan import BlockColumns, ScanState, scan
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn

_FAILED = "the WAL written during the backup cannot be read"
_SILENCE_SECONDS = 60.0
_SCAN_BYTES = 1 << 20
_WAL_DATA, _KEEPALIVE = b"wk"
_WAL_HEADER = struct.Struct(">cQQQ")
_KEEPALIVE_BODY = struct.Struct(">cQQB")
_STATUS = struct.Struct(">cQQQQB")
# Microseconds from the epoch to 2000-01-01, where the protocol's clock begins.
_PROTOCOL_EPOCH_US = 946_684_800_000_000
_DEFAULT_TABLESPACE, _GLOBAL_TABLESPACE = 1663, 1664
_FORKS = {None: 0, "fsm": 1, "vm": 2, "init": 3}
_PATH = re.compile(
    r"(?:base/(?P<base>\d+)|(?P<shared>global)|pg_tblspc/(?P<space>\d+)/PG_[^/]+/(?P<db>\d+))"
    r"/(?P<relation>\d+)(?:_(?P<fork>fsm|vm|init))?(?:\.\d+)?"
)


class Block(NamedTuple):
    """One block of one relation fork, as WAL names it."""

    tablespace: int
    database: int
    relation: int
    fork: int
    block: int


def block_at(path: str, block: int) -> Block:
    """Return the block `block` (counted across segment files) of the relation whose file this is.

    Raises ValueError for a path that is no relation's.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise ValueError(f"no file of a relation: {path}")
    relation, fork = int(found["relation"]), _FORKS[found["fork"]]
    if found["shared"]:
        return Block(_GLOBAL_TABLESPACE, 0, relation, fork, block)
    if found["base"]:
        return Block(_DEFAULT_TABLESPACE, int(found["base"]), relation, fork, block)
    return Block(int(found["space"]), int(found["db"]), relation, fork, block)


def blocks_in_wal(
    store: Store,
    connection: Connection,
    wanted: Iterable[Block],
    begin: Lsn,
    end: Lsn,
    *,
    timeline: int,
    major: int,
    segment_bytes: int,
) -> set[Block]:
    """Return those of the blocks of which the WAL from `begin` to `end` holds an image.

    The WAL is taken from the archive when a capture has brought it there, for then the server may
    have removed it, and else from the server. `connection` speaks the replication protocol and
    cannot be used for anything else afterwards. Raises SourceUnreachable, DatabaseRefused when the
    server has that WAL no more, CorruptObject, StoreUnusable.
    """
    left = set(wanted)
    found: set[Block] = set()
    version = version_of_major(major)
    # From the start of a page the scan finds the first record by itself.
    at = begin.value - begin.value % PAGE_BYTES
    state = ScanState(at)
    archived = _archived(store, Lsn(at), end, timeline)
    for data in _pages(archived or _stream(connection, Lsn(at), end, timeline)):
        done = scan(data, at, state, version=version, segment_bytes=segment_bytes, stop=end.value)
        found |= left.intersection(_with_image(done.blocks))
        if done.end > LogEnd.TORN:
            break
        state = done.state
        at += len(data)
    return found


def _with_image(columns: BlockColumns) -> Iterator[Block]:
    """Yield the blocks that a record puts back whole, whatever was there before."""
    rows = zip(
        columns.tablespace, columns.database, columns.relation, columns.fork, columns.block,
        strict=True,
    )  # fmt: skip
    for row, flags in zip(rows, columns.flags, strict=True):
        if flags & (HAS_IMAGE | WILL_INIT):
            yield Block(*row)


def _pages(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join pieces to whole pages, about a megabyte at a time."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= _SCAN_BYTES:
            whole = len(held) - len(held) % PAGE_BYTES
            yield bytes(held[:whole])
            del held[:whole]
    if held:
        yield bytes(held)


def _archived(store: Store, begin: Lsn, end: Lsn, timeline: int) -> Iterator[bytes] | None:
    """Return the WAL from the archive; None when it does not have all of it."""
    wal = WalArchive(store)
    if not any(low <= begin and end <= high for low, high in wal.ranges(timeline)):
        return None
    stops = [*range(begin.value, end.value, _SCAN_BYTES), end.value]
    pieces = (wal.read(timeline, Lsn(low), Lsn(high)) for low, high in itertools.pairwise(stops))
    return itertools.chain(pieces, [bytes(-end.value % PAGE_BYTES)])


def _stream(connection: Connection, begin: Lsn, end: Lsn, timeline: int) -> Iterator[bytes]:
    """Yield the WAL from `begin` to `end` and at most a page more."""
    last = -(-end.value // PAGE_BYTES) * PAGE_BYTES
    command = f"START_REPLICATION PHYSICAL {begin} TIMELINE {timeline}"
    stream = ReplicationStream(connection, command, failed=_FAILED)
    result = stream.result()
    if result is None or result.status != pq.ExecStatus.COPY_BOTH:
        raise DatabaseRefused(_FAILED, detail="It did not begin to send.")
    at = begin.value
    try:
        for message in stream.messages(_SILENCE_SECONDS):
            if message[0] == _WAL_DATA:
                data = bytes(message[_WAL_HEADER.size :])[: last - at]
                at += len(data)
                if at >= end.value:
                    yield data + bytes(last - at)
                    return
                yield data
            elif message[0] == _KEEPALIVE and _KEEPALIVE_BODY.unpack(message)[3]:
                now = now_us() - _PROTOCOL_EPOCH_US
                stream.send(_STATUS.pack(b"r", at, 0, 0, now, 0))
    finally:
        stream.cancel()
