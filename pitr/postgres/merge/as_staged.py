"""Rows that are to be put in exactly as they are staged: x is read out of b, nothing is rehearsed.

So it is where a table is what it was, only rows are lost, and none is left that the table of today
does not take. The types are those of then, and know the values; what NOT NULL and CHECK hold of
them PostgreSQL is asked. Where anything is not so, `rehearsal` writes the rows into a table, and
says of each what is against it.
"""

from __future__ import annotations

from dataclasses import replace

from psycopg import errors

from pitr.postgres.diff.alignment import BEFORE, SharedColumn
from pitr.postgres.diff.classified import balanced
from pitr.postgres.diff.copying import CopiedRows, copied_rows
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, pin, run, use_own_path, value_of
from pitr.vocabulary.row_class import Action

# A CHECK that fails on a row, or asks for what only a row of a table has, such as its tableoid.
_CANNOT_TELL = (
    errors.DataError, errors.IntegrityError, errors.NotSupportedError, errors.ProgrammingError,
)  # fmt: skip


def as_staged(connection: Connection, table: PlannedTable) -> PlannedTable | None:
    """Return the table with x read out of b, None where its rows have to be rehearsed.

    Drops the rows of b that the plan does not write. Raises psycopg.Error.
    """
    if not _is_unaltered(table):
        return None
    staged = _drop_unrelated(connection, table)
    table = replace(table, is_as_staged=True, staged=staged)
    return table if _are_taken(connection, table) else None


def _is_unaltered(table: PlannedTable) -> bool:
    """Return whether all that is written is inserted, with the values and types that it had."""
    inserted, aligned = table.classes(Action.INSERT), table.aligned
    if table.keyless or table.values or aligned.is_wide:
        return False
    if table.live.kind == "p":  # what single partitions ask may name what only a table has
        return False
    if not inserted or any(n for c, n in table.classified.counts.items() if c not in inserted):
        return False
    shared = {column.name: column for column in (*aligned.key, *aligned.columns)}
    return all(
        column.name in shared and _has_its_type(shared[column.name])
        for column in table.live.columns
    )


def _has_its_type(column: SharedColumn) -> bool:
    own = column.own
    is_same = column.sides[BEFORE].type == own.type and column.carried == own.carried
    return is_same and own.is_read_as_written


def _drop_unrelated(connection: Connection, table: PlannedTable) -> CopiedRows | None:
    """Drop the rows of b that are not written; return what is left, where that can be told."""
    aligned, staged = table.aligned, table.classified.staged
    if staged is not None and staged.rows == sum(table.classified.counts.values()):
        return staged  # no row is in r that is not in b: all that is written is inserted
    size = range(len(aligned.key))
    match = aligned.agree(
        [f"({aligned.typed_key(at, f's.k{at}')})" for at in size], [f"r.key_{at}" for at in size]
    )
    dropped = copied_rows(
        connection,
        f"DELETE FROM {aligned.staged(BEFORE)} AS s WHERE NOT EXISTS"
        f" (SELECT FROM {table.rows} AS r WHERE {match}) RETURNING {table.staged_taken}",
    )
    return staged.without(dropped) if staged is not None else None


def _are_taken(connection: Connection, table: PlannedTable) -> bool:
    """Return whether NOT NULL and CHECK of today hold of every row."""
    live = table.live
    tests = [f"{quoted(column.name)} IS NOT NULL" for column in live.columns if column.not_null]
    tests += [f"({condition}) IS NOT FALSE" for _, condition in live.checks]
    if not tests:
        return True
    # The conditions name the columns of the table alone, and may name the table itself.
    refused = f"SELECT FROM {table.become} AS {quoted(live.name.name)}"
    refused += f" WHERE NOT {balanced(tests, 'AND')}"
    run(connection, "SAVEPOINT pitr_staged")
    try:
        use_own_path(connection)  # what a CHECK calls may rest on that of the application
        is_taken = not value_of(connection, f"SELECT EXISTS ({refused})")
    except _CANNOT_TELL:
        is_taken = False
    run(connection, "ROLLBACK TO SAVEPOINT pitr_staged")
    run(connection, "RELEASE SAVEPOINT pitr_staged")
    pin(connection)
    return is_taken
