"""Read back what a merge wrote, before it commits: no error is not yet success.

A trigger may drop a row without an error, or alter it. A column that a trigger of the table sets
itself, such as a time of the last change, is the trigger's: there its value stands, and is told.
"""

from __future__ import annotations

from collections.abc import Sequence

from pitr.postgres.diff.copying import copied_rows
from pitr.postgres.merge.images import Images
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.writability import owned_columns
from pitr.postgres.merge.writing import suppressed
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, rows_of, value_of
from pitr.postgres.wal.page import PAGE_BYTES
from pitr.vocabulary.row_class import Action


def verify_written(
    connection: Connection, tables: Sequence[PlannedTable], images: Images
) -> list[str]:
    """Compare the rows that were written with the plan; return warnings.

    Rows that are read back whole for that are saved in passing. Raises DatabaseRefused when a row
    is missing, is still there, or differs in a column that no trigger owns.
    """
    warnings: list[str] = []
    for table in tables:
        if table.keyless or _is_saved_exact(connection, table, images):
            continue
        for action in (Action.INSERT, Action.UPDATE):
            if table.classes(action):
                warnings += _verify(connection, table, action)
        if table.classes(Action.DELETE):
            left = f"{table.acting(Action.DELETE)} AND EXISTS ({_live(table, [])})"
            if table.count(connection, left):
                raise suppressed(connection, table, left)
    return warnings


def _is_saved_exact(connection: Connection, table: PlannedTable, images: Images) -> bool:
    """Return whether all that was written are rows of `x`, live is these, and they are saved."""
    if not table.is_inserted_whole or not table.classes(Action.INSERT):
        return False
    if table.is_as_staged and images.takes_as_staged(table):
        # Compared by what they add up to: a join of whole rows takes three times as long.
        staged = table.staged or copied_rows(connection, table.staged_rows)
        written = f"{table.live.source} AS l WHERE {_is_written(connection, table)}"
        return images.save_if(table, written, lambda rows: rows == staged)
    source = f"{table.become} AS x JOIN {table.live.source} AS l ON {_key_of_both(table)}"
    source += f" WHERE {_equal(table, table.insert_columns)}"
    expected = table.written(Action.INSERT)
    return images.save_if(table, source, lambda rows: rows.rows == expected)


def _is_written(connection: Connection, table: PlannedTable) -> str:
    """Return the condition that a live row was put in: by its key, or by who put it in.

    The latter saves a join, where many rows lie in few pages. It also holds of what a trigger put
    in, and not of what one wrote within an EXCEPTION block: then the sums differ.
    """
    if table.live.size_bytes <= table.written(Action.INSERT) * PAGE_BYTES:
        one = f"(SELECT * FROM {table.rows} LIMIT 1) AS r {table.live_row()}"
        for (xid,) in rows_of(connection, f"SELECT l.xmin::text FROM {one}"):
            return f"l.xmin = '{xid}'::xid"
    return f"EXISTS (SELECT FROM {table.rows} AS r WHERE {table.same_key()})"


def _verify(connection: Connection, table: PlannedTable, action: Action) -> list[str]:
    """Return warnings of what triggers have set."""
    columns = list(table.insert_columns)
    if action is Action.UPDATE:
        columns = [column.name for column in table.live.plain_columns]
    owned = owned_columns(table, action)
    kept = [name for name in columns if name not in owned]
    if _count_same(connection, table, action, columns) == table.written(action):
        return []
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
    amount = f"{table.rows} AS r {table.becoming()} {table.live_row()}"
    condition = f"{table.acting(action)} AND {_equal(table, columns)}"
    return int(value_of(connection, f"SELECT count(*) FROM {amount} WHERE {condition}"))


def _live(table: PlannedTable, columns: Sequence[str]) -> str:
    """Return a SELECT of the live row of `r`, if it has the values that `x` has in columns."""
    joined = f"{table.live.source} AS l"
    if not columns:
        return f"SELECT FROM {joined} WHERE {table.same_key()}"
    # By the key as well: images alone would be compared each with each.
    x = f"JOIN {table.becomes} AS x ON {_key_of_both(table)} AND {_equal(table, columns)}"
    return f'SELECT FROM {joined} {x} WHERE {table.same_key()} AND x."pitr n" = r.n'


def _key_of_both(table: PlannedTable) -> str:
    """Return the condition that `x` has the key of `l`."""
    names = [quoted(column.name) for column in table.aligned.key]
    return table.aligned.agree([f"l.{name}" for name in names], [f"x.{name}" for name in names])


def _equal(table: PlannedTable, columns: Sequence[str]) -> str:
    """Return the condition that two rows of one definition are the same image in columns."""
    if not columns:
        return "TRUE"
    sides = [", ".join(f"{alias}.{quoted(name)}" for name in columns) for alias in ("l", "x")]
    return f"pg_catalog.record_image_eq(ROW({sides[0]}), ROW({sides[1]}))"
