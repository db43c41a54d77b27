"""The statements of a merge, set by set; each tells how many rows it wrote, and that is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import apsw

from pitr.errors import DatabaseRefused
from pitr.merge.blocking import KEYS_SHOWN
from pitr.sqlite.merge.blockers import unique_indexes
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.merge.triggers import Effects
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.plan import BlockerKind
from pitr.vocabulary.row_class import Action

UNIQUE_CODES = (
    apsw.SQLITE_CONSTRAINT_UNIQUE,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
    apsw.SQLITE_CONSTRAINT_ROWID,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTable:
    """What a merge did to one table. `created` says that it made the table."""

    table: str
    inserted: int
    updated: int
    deleted: int
    created: bool


def refused(detail: str, hint: str | None = None) -> DatabaseRefused:
    """Return the error for a merge that did not come out as planned."""
    return DatabaseRefused("the merge was refused and rolled back", detail=detail, hint=hint)


def suppressed(connection: apsw.Connection, table: PlannedTable, condition: str) -> DatabaseRefused:
    """Return the error for rows, given by a condition on `r`, that are not what was written."""
    keys = table.keys(connection, condition, KEYS_SHOWN)
    names = ", ".join(table.key)
    shown = "; ".join(", ".join(map(repr, key)) for key in keys)
    rows = table.count(connection, condition)
    return refused(
        f"{BlockerKind.TRIGGER_SUPPRESSED}: {rows} rows of {table.name} were not written as"
        f" planned. They are, by {names}: {shown}.",
        f"Look at the triggers of {table.name}; 'pitr plan' names those that fire.",
    )


class Writer:
    """Writes the tables of a plan inside the transaction that is open."""

    def __init__(self, connection: apsw.Connection, effects: Mapping[str, Effects]) -> None:
        self._connection = connection
        self._effects = effects
        self._done: Counter[tuple[str, Action]] = Counter()

    def written(self, table: PlannedTable) -> WrittenTable:
        """Return what was done to a table."""
        return WrittenTable(
            table=table.name,
            inserted=self._done[table.rows, Action.INSERT],
            updated=self._done[table.rows, Action.UPDATE],
            deleted=self._done[table.rows, Action.DELETE],
            created=table.created_by is not None and bool(table.classes(Action.INSERT)),
        )

    # --- delete ----------------------------------------------------------------------------------

    def delete(self, table: PlannedTable) -> None:
        """Delete the rows that are to go.

        Foreign keys take no other rows with them: children that stay keep a row from being deleted,
        which was looked at again under the lock.
        """
        if not table.classes(Action.DELETE):
            return
        self._connection.execute(_deletion(table))
        present = "FALSE" if table.keyless else _is_there(table)
        left = f"{table.acting(Action.DELETE)} AND {present}"
        if table.count(self._connection, left):
            raise suppressed(self._connection, table, left)
        self._done[table.rows, Action.DELETE] += table.count(
            self._connection, table.acting(Action.DELETE)
        )

    # --- update ----------------------------------------------------------------------------------

    def update(self, table: PlannedTable) -> None:
        """Set columns back: of each row those of its mask, and no others."""
        masks = table.masks(self._connection)
        try:
            self._update_all(table, masks)
        except apsw.ConstraintError as error:
            if getattr(error, "extendedresult", 0) not in UNIQUE_CODES:
                raise
            # Rows may have to swap unique values: the database looks after each single row.
            if not self._park_all(table, masks):
                raise
            self._update_all(table, masks)

    def _update_all(self, table: PlannedTable, masks: Sequence[str]) -> None:
        self._done[table.rows, Action.UPDATE] = 0
        for mask in masks:
            self._update(table, mask)

    def _update(self, table: PlannedTable, mask: str) -> None:
        values = [f"{quoted(name)} = {table.was(name)}" for name in table.masked(mask)]
        self._connection.execute(
            f"{table.updates} {table.live} AS l SET {', '.join(values)}"
            f" FROM {table.rows} AS r {table.before_row()}"
            f" WHERE {table.match('r', 'main', 'l')} AND {_masked(table)}",
            (mask,),
        )
        rows = self._connection.changes()
        if rows != self._count(table, mask):
            raise suppressed(self._connection, table, f"{table.acting(Action.UPDATE)}")
        self._done[table.rows, Action.UPDATE] += rows

    def _count(self, table: PlannedTable, mask: str) -> int:
        found = f"SELECT count(*) FROM {table.rows} AS r WHERE {_masked(table)}"
        return int(self._connection.execute(found, (mask,)).get)

    def _park_all(self, table: PlannedTable, masks: Sequence[str]) -> bool:
        """Give the unique columns values in passing that no row has.

        Return False, and do nothing, where a trigger would see them.
        """
        if self._effects[folded(table.name)].triggers:
            return False
        indexed = {name for i in unique_indexes(self._connection, table.name) for name in i.columns}
        for mask in masks:
            parked = [name for name in table.masked(mask) if name in indexed]
            if parked:
                self._park(table, mask, parked)
        return True

    def _park(self, table: PlannedTable, mask: str, parked: Sequence[str]) -> None:
        values = ", ".join(f"{quoted(name)} = {_placeholder(table, name)}" for name in parked)
        self._connection.execute(
            f"{table.updates} {table.live} AS l SET {values} FROM {table.rows} AS r"
            f" WHERE {table.match('r', 'main', 'l')} AND {_masked(table)}",
            (mask,),
        )

    # --- insert ----------------------------------------------------------------------------------

    def create(self, table: PlannedTable) -> None:
        """Make a table that is missing; its indexes come behind its rows."""
        assert table.created_by is not None
        self._connection.execute(table.created_by)

    def insert(self, table: PlannedTable) -> None:
        """Put the lost rows in, in the order of their keys."""
        if not table.classes(Action.INSERT):
            return
        self._connection.execute(table.insertion(table.live))
        rows = self._connection.changes()
        acting = table.acting(Action.INSERT)
        if rows != table.count(self._connection, acting):
            missing = acting if table.keyless else f"{acting} AND NOT {_is_there(table)}"
            raise suppressed(self._connection, table, missing)
        self._done[table.rows, Action.INSERT] += rows
        self._raise_sequence(table)
        if table.created_by is not None:
            for text in table.index_texts:
                self._connection.execute(text)

    def _raise_sequence(self, table: PlannedTable) -> None:
        """Raise the AUTOINCREMENT value to what it was; inserting has raised it to the last key."""
        if table.definition.has_autoincrement and table.sequence is not None:
            self._connection.execute(
                "UPDATE main.sqlite_sequence SET seq = max(seq, ?) WHERE name = ?",
                (table.sequence, table.name),
            )


def _masked(table: PlannedTable) -> str:
    return f"{table.acting(Action.UPDATE)} AND r.mask = ?"


def _is_there(table: PlannedTable) -> str:
    found = f"SELECT 1 FROM {table.live} AS l WHERE {table.match('r', 'main', 'l')}"
    return f"EXISTS ({found})"


def _deletion(table: PlannedTable) -> str:
    acting = table.acting(Action.DELETE)
    if not table.keyless:
        keys = ", ".join(map(quoted, table.key))
        taken = ", ".join(f"l.{quoted(name)}" for name in table.key)
        chosen = f"SELECT {taken} FROM {table.rows} AS r {table.live_row()} WHERE {acting}"
        return f"DELETE FROM {table.live} WHERE ({keys}) IN ({chosen})"
    # Of copies that are all alike, the ones that came last.
    rowid = table.definition.rowid_name
    if rowid is None:
        raise refused(f"Rows of {table.name} have neither a key nor a rowid that can be named.")
    numbered = (
        f"SELECT l.{rowid} AS id, r.copies AS copies,"
        f" row_number() OVER (PARTITION BY r.rowid ORDER BY l.{rowid} DESC) AS place"
        f" FROM {table.rows} AS r JOIN {table.live} AS l ON {table.same_content()} WHERE {acting}"
    )
    chosen = f"SELECT id FROM ({numbered}) WHERE place <= copies"
    return f"DELETE FROM {table.live} WHERE {rowid} IN ({chosen})"


def _placeholder(table: PlannedTable, name: str) -> str:
    column = next(column for column in table.definition.columns if column.name == name)
    if not column.not_null:
        return "NULL"
    declared = column.declared_type.upper()
    if "CHAR" in declared or "CLOB" in declared or "TEXT" in declared:
        return "hex(randomblob(16))"
    return "randomblob(16)" if "BLOB" in declared or not declared else "random()"
