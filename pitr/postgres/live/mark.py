"""A point in the WAL that can be named: made by the server, flushed, with its time."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from pitr.errors import IdentityMismatch, SourceUnusable
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.vocabulary.position import Lsn

_ABLE = files("pitr.sql").joinpath("postgres/mark_able.sql")
# Columns are computed from left to right: the time first, so that it comes before the point.
_POINT = (
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, {point}::text,"
    " pg_walfile_name(pg_current_wal_lsn()) FROM pg_current_xact_id()"
)
# MAXFNAMELEN, less its end: src/include/access/xlog_internal.h.
_RESTORE_POINT_BYTES_MAX = 63


@dataclass(frozen=True, slots=True)
class MarkPosition:
    """All that was committed before the point lies before `end`; what comes later, after it.

    `time_us` is the server's, and before the point. WAL up to `end` is flushed.
    """

    end: Lsn
    timeline: int
    segment_bytes: int
    time_us: int


def make_point(connection: Connection, name: str | None, system_identifier: str) -> MarkPosition:
    """Make a restore point where the role may, else only note where the WAL ends.

    Without a name no restore point is made.
    Either way a transaction number is used up, whose commit makes the server flush. Raises
    IdentityMismatch for another cluster, SourceUnusable for a standby, SourceUnreachable.
    """
    with server_faults("cannot mark the present state"):
        row = connection.execute(_ABLE.read_text()).fetchone()
        assert row is not None
        found, is_standby, may_make, segment_bytes = row
        if str(found % (1 << 64)) != system_identifier:
            raise IdentityMismatch(
                "this is another cluster than the archive's",
                detail=f"Its system identifier is {found % (1 << 64)}; the archive holds "
                f"{system_identifier}.",
                hint="Name the right source with '--source NAME'.",
            )
        if is_standby:
            raise SourceUnusable(
                "a standby cannot be marked",
                detail="Only a primary writes WAL.",
                hint="Name the primary as the source.",
            )
        is_made = may_make and name is not None and len(name.encode()) <= _RESTORE_POINT_BYTES_MAX
        point = "pg_create_restore_point(%s)" if is_made else "pg_current_wal_insert_lsn()"
        with connection.transaction():
            connection.execute("SET LOCAL synchronous_commit = local")
            row = connection.execute(
                _POINT.format(point=point).encode(), [name] if is_made else []
            ).fetchone()
        assert row is not None
        time_us, end, file_name = row
    return MarkPosition(Lsn.parse(end), int(file_name[:8], 16), segment_bytes, time_us)
