"""Whether the live table can be written at all, and what a write to it sets off."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.merge.triggers import Effects, effects_of
from pitr.sqlite.past.replay import BUILTIN_COLLATIONS
from pitr.sqlite.statement.faults import sqlite_says
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.plan import Blocker, BlockerKind, MergeOptions, Resolution
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True)
class Writability:
    """What stands against writing a table, and what its writes set off."""

    blockers: tuple[Blocker, ...]
    effects: Effects


def judge_table(
    connection: apsw.Connection, table: PlannedTable, options: MergeOptions
) -> Writability:
    """Return what can be said before any row is looked at."""
    rows = sum(table.counts.get(row_class, 0) for row_class in table.classes())
    if not rows:
        return Writability((), Effects())
    if table.created_by is not None:
        fault = None if options.create_missing else _MISSING
        return Writability(_blockers(table, BlockerKind.SCHEMA_DRIFT, fault, rows), Effects())
    fault = _needs_value(table)
    if fault:
        return Writability(_blockers(table, BlockerKind.SCHEMA_DRIFT, fault, rows), Effects())
    fault = _unknown_collation(connection, table)
    effects = Effects()
    if fault is None:
        try:
            effects = effects_of(connection, table.name, _statements(connection, table))
        except apsw.SQLError as error:
            fault = sqlite_says(error).rstrip(".")
    return Writability(_blockers(table, BlockerKind.CHECK_FAILED, fault, rows), effects)


_MISSING = "the live database has no such table; --create-missing makes it as it was"


def _blockers(
    table: PlannedTable, kind: BlockerKind, fault: str | None, rows: int
) -> tuple[Blocker, ...]:
    if fault is None:
        return ()
    blocks = Resolution.BLOCKS  # of a table as a whole: there is nothing to be skipped
    blocker = Blocker(kind=kind, table=table.name, rows=rows, detail=fault, resolution=blocks)
    return (blocker,)


def _needs_value(table: PlannedTable) -> str | None:
    given = {*table.insert_columns, *(name for name, _ in table.values)}
    needed = [
        column.name
        for column in table.definition.columns
        if column.hidden == 0
        and column.not_null
        and column.default is None
        and column.name not in given
        and column.name != table.definition.integer_key
    ]
    if not needed or not table.classes(Action.INSERT):
        return None
    options = " ".join(f"--set {name}=…" for name in needed)
    return f"{', '.join(needed)} may not be NULL and has no default; give a value with {options}"


def _unknown_collation(connection: apsw.Connection, table: PlannedTable) -> str | None:
    """Return a collation of an index that only the application has: the row has no place in it."""
    names = connection.execute(
        "SELECT DISTINCT x.coll FROM pragma_index_list(?, 'main') i,"
        " pragma_index_xinfo(i.name, 'main') x WHERE x.coll IS NOT NULL",
        (table.name,),
    ).fetchall()
    unknown = [str(name) for (name,) in names if str(name).upper() not in BUILTIN_COLLATIONS]
    if not unknown:
        return None
    return f"no such collation sequence: {unknown[0]}; the application defines it"


def _statements(connection: apsw.Connection, table: PlannedTable) -> list[str]:
    """Return the statements of the merge, as far as what they set off is concerned."""
    found = []
    if table.classes(Action.INSERT):
        names = [*table.insert_columns, *(name for name, _ in table.values)]
        values = ", ".join("NULL" for _ in names)
        found.append(f"INSERT INTO {table.live}({', '.join(map(quoted, names))}) VALUES ({values})")
    columns = {name for mask in table.masks(connection) for name in table.masked(mask)}
    if columns:
        values = ", ".join(f"{quoted(name)} = NULL" for name in sorted(columns))
        found.append(f"UPDATE {table.live} SET {values}")
    if table.classes(Action.DELETE):
        found.append(f"DELETE FROM {table.live}")
    return found
