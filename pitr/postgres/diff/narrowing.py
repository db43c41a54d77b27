"""Which rows may differ at all, told by the WAL between two states: by the blocks it touches.

Nothing of the table is read for that, and of the rows of before only those in these blocks are: the
cost follows the damage and not the table. docs/decisions/2026-11-28-narrowed-diff.md has the rule
and its proof. Where the rule cannot be applied, rows are compared as if there were no WAL.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from pitr.errors import PitrError
from pitr.postgres.diff.alignment import AFTER, BEFORE, LIVE, AlignedTable, SharedColumn
from pitr.postgres.diff.row_versions import XidRange
from pitr.postgres.diff.states import PastWal, States
from pitr.postgres.index.file import BlockRanges
from pitr.postgres.selection.written_blocks import Settled, find_settled, written_blocks
from pitr.postgres.tables.definition import Column
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import Connection, rows_of, statement_text, value_of
from pitr.postgres.wal.history import parse_history
from pitr.postgres.wal.record import RelationFile
from pitr.vocabulary.position import Lsn

_BLOCKS_MAX = 4 << 20
# The archive is waited for as long as hashes of the rows would take, and a flush at least.
_HASHED_BYTES_A_SECOND = 100 << 20
_STILL_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
_XIDS_A_ROUND = 1 << 32
_NUMERIC, _TEXTS = 1700, (18, 19, 25, 1042, 1043)


@dataclass(frozen=True, slots=True)
class _Position:
    timeline: int
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class _Piece:
    """A relation with rows of a table, in one state; `is_read` says whether its places can be."""

    name: TableName
    file: RelationFile
    blocks: int
    is_read: bool


@dataclass(frozen=True, slots=True)
class WrittenBlocks:
    """The blocks that may hold rows that differ: ranges by OID, and relation names by state too.

    `xids` are those given out between the states.
    """

    ranges: Mapping[int, BlockRanges]
    names: Mapping[str, Mapping[int, TableName]]
    xids: XidRange


def find_written(states: States, table: AlignedTable, least_bytes: int) -> WrittenBlocks | None:
    """Return the blocks whose rows may differ; None when the WAL cannot tell, or is not worth it.

    Tables smaller than `least_bytes` are not worth it.
    """
    other = AFTER if table.after_known else LIVE
    if states.past is None or states.before is None or other not in table.sides or not table.key:
        return None
    if table.before.size_bytes < least_bytes or not _means_the_same(table, other):
        return None
    if states.where is not None and table.before.kind == "p":
        return None
    connection = states.after if table.after_known else states.live
    assert connection is not None
    try:
        past = states.past()
        if past is None:
            return None
        # A role that may not ask for positions must not end the transaction by asking.
        with states.before.transaction(), connection.transaction():
            return _find(past, table, {BEFORE: states.before, other: connection})
    except (PitrError, psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFile):
        return None


def _find(
    past: PastWal, table: AlignedTable, connections: Mapping[str, Connection]
) -> WrittenBlocks | None:
    pieces = {state: _pieces(one, table.sides[state].oid) for state, one in connections.items()}
    if not _same_files(pieces):
        return None
    start = _position_of_sidecar(connections[BEFORE])
    if AFTER in connections:
        end = _position_of_sidecar(connections[AFTER])
    else:
        end_of_live = past.end_of_live
        end = _Position(*end_of_live) if end_of_live else None
    if start is None or end is None or not _leads(past, start, end):
        return None
    begin = _archived_from(past, start, end, table.before.size_bytes)
    if begin is None:
        return None
    settled = find_settled(past.index, past.wal, end.timeline, begin, start.lsn)
    xids = _xids_between(connections, settled) if settled else None
    if settled is None or xids is None:
        return None
    found: dict[int, BlockRanges] = {}
    for oid, piece in pieces[BEFORE].items():
        ranges = written_blocks(
            past.index, end.timeline, settled.since, end.lsn, piece.file, limit=_BLOCKS_MAX
        )
        if ranges is None:
            return None
        longest = max(some[oid].blocks for some in pieces.values())
        found[oid] = [(low, min(high, longest)) for low, high in ranges if low < longest]
    names = {state: {oid: some[oid].name for oid in found} for state, some in pieces.items()}
    return WrittenBlocks(found, names, xids)


# --- what must be the same -----------------------------------------------------------------------


def _means_the_same(table: AlignedTable, other: str) -> bool:
    """Return whether equal bytes of a row mean equal values in both states.

    They do not in a column that was dropped and added again, or whose type was changed without a
    rewrite, and in one whose values the catalogs write, as of an enum whose label was renamed.
    """
    if table.before.oid != table.sides[other].oid:
        return False
    return all(_is_same(column, other) for column in (*table.key, *table.columns))


def _is_same(shared: SharedColumn, other: str) -> bool:
    was, now = shared.sides[BEFORE], shared.sides.get(other)
    if now is None:
        return False
    facts = [
        (one.number, one.type_oid, one.type, one.base_oid, one.collation, one.labels)
        for one in (was, now)
    ]
    return facts[0] == facts[1] and _is_of_bytes(was)


def _is_of_bytes(column: Column) -> bool:
    """Return whether the text of a value depends on its bytes alone, the labels of enums aside."""
    if column.labels is not None:
        return column.kind == "e"
    if column.kind == "d":
        return column.carried != "text" or column.base_oid in (*_TEXTS, _NUMERIC)
    # Types such as regclass and aclitem write names that the catalogs have.
    return column.is_builtin and not column.plain_type.startswith(("reg", "aclitem"))


def _pieces(connection: Connection, oid: int) -> dict[int, _Piece]:
    found = rows_of(connection, statement_text("table_files"), {"oid": oid})
    return {
        row[0]: _Piece(TableName(row[1], row[2]), RelationFile(row[4], row[3], row[5]), *row[6:])
        for row in found
    }


def _same_files(pieces: Mapping[str, Mapping[int, _Piece]]) -> bool:
    """Return whether the rows are in the same files in both states.

    A file has another number once the table was rewritten. Live may have partitions besides: a row
    that came into one of them is looked up there by its key.
    """
    was = {oid: (one.file, one.is_read) for oid, one in pieces[BEFORE].items()}
    (other,) = pieces.keys() - {BEFORE}
    now = {oid: (one.file, one.is_read) for oid, one in pieces[other].items()}
    if other == LIVE:
        now = {oid: one for oid, one in now.items() if oid in was}
    return bool(was) and was == now and all(is_read for _, is_read in was.values())


# --- positions -----------------------------------------------------------------------------------


def _position_of_sidecar(connection: Connection) -> _Position | None:
    """Return how far the server of a state has replayed: where it left its parent's timeline."""
    ((name, data),) = rows_of(
        connection,
        "SELECT name, pg_catalog.pg_read_file('pg_wal/' || name || '.history', 0, 1000000, true)"
        " FROM (SELECT substr(pg_catalog.pg_walfile_name("
        "pg_catalog.pg_current_wal_lsn()), 1, 8) AS name) AS current",
    )
    entries = parse_history(int(str(name), 16), str(data).encode()) if data else ()
    return _Position(entries[-1].timeline, entries[-1].switch) if entries else None


def _xids_between(connections: Mapping[str, Connection], settled: Settled) -> XidRange | None:
    """Return the xids given out between the states; None when those are half a round or more."""
    statement = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text"
    nexts = {state: int(value_of(one, statement)) for state, one in connections.items()}
    then = nexts.pop(BEFORE)
    (now,) = nexts.values()
    if now - then >= _XIDS_A_ROUND // 2:
        return None
    return XidRange(settled.xid, now % _XIDS_A_ROUND)


def _leads(past: PastWal, start: _Position, end: _Position) -> bool:
    """Return whether the WAL of the later state goes through the earlier one."""
    if end.lsn < start.lsn:
        return False
    if start.timeline == end.timeline:
        return True
    history = past.wal.history(end.timeline)
    return any(one.timeline == start.timeline and start.lsn <= one.switch for one in history)


def _archived_from(past: PastWal, start: _Position, end: _Position, size_bytes: int) -> Lsn | None:
    """Return from where on the archive has all WAL up to the end; wait for it to get there.

    None when it does not within the time that comparing the rows would take.
    """
    now = moved = time.monotonic()
    deadline = now + max(_STILL_SECONDS, size_bytes / _HASHED_BYTES_A_SECOND)
    last: Lsn | None = None
    while True:
        found = [one for one in past.wal.ranges(end.timeline) if one[0] <= start.lsn <= one[1]]
        if not found:
            return None
        begin, upto = found[0]
        if upto >= end.lsn:
            return begin
        now = time.monotonic()
        if upto != last:
            last, moved = upto, now
        if now > deadline or now - moved > _STILL_SECONDS:
            return None
        time.sleep(_PAUSE_SECONDS)
        past.wal.refresh()
        past.index.refresh()
