"""Count how the rows of a sidecar differ from a database: the live one, or a later past.

Rows are matched by a key that both sides declare. Two values are equal when neither SQLite nor
their storage class tells them apart, so 1, 1.0 and '1' differ, and so do 'a' and 'A' whatever the
collation. Without a key, rows are counted as a multiset: what is on one side more often than on
the other is missing there, and nothing can be said to differ.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import apsw

from pitr.errors import UsageError
from pitr.sqlite.diff.row_key import PlacedTable, key_collation, shared_key
from pitr.sqlite.past.live_reading import LiveUnreadable, ask_live
from pitr.sqlite.past.replay import attach, connect, past_uri
from pitr.sqlite.past.tables import PastTable, find_table, folded
from pitr.sqlite.statement.faults import sqlite_faults, sqlite_says
from pitr.sqlite.statement.tokens import quoted


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the rows of one table of a sidecar differ from those of another database.

    All None when there is nothing to compare with, or when it was not read; `warnings` says why.
    `extra_in_live` counts only rows that meet the condition of the restore.
    """

    missing_in_live: int | None = None
    differs: int | None = None
    extra_in_live: int | None = None
    warnings: tuple[str, ...] = ()


def compare_with_live(
    live_path: Path,
    sidecar_path: Path,
    table_name: str,
    *,
    where: str | None = None,
    columns: Collection[str] | None = None,
) -> Comparison:
    """Compare one table of a sidecar with the live database. Not in the process that captures.

    `where` is the checked condition that the sidecar was restored with, `columns` those by which
    alone rows of one key are compared.
    """
    wanted = _Wanted(table_name, where, columns)
    try:
        return ask_live(live_path, sidecar_path, lambda c: _compare(c, wanted))
    except LiveUnreadable as reason:
        return Comparison(warnings=(f"{table_name}: not compared with {live_path}. {reason}",))


def compare_with_past(
    past: apsw.Connection,
    sidecar_path: Path,
    table_name: str,
    *,
    where: str | None = None,
    columns: Collection[str] | None = None,
) -> Comparison:
    """Compare one table of a sidecar with a past state, such as the newest that is archived."""
    with (
        sqlite_faults(f"cannot compare {sidecar_path}"),
        closing(connect(past_uri(past), writable_others=False)) as connection,
    ):
        attach(connection, sidecar_path, "past", writable=False)
        return _compare(connection, _Wanted(table_name, where, columns))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be compared."""

    table: str
    where: str | None
    columns: Collection[str] | None


def _compare(connection: apsw.Connection, wanted: _Wanted) -> Comparison:
    """Compare `main` (live) with `past` (the sidecar), as far as both can be opened here."""
    try:
        return _compare_rows(connection, wanted)
    except UsageError as error:
        return Comparison(warnings=(f"{wanted.table}: not compared, {error.message}",))


def _compare_rows(connection: apsw.Connection, wanted: _Wanted) -> Comparison:
    table_name = wanted.table
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)  # as when the condition was checked
    live = find_table(connection, "main", table_name)
    past = find_table(connection, "past", table_name)
    if live is None or past is None:
        return Comparison(warnings=(f"{table_name}: the live database has no such table",))
    comparing = _Comparing(connection, PlacedTable("main", live), PlacedTable("past", past), wanted)
    if not comparing.columns:
        return Comparison(warnings=(f"{table_name}: no column is left to compare by",))
    missing, differs = comparing.missing_and_differing()
    result = Comparison(missing, differs, warnings=_drift(live, past))
    try:
        return replace(result, extra_in_live=comparing.extra())
    except apsw.SQLError as error:
        warning = f"{table_name}: the condition fails on the live table. {sqlite_says(error)}"
        return replace(result, warnings=(*result.warnings, warning))


def _drift(live: PastTable, past: PastTable) -> tuple[str, ...]:
    then = {folded(column.name): column.name for column in past.columns}
    now = {folded(column.name): column.name for column in live.columns}
    added = [name for key, name in now.items() if key not in then]
    gone = [name for key, name in then.items() if key not in now]
    changes = [f"added since: {', '.join(added)}"] * bool(added)
    changes += [f"gone since: {', '.join(gone)}"] * bool(gone)
    if not changes:
        return ()
    return (f"{past.name}: compared by the columns of both; {'; '.join(changes)}",)


class _Comparing:
    """The statements that compare one table; they call a live row `l` and a past one `p`."""

    def __init__(
        self, connection: apsw.Connection, live: PlacedTable, past: PlacedTable, wanted: _Wanted
    ) -> None:
        self._connection = connection
        self._live = live
        self._past = past
        self._where = f" WHERE (\n{wanted.where}\n)" if wanted.where else ""
        then = {folded(name) for name in past.table.plain_columns}
        self.columns = [name for name in live.table.plain_columns if folded(name) in then]
        self._key = shared_key(connection, (live, past))
        self._judged = self.columns
        if wanted.columns is not None:
            names = {folded(name) for name in (*wanted.columns, *self._key)}
            self._judged = [name for name in self.columns if folded(name) in names]
        self._match = " AND ".join(map(self._equal, self._key))
        self._balance = cache(self._count_balance)

    def missing_and_differing(self) -> tuple[int, int]:
        """Return the rows of the past whose key is not in live, and those with other values."""
        if not self._key:
            return self._balance(self._live.sql_name)[0], 0
        same = " AND ".join(
            f"l.{name} IS p.{name} COLLATE BINARY AND typeof(l.{name}) = typeof(p.{name})"
            for name in map(quoted, self._judged)
        )
        found = f"l.{quoted(self._key[0])} IS NOT NULL"
        row = self._connection.execute(
            f"SELECT count(*) - total({found}), total({found} AND NOT ({same or 'TRUE'}))"
            f" FROM {self._past.sql_name} AS p"
            f" LEFT JOIN {self._live.sql_name} AS l ON {self._match}"
        ).get
        return int(row[0]), int(row[1])

    def extra(self) -> int:
        """Return the rows of live that meet the condition and whose key is not in the past."""
        if not self._key:
            chosen = f"(SELECT * FROM {self._live.sql_name}{self._where})"
            return self._balance(chosen if self._where else self._live.sql_name)[1]
        keys = ", ".join(map(quoted, self._key))
        found = self._connection.execute(
            f"SELECT count(*) FROM (SELECT {keys} FROM {self._live.sql_name}{self._where}) AS l"
            f" LEFT JOIN {self._past.sql_name} AS p ON {self._match}"
            f" WHERE p.{quoted(self._key[0])} IS NULL"
        ).get
        return int(found)

    def _count_balance(self, live: str) -> tuple[int, int]:
        """Return how many rows are in the past only, and how many in live only."""
        taken = ", ".join(f"{quoted(name)} AS c{at}" for at, name in enumerate(self.columns))
        group = [f"c{at} COLLATE BINARY, typeof(c{at})" for at in range(len(self.columns))]
        row = self._connection.execute(
            "SELECT total(max(balance, 0)), total(max(-balance, 0)) FROM ("
            f"SELECT sum(side) AS balance FROM ("
            f"SELECT 1 AS side, {taken} FROM {self._past.sql_name}"
            f" UNION ALL SELECT -1, {taken} FROM {live}) GROUP BY {', '.join(group)})"
        ).get
        return int(row[0]), int(row[1])

    def _equal(self, column: str) -> str:
        """Return the test of one key column, by the declared collation where that is known."""
        name = quoted(column)
        if self._live.table.virtual:
            return f"l.{name} = p.{name}"
        sides = (self._live, self._past)
        collation = key_collation(self._connection, sides, (column, column))
        return f"l.{name} = p.{name} COLLATE {collation}"
