"""How far a server has written out the WAL of what others can see; nothing is written for it."""

from __future__ import annotations

import time

from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.postgres.wal.geometry import WalGeometry
from pitr.postgres.wal.page import PAGE_BYTES
from pitr.vocabulary.position import Lsn

_FLUSH_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


def flushed_wal(connection: Connection) -> tuple[int, Lsn] | None:
    """Return timeline and LSN behind all that a snapshot taken before sees.

    What commits without waiting for the disk is seen before it is flushed, so the end of the WAL
    has to be on disk: wherever somebody commits it is within milliseconds. None on a standby, and
    where it stays in memory, as what reading wrote (pruning) or an open transaction does while
    nobody commits: the server then flushes when it lists what runs, every 15 seconds.
    Raises SourceUnreachable, SourceUnusable, PrivilegeMissing.
    """
    with server_faults("ask where the WAL is"):
        row = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
        if row is None or row[0]:
            return None
        timeline, flushed, is_whole = _wait_for_flush(connection, _FLUSH_SECONDS)
        return (timeline, flushed) if is_whole else None


def settled_wal(connection: Connection) -> tuple[int, Lsn]:
    """Return timeline and LSN behind all that was committed on a primary before the call.

    A commit that waits for the disk is flushed when it returns, another within three times
    wal_writer_delay. So, unlike `flushed_wal`, this has an answer after that time also where the
    end of the WAL stays in memory: no commit of before is in it. The LSN may lie in the middle of a
    record. Raises as `flushed_wal` does.
    """
    with server_faults("ask where the WAL is"):
        row = connection.execute(
            "SELECT 3 * setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_writer_delay'"
        ).fetchone()
        assert row is not None
        timeline, flushed, _ = _wait_for_flush(connection, row[0] / 1000)
        return timeline, flushed


def _wait_for_flush(connection: Connection, seconds: float) -> tuple[int, Lsn, bool]:
    """Wait until the present end of the WAL is on disk, so long at most.

    Return timeline and LSN up to which WAL is flushed then, and whether that end is.
    """
    row = connection.execute(
        "SELECT pg_catalog.pg_current_wal_insert_lsn()::text,"
        " setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'"
    ).fetchone()
    assert row is not None
    # At the begin of a page the next record would be behind the header, where no flush gets.
    geometry = WalGeometry(row[1], PAGE_BYTES)
    inserted = Lsn(geometry.end(geometry.position(Lsn.parse(row[0]).value)))
    deadline = time.monotonic() + seconds
    while True:
        is_late = time.monotonic() > deadline  # before the look, which then is late enough
        row = connection.execute(
            "SELECT pg_catalog.pg_walfile_name(lsn), lsn::text"
            " FROM (SELECT pg_catalog.pg_current_wal_flush_lsn() AS lsn) AS current"
        ).fetchone()
        assert row is not None
        flushed = Lsn.parse(row[1])
        if flushed >= inserted or is_late:
            return int(row[0][:8], 16), flushed, flushed >= inserted
        time.sleep(_PAUSE_SECONDS)
