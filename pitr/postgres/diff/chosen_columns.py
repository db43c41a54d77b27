"""The columns by which alone tables are to be compared and set back, from what a user names."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.errors import UsageError
from pitr.postgres.replay.target_tables import split_name
from pitr.postgres.tables.definition import Table
from pitr.postgres.tables.name import TableName


def choose_columns(
    tables: Sequence[Table], wanted: Sequence[str]
) -> dict[TableName, tuple[str, ...]]:
    """Return the columns that were named, by table, in the order of the table at the target.

    `COLUMN` is one of every table, `TABLE.COLUMN` or `SCHEMA.TABLE.COLUMN` of one; a table of which
    none is named has no entry. Raises UsageError for a column that is not there, that is computed
    from others, and for a table whose rows no key names: there a row is its content.
    """
    found: dict[TableName, set[str]] = {}
    for text in wanted:
        *place, column = split_name(text)
        owners = [table for table in tables if _is_named(table.name, place)]
        if not owners:
            raise UsageError(
                f"--columns {text} names no table that is restored",
                detail=f"Restored are {', '.join(str(table.name) for table in tables)}.",
                hint="Name columns as in '--columns price', of one table '--columns orders.price'.",
            )
        for table in owners:
            _check_column(table, column)
            found.setdefault(table.name, set()).add(column)
    for table in tables:
        if table.name in found and not table.row_keys():
            raise UsageError(
                f"no key names the rows of {table.name}",
                detail="They are told apart by all of their content; no column stands by itself.",
                hint="Restore without --columns, or name columns of other tables: TABLE.COLUMN.",
            )
    return {
        table.name: tuple(c.name for c in table.plain_columns if c.name in found[table.name])
        for table in tables
        if table.name in found
    }


def _is_named(name: TableName, place: Sequence[str]) -> bool:
    return (name.schema, name.name)[2 - len(place) :] == tuple(place)


def _check_column(table: Table, name: str) -> None:
    column = table.find(name)
    if column is None:
        known = ", ".join(column.name for column in table.plain_columns)
        raise UsageError(
            f"{table.name} had no column {name}",
            detail=f"It had: {known}.",
            hint="Name columns as in '--columns price,status', of one table 'orders.price'.",
        )
    if column.is_generated:
        raise UsageError(
            f"{table.name}.{name} cannot be chosen by itself",
            detail="It is computed from other columns.",
            hint="Name the columns that it is computed from.",
        )
