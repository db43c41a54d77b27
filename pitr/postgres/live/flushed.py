"""Have a server write out all WAL of what others can see, and tell where that ends."""

from __future__ import annotations

from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.vocabulary.position import Lsn


def flush_wal(connection: Connection) -> tuple[int, Lsn] | None:
    """Return timeline and LSN behind all that a snapshot taken before sees; None on a standby.

    What a transaction commits without waiting for the disk is seen before it is flushed, and what
    one writes that has not ended may stay in memory for long. So a transaction of our own writes a
    message that says nothing, some 60 bytes: its commit flushes all that is before it. The
    connection has no transaction open. Raises SourceUnreachable, SourceUnusable, PrivilegeMissing.
    """
    with server_faults("ask where the WAL is"):
        row = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
        if row is None or row[0]:
            return None
        with connection.transaction():
            connection.execute("SET LOCAL synchronous_commit = local")
            connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'pitr', '')")
        row = connection.execute(
            "SELECT pg_catalog.pg_walfile_name(lsn), lsn::text"
            " FROM (SELECT pg_catalog.pg_current_wal_flush_lsn() AS lsn) AS current"
        ).fetchone()
    assert row is not None
    return int(row[0][:8], 16), Lsn.parse(row[1])
