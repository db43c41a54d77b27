"""Digests of the rows of a plan, made where they are: what is to be done, and live as it is."""

from __future__ import annotations

from pitr.postgres.diff.classified import live_contents
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.tables.session import Connection, rows_of
from pitr.vocabulary.row_class import Action

_TOUCHED = (Action.INSERT, Action.UPDATE, Action.DELETE, Action.CONFLICT)


def planned_digest(connection: Connection, table: PlannedTable) -> str:
    """Return the digest of the rows that the plan touches: key, class, mask, reason, and `b`."""
    taken = [f"r.key_{at}" for at in range(len(table.classified.key))]
    taken += ["r.class", "r.mask", "r.reason"]
    joined = ""
    if table.keyless:
        taken.append("r.copies")
    else:
        taken += [f"b.c{at}" for at in range(len(table.classified.columns))]
        joined = f"LEFT {table.before_row()}"
    return _digest(connection, taken, f"{table.rows} AS r {joined}", _touched(table))


def live_digest(connection: Connection, table: PlannedTable) -> str:
    """Return the digest of the live rows that the plan touches, with all that they hold."""
    if table.is_missing:
        return ""
    if table.keyless:
        width = range(len(table.classified.key))
        same = " AND ".join(f"l.c{at} IS NOT DISTINCT FROM r.key_{at}" for at in width)
        source = f"{table.rows} AS r LEFT JOIN {live_contents(table.aligned, None)} ON {same}"
        return _digest(connection, ["r.n", "l.copies"], source, _touched(table))
    images = [column.image("l") for column in table.live.plain_columns]
    return _digest(
        connection, ["r.n", *images], f"{table.rows} AS r LEFT {table.live_row()}", _touched(table)
    )


def _touched(table: PlannedTable) -> str:
    names = ", ".join(f"'{c}'" for c in table.classes(*_TOUCHED)) or "NULL"
    return f"r.class IN ({names})"


def _digest(connection: Connection, taken: list[str], source: str, condition: str) -> str:
    """Return a digest of rows in any order: a count, and two sums of hashes of 64 bits."""
    row = f'(ROW({", ".join(taken)})::text) COLLATE "C"'
    ((count, one, two),) = rows_of(
        connection,
        "SELECT count(*), sum(one)::text, sum(two)::text FROM"
        f" (SELECT hashtextextended({row}, 2) AS one, hashtextextended({row}, 3) AS two"
        f" FROM {source} WHERE {condition}) AS hashed",
    )
    return f"{count}:{one}:{two}"
