"""Read back what a merge wrote, before it commits: no error is not yet success.

A trigger may drop a row without an error, or alter it. A column that a trigger of the table writes
itself, such as a time of the last change, is the trigger's: there its value stands, and is told.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from pitr.diff.sql import SQLITE
from pitr.sqlite.diff.joining import balanced
from pitr.sqlite.merge.plan import PreparedPlan
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.merge.undo import SAVED, WRITTEN
from pitr.sqlite.merge.writing import suppressed
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.row_class import Action


def verify_written(connection: apsw.Connection, prepared: PreparedPlan) -> tuple[str, ...]:
    """Compare the rows that were written, as `UndoImages.save_after` has them, with the plan.

    Return warnings. Raises DatabaseRefused when a row is missing, or differs in a column that no
    trigger owns.
    """
    warnings: list[str] = []
    for table in prepared.tables:
        owned = prepared.effects[folded(table.name)].owned_columns
        if table.keyless:
            warnings += _verify_copies(connection, table, owned)
            continue
        if not table.classes(Action.INSERT, Action.UPDATE):
            continue
        if not owned and _is_all_there(connection, table):
            continue
        written = (
            (Action.INSERT, table.insert_columns),
            (Action.UPDATE, table.definition.plain_columns),
        )
        for action, columns in written:
            if table.classes(action):
                warnings += _verify(connection, table, action, columns, owned)
    return tuple(warnings)


def _verify_copies(connection: apsw.Connection, table: PlannedTable, owned: set[str]) -> list[str]:
    """Compare how many rows of these contents there are with how many there were."""
    if not table.classes():
        return []
    name = quoted(table.name)
    was, now = (
        int(connection.execute(f"SELECT count(*) FROM {schema}.{name}").get)
        for schema in (SAVED, WRITTEN)
    )
    came = table.count(connection, table.acting(Action.INSERT))
    if now - was == came - table.count(connection, table.acting(Action.DELETE)):
        return []
    if not owned:
        raise suppressed(connection, table, table.acting())
    return [
        f"{table.name}: triggers have altered rows that were written; no key names them, so an undo"
        " will not find those"
    ]


def _is_all_there(connection: apsw.Connection, table: PlannedTable) -> bool:
    """Return whether as many rows as planned were written and all are equal to what they should be.

    Two ordered passes, three times as fast as looking up each row; False only says that each has
    to be looked at.
    """
    columns = table.definition.plain_columns
    if not table.classes(Action.UPDATE):
        columns = table.insert_columns
    keys = [f"{quoted(name)} AS key_{at}" for at, name in enumerate(table.key)]
    names = [f'{quoted(name)} AS "pitr {at}"' for at, name in enumerate(columns)]
    written = f"SELECT {', '.join([*keys, *names])} FROM {WRITTEN}.{quoted(table.name)}"
    becoming = [f"x.{quoted(_name(table, name))}" for name in columns]
    equal = [SQLITE.equal(f'r."pitr {at}"', one) for at, one in enumerate(becoming)]
    found = connection.execute(
        f"SELECT count(*) FROM ({written}) AS r {table.becoming()} WHERE {balanced(equal, 'AND')}"
    ).get
    return int(found) == table.count(connection, table.acting(Action.INSERT, Action.UPDATE))


def _name(table: PlannedTable, column: str) -> str:
    """Return what `x` calls a column."""
    return column if table.is_rehearsed else table.before_names.get(column, column)


def _verify(
    connection: apsw.Connection,
    table: PlannedTable,
    action: Action,
    columns: Sequence[str],
    owned: set[str],
) -> list[str]:
    kept = [name for name in columns if folded(name) not in owned]
    same = _found(table, kept)
    wrong = f"{table.acting(action)} AND NOT {same}"
    if table.count(connection, wrong):
        raise suppressed(connection, table, wrong)
    if len(kept) == len(columns):
        return []
    altered = table.count(connection, f"{table.acting(action)} AND NOT {_found(table, columns)}")
    if not altered:
        return []
    names = ", ".join(name for name in columns if folded(name) in owned)
    return [f"{table.name}: triggers have set {names} in {altered} rows that were written"]


def _found(table: PlannedTable, columns: Sequence[str]) -> str:
    """Return the condition that there is a live row of the key with the values to be had."""
    equal = [
        SQLITE.equal(f"l.{quoted(name)}", f"x.{quoted(_name(table, name))}") for name in columns
    ]
    match = table.match("r", "main", "l")
    return (
        f"EXISTS (SELECT 1 FROM (SELECT 1) {table.becoming()} JOIN {table.live} AS l ON {match}"
        f" WHERE {balanced(equal, 'AND') if equal else 'TRUE'})"
    )
