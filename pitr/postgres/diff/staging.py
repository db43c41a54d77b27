"""Bring the rows that may differ into temporary tables of the live session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import errors

from pitr.errors import PrivilegeMissing
from pitr.postgres.diff.alignment import AFTER, BEFORE, LIVE, AlignedTable
from pitr.postgres.diff.candidates import Buckets
from pitr.postgres.diff.copying import NO_ROWS, CopiedRows, CopyOut, copy_in
from pitr.postgres.diff.narrowing import WrittenBlocks
from pitr.postgres.diff.row_versions import (
    Versions,
    at_places,
    differing,
    in_blocks,
    portions,
    read_versions,
)
from pitr.postgres.diff.states import States
from pitr.postgres.index.file import BlockRanges
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, run


def stage(states: States, table: AlignedTable, buckets: Buckets | None) -> CopiedRows:
    """Copy rows of before, and of after where it is known, over to live; return those of before.

    A condition chooses among the rows of before; those of after are all needed, since the damage
    may have changed what the condition asks. Raises psycopg.Error.
    """
    assert states.before is not None
    make_staged(states.live, table)
    copied = _fill(states.before, states.live, table, BEFORE, buckets, states.where)
    if states.after is not None and AFTER in table.sides:
        _fill(states.after, states.live, table, AFTER, buckets, None)
    analyze_staged(states.live, table)
    return copied


def stage_written(states: States, table: AlignedTable, written: WrittenBlocks) -> CopiedRows:
    """Copy those rows over that are another version in the two states; return those of before.

    Raises psycopg.Error.
    """
    copied = NO_ROWS
    assert states.before is not None
    make_staged(states.live, table)
    other = AFTER if table.after_known else LIVE
    connection = states.after if table.after_known else states.live
    assert connection is not None
    for oid, ranges in written.ranges.items():
        before, against = (f"ONLY {written.names[state][oid].sql}" for state in (BEFORE, other))
        for portion in portions(ranges):
            was = read_versions(states.before, before, portion)
            now = read_versions(connection, against, portion)
            rows = _Versions(before, portion, was, differing(was, now, written.xids))
            copied = copied.plus(
                _copy_versions(states.before, states.live, table, BEFORE, rows, states.where)
            )
            if other == AFTER:
                rows = _Versions(against, portion, now, differing(now, was, written.xids))
                _copy_versions(connection, states.live, table, AFTER, rows, None)
    analyze_staged(states.live, table)
    return copied


@dataclass(frozen=True, slots=True)
class _Versions:
    """Of the versions that a state sees in some blocks of a relation, those to be copied."""

    source: str
    ranges: BlockRanges
    seen: Versions
    wanted: Versions


def _copy_versions(
    source: Connection,
    live: Connection,
    table: AlignedTable,
    state: str,
    rows: _Versions,
    where: str | None,
) -> CopiedRows:
    copied = NO_ROWS
    if not rows.wanted:
        return copied
    selects = at_places(rows.source, rows.wanted, where)
    if rows.wanted == rows.seen:
        version = source.info.server_version
        selects = iter([in_blocks(rows.source, rows.ranges, version, where=where)])
    for select in selects:
        copied = copied.plus(_copy_over(source, live, table, state, f"FROM ({select}) AS t"))
    return copied


def _copy_over(
    source: Connection, live: Connection, table: AlignedTable, state: str, body: str
) -> CopiedRows:
    select = f"SELECT {', '.join(table.taken(state))} {body}"
    return _copy_rows(source, live, table, state, select)


def _copy_rows(
    source: Connection, live: Connection, table: AlignedTable, state: str, select: str
) -> CopiedRows:
    rows = CopyOut(source, select)
    fill_staged(live, table, state, rows)
    return rows.copied


def make_staged(live: Connection, table: AlignedTable) -> None:
    """Make the empty temporary tables. Raises PrivilegeMissing, psycopg.Error."""
    columns = ", ".join(f"{name} {kind}" for name, kind in table.staged_columns())
    try:
        for state in (BEFORE, AFTER):
            run(live, f"DROP TABLE IF EXISTS {table.staged(state)}")
            run(live, f"CREATE TEMP TABLE {table.staged(state).partition('.')[2]} ({columns})"
                " ON COMMIT DROP")  # fmt: skip
    except errors.InsufficientPrivilege as error:
        role, database = quoted(live.info.user), quoted(live.info.dbname)
        raise PrivilegeMissing(
            f"{live.info.user} may not make temporary tables",
            detail=f"{error.diag.message_primary}.",
            hint=f"As the owner of the database: GRANT TEMPORARY ON DATABASE {database} TO {role};",
        ) from error


def analyze_staged(live: Connection, table: AlignedTable) -> None:
    """Count what is in them: nobody else ever does, and plans for guessed sizes are bad ones.

    Rows are joined by their keys; of other columns nothing has to be known.
    """
    keys = ", ".join(f"k{at}" for at in range(len(table.key)))
    for state in (BEFORE, AFTER):
        run(live, f"ANALYZE {table.staged(state)}{f' ({keys})' if keys else ''}")


def fill_staged(live: Connection, table: AlignedTable, state: str, pieces: Iterable[bytes]) -> None:
    """Write pieces of binary COPY into the temporary table of a state."""
    names = ", ".join(name for name, _ in table.staged_columns())
    copy_in(live, table.staged(state), names, pieces)


def _fill(
    source: Connection,
    live: Connection,
    table: AlignedTable,
    state: str,
    chosen: Buckets | None,
    where: str | None,
) -> CopiedRows:
    body = table.rows_in(state)
    if where is not None:
        # The condition names the columns of the table alone, and may name the table itself.
        body = f"FROM (SELECT * FROM {table.sides[state].source} WHERE {where}) AS t"
    ending = f" WHERE {chosen.condition(table, state)}" if chosen else ""
    if table.key:
        return _copy_over(source, live, table, state, f"{body}{ending}")
    taken = table.taken(state)
    groups = ", ".join(map(str, range(1, len(taken) + 1)))
    select = f"SELECT {', '.join(taken)}, count(*) {body}{ending} GROUP BY {groups}"
    return _copy_rows(source, live, table, state, select)
