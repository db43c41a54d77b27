"""The rows that a merge touches, as they were before it and after it: what an undo goes back by.

Two small databases with tables of the live definitions, so that an undo is a repair like any other:
"before" is the state before the merge, "after" the one that it made, and whatever is neither was
changed since. They are filled inside the transaction of the merge and taken out of it as bytes,
so that they can be durable before it commits.

Of a table without a key they have every live row whose content is that of a row of the merge, so
that the copies can be counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import apsw

from pitr.sqlite.diff.classified import ClassifiedTable, classify
from pitr.sqlite.diff.states import AFTER, BEFORE, LIVE, States
from pitr.sqlite.merge.parents import Family, note_kin
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.merge.scratch import make_fresh
from pitr.sqlite.past.replay import attach
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.restatement import restated
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.row_class import Action, RowClass

_INDEXED_MAX = 8  # columns by which rows without a key are found again
_BEFORE, _AFTER = "undo_before", "undo_after"
# While the transaction of a merge is open: its rows as they were, and as it has written them.
SAVED, WRITTEN = _BEFORE, _AFTER


class UndoImages:
    """The two databases while they are being filled, on the connection of the merge."""

    def __init__(self, connection: apsw.Connection, family: Family) -> None:
        """Make the tables, of those that are written."""
        self._connection = connection
        self._family = family
        self._tables = [table for table in family.tables if table.classes()]
        for schema in (_BEFORE, _AFTER):
            make_fresh(connection, schema)
            texts = {folded(t.name): t.created_by or t.definition.sql for t in self._tables}
            for text in texts.values():
                connection.execute(restated(text, schema))

    def save_before(self) -> None:
        """Copy the rows that will be updated or deleted, and note the kin of all."""
        self._save(_BEFORE, Action.UPDATE, Action.DELETE)
        note_kin(self._connection, self._family, _BEFORE)

    def save_after(self) -> None:
        """Copy the rows that were inserted or updated, as they are now."""
        self._save(_AFTER, Action.INSERT, Action.UPDATE)

    def _save(self, schema: str, *actions: Action) -> None:
        # Rows may stand in a table that its CHECK would refuse today.
        self._connection.pragma("ignore_check_constraints", True)
        try:
            for table in self._tables:
                is_new = schema == _BEFORE and table.created_by is not None
                if not is_new and (table.keyless or table.classes(*actions)):
                    self._connection.execute(_copy(table, schema, table.acting(*actions)))
        finally:
            self._connection.pragma("ignore_check_constraints", False)

    def take_out(self) -> tuple[bytes, bytes]:
        """Return the two databases."""
        return self._connection.serialize(_BEFORE), self._connection.serialize(_AFTER)


def _copy(table: PlannedTable, schema: str, acting: str) -> str:
    plain = table.definition.plain_columns
    names = plain if table.keyless else tuple(dict.fromkeys((*table.key, *plain)))
    into = f"INSERT INTO {schema}.{quoted(table.name)}({', '.join(map(quoted, names))})"
    taken = ", ".join(f"l.{quoted(name)}" for name in names)
    if table.keyless:
        return (
            f"{into} SELECT {taken} FROM {table.live} AS l WHERE EXISTS"
            f" (SELECT 1 FROM {table.rows} AS r WHERE {table.same_content()} AND {table.acting()})"
        )
    return f"{into} SELECT {taken} FROM {table.rows} AS r {table.live_row()} WHERE {acting}"


# --- taking back ---------------------------------------------------------------------------------


def attach_images(states: States, after: Path) -> States:
    """Return the states of an undo: `before` is attached, and `after` becomes the file."""
    attach(states.connection, after, AFTER, writable=False)
    sources = replace(states.sources, after_commit=states.sources.before_commit)
    return States(sources, states.connection, None, {})


def classify_merged(states: States) -> list[ClassifiedTable]:
    """Put the rows of a merge under their classes, those of tables without a key by their copies.

    Copies of a row cannot be told apart. So of those that the merge put in as many are still there
    as live has more than there were before it; and of those that an undo took away, which is a
    merge too, as many are still gone as live has fewer.
    """
    return [_count_copies(states, t) if t.keyless else t for t in classify(states)]


def _count_copies(states: States, table: ClassifiedTable) -> ClassifiedTable:
    width = range(len(table.aligned.columns))
    columns = ", ".join(f"c{at}" for at in width)
    parts = [
        f"SELECT {int(schema == BEFORE)} AS was, {int(schema == AFTER)} AS became,"
        f" {int(schema == LIVE)} AS now, {columns} FROM {table.aligned.source(schema)}"
        for schema in (BEFORE, AFTER, LIVE)
    ]
    group = ", ".join(f"c{at} COLLATE BINARY, typeof(c{at})" for at in width)
    kept = "max(0, min(sum(now), sum(became)) - sum(was))"
    gone = "max(0, sum(was) - max(sum(now), sum(became)))"
    groups = (
        f"SELECT {columns}, {kept} AS kept, {gone} AS gone, abs(sum(became) - sum(was)) AS moved,"
        f" sum(now) AS held FROM ({' UNION ALL '.join(parts)})"
        f" GROUP BY {group} HAVING sum(became) <> sum(was)"
    )
    execute = states.connection.execute
    _make_room(states, table)
    filled = f"INSERT INTO {table.rows_table} SELECT {columns}, class, '', copies, held FROM"
    copies = {
        RowClass.BOGUS_INSERT: "kept",
        RowClass.LOST: "gone",
        RowClass.ALREADY_BACK: "moved - kept - gone",
    }
    for row_class, count in copies.items():
        counted = f"SELECT {columns}, '{row_class}' AS class, {count} AS copies, held"
        execute(f"{filled} ({counted} FROM ({groups})) WHERE copies > 0")
    counts = execute(f"SELECT class, sum(copies) FROM {table.rows_table} GROUP BY class")
    found = {RowClass(str(name)): int(str(count)) for name, count in counts}
    return replace(table, counts=found)


def _make_room(states: States, table: ClassifiedTable) -> None:
    """Empty the table of the rows; with `held`, how many copies live has, and an index by content.

    Other tables look there for each row that names a parent, whether it goes as well.
    """
    schema, _, name = table.rows_table.partition(".")
    places = range(len(table.aligned.columns))[:_INDEXED_MAX]
    indexed = ", ".join(f"key_{at} COLLATE BINARY" for at in places)
    execute = states.connection.execute
    execute(f"DELETE FROM {table.rows_table}")
    execute(f"ALTER TABLE {table.rows_table} ADD COLUMN held INTEGER")
    execute(f"CREATE INDEX {schema}.{name}_content ON {name} ({indexed})")
