"""A point in the WAL behind what is committed now: flushed, with its time; to be named or not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from pitr.errors import IdentityMismatch, SourceUnusable
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.postgres.live.flushed import settled_wal
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


def make_point(connection: Connection, name: str, system_identifier: str) -> MarkPosition:
    """Make a restore point where the role may, else only note where the WAL ends.

    Either way a transaction number is used up, whose commit makes the server flush. Raises
    IdentityMismatch for another cluster, SourceUnusable for a standby, SourceUnreachable.
    """
    with server_faults("cannot mark the present state"):
        may_make, segment_bytes, _ = _ask_primary(connection, system_identifier)
        is_made = may_make and len(name.encode()) <= _RESTORE_POINT_BYTES_MAX
        point = "pg_create_restore_point(%s)" if is_made else "pg_current_wal_insert_lsn()"
        with connection.transaction():
            connection.execute("SET LOCAL synchronous_commit = local")
            row = connection.execute(
                _POINT.format(point=point).encode(), [name] if is_made else []
            ).fetchone()
        assert row is not None
        time_us, end, file_name = row
    return MarkPosition(Lsn.parse(end), int(file_name[:8], 16), segment_bytes, time_us)


def settled_point(connection: Connection, system_identifier: str) -> MarkPosition:
    """Return a point behind all that was committed before the call; nothing is written for it.

    Its LSN may lie in the middle of a record. Raises as `make_point` does.
    """
    with server_faults("cannot ask for the present state"):
        _, segment_bytes, time_us = _ask_primary(connection, system_identifier)
    timeline, end = settled_wal(connection)
    return MarkPosition(end, timeline, segment_bytes, time_us)


def _ask_primary(connection: Connection, system_identifier: str) -> tuple[bool, int, int]:
    """Return whether a restore point may be made, bytes of a WAL segment, the server's time."""
    row = connection.execute(_ABLE.read_text()).fetchone()
    assert row is not None
    found, is_standby, may_make, segment_bytes, time_us = row
    if str(found % (1 << 64)) != system_identifier:
        raise IdentityMismatch(
            "this is another cluster than the archive's",
            detail=f"Its system identifier is {found % (1 << 64)}; the archive holds "
            f"{system_identifier}.",
            hint="Name the right source with '--source NAME'.",
        )
    if is_standby:
        raise SourceUnusable(
            "the source is a standby",
            detail="Only a primary can be marked, and knows what was committed.",
            hint="Name the primary as the source.",
        )
    return may_make, segment_bytes, time_us
