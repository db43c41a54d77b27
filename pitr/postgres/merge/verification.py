"""Read back what a merge wrote, before it commits: no error is not yet success.

A trigger may drop a row without an error, or alter it. A column that a trigger of the table sets
itself, such as a time of the last change, is the trigger's: there its value stands, and is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.writability import owned_columns
from pitr.postgres.merge.writing import suppressed
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, value_of
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read back. `exact` names those `x` whose rows are live as they stand there."""

    warnings: tuple[str, ...]
    exact: frozenset[str]


def verify_written(connection: Connection, tables: Sequence[PlannedTable]) -> Verified:
    """Compare the rows that were written with the plan.

    Raises DatabaseRefused when a row is missing, is still there, or differs in a column that no
    trigger owns.
    """
    warnings: list[str] = []
    exact: set[str] = set()
    for table in tables:
        if table.keyless:
            continue
        for action in (Action.INSERT, Action.UPDATE):
            if table.classes(action):
                found = _verify(connection, table, action)
                warnings += found or []
                if found is None and _has_every_value(table):
                    exact.add(table.become)
        if table.classes(Action.DELETE):
            left = f"{table.acting(Action.DELETE)} AND EXISTS ({_live(table, [])})"
            if table.count(connection, left):
                raise suppressed(connection, table, left)
    return Verified(tuple(warnings), frozenset(exact))


def _has_every_value(table: PlannedTable) -> bool:
    """Return whether `x` has all that was written to the table, and a value for every column."""
    every = {column.name for column in table.live.plain_columns}
    return every == set(table.insert_columns) and table.is_inserted_whole


def _verify(connection: Connection, table: PlannedTable, action: Action) -> list[str] | None:
    """Return warnings; None when every row is what it should be in every column."""
    columns = list(table.insert_columns)
    if action is Action.UPDATE:
        columns = [column.name for column in table.live.plain_columns]
    owned = owned_columns(table, action)
    kept = [name for name in columns if name not in owned]
    if _count_same(connection, table, action, columns) == table.written(action):
        return None
    wrong = f"{table.acting(action)} AND NOT EXISTS ({_live(table, kept)})"
    if table.count(connection, wrong):
        raise suppressed(connection, table, wrong)
    altered = table.count(
        connection, f"{table.acting(action)} AND NOT EXISTS ({_live(table, columns)})"
    )
    if not altered:
        return []
    names = ", ".join(name for name in columns if name in owned)
    return [f"{table.name}: triggers have set {names} in {altered} rows that were written"]


def _count_same(
    connection: Connection, table: PlannedTable, action: Action, columns: Sequence[str]
) -> int:
    """Count the rows that are what they should be, by a join of all at once."""
    if table.is_inserted_whole:
        pairs = zip(table.aligned.key, table.aligned.key_operators, strict=True)
        key = " AND ".join(
            f"l.{quoted(column.name)} {operator} x.{quoted(column.name)}"
            for column, operator in pairs
        )
        joined = f"{table.become} AS x JOIN {table.live.source} AS l ON {key}"
        return int(
            value_of(connection, f"SELECT count(*) FROM {joined} WHERE {_equal(table, columns)}")
        )
    amount = f"{table.rows} AS r {table.becoming()} {table.live_row()}"
    condition = f"{table.acting(action)} AND {_equal(table, columns)}"
    return int(value_of(connection, f"SELECT count(*) FROM {amount} WHERE {condition}"))


def _live(table: PlannedTable, columns: Sequence[str]) -> str:
    """Return a SELECT of the live row of `r`, if it has the values that `x` has in columns."""
    joined = f"{table.live.source} AS l"
    if not columns:
        return f"SELECT FROM {joined} WHERE {table.same_key()}"
    x = f"JOIN {table.becomes} AS x ON {_equal(table, columns)}"
    return f'SELECT FROM {joined} {x} WHERE {table.same_key()} AND x."pitr n" = r.n'


def _equal(table: PlannedTable, columns: Sequence[str]) -> str:
    """Return the condition that two rows of one definition are the same image in columns."""
    if not columns:
        return "TRUE"
    sides = [", ".join(f"{alias}.{quoted(name)}" for name in columns) for alias in ("l", "x")]
    return f"pg_catalog.record_image_eq(ROW({sides[0]}), ROW({sides[1]}))"
