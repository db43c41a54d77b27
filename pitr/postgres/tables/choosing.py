"""The rows that a user chooses, as the tables at the target understand the condition."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from pglast import ast, parse_sql
from pglast.stream import RawStream

from pitr.errors import UsageError
from pitr.postgres.statement.condition import Condition, parse_condition
from pitr.postgres.statement.reading import names_of, nodes_of
from pitr.postgres.tables.name import TableName, quoted
from pitr.postgres.tables.session import Connection, run, set_local, value_of

_VIEW = "pg_temp.pitr_condition"


def choose_rows(
    connection: Connection, tables: Sequence[TableName], text: str, path: Sequence[str]
) -> str:
    """Return a condition as the server understands it: every name and operator with its schema.

    Names in it are looked up along `path`. Nothing is left of the question. Raises UsageError for
    what is no condition on the rows of each table, or means different things in them.
    """
    condition = parse_condition(text)
    names_of(_expression(condition.normal))  # refuses what reaches outside
    found = {str(table): _understood(connection, table, condition, path) for table in tables}
    if len(set(found.values())) > 1:
        raise UsageError(
            "the condition means different things in the tables",
            detail="; ".join(f"{table}: {meaning}" for table, meaning in found.items()) + ".",
            hint="Restore them one by one.",
        )
    return next(iter(found.values()))


def _understood(
    connection: Connection, table: TableName, condition: Condition, path: Sequence[str]
) -> str:
    """Ask the server for its reading of a condition, which it writes down for a view."""
    run(connection, "BEGIN")
    try:
        set_local(connection, {"search_path": ", ".join(quoted(schema) for schema in path)})
        run(
            connection,
            f"CREATE VIEW {_VIEW} AS SELECT 1 AS one FROM ONLY {table.sql}"
            f" WHERE {condition.normal}",
        )
        set_local(connection, {"search_path": "pg_catalog"})
        view = value_of(connection, f"SELECT pg_get_viewdef('{_VIEW}'::regclass)")
    except psycopg.Error as error:
        raise UsageError(
            f"the condition does not fit {table}",
            detail=str(error).strip(),
            hint="Give what could stand after WHERE: one condition on the columns of the table.",
        ) from None
    finally:
        run(connection, "ROLLBACK")
    understood = _where(str(view))
    for node in nodes_of(understood):
        if isinstance(node, ast.ColumnRef) and node.fields is not None:
            *_, last = node.fields
            if isinstance(last, ast.String):  # a column; `orders.*` is the row itself
                node.fields = (last,)
    return str(RawStream()(understood))


def _expression(text: str) -> ast.Node:
    return _where(f"SELECT WHERE {text}")


def _where(statement: str) -> ast.Node:
    select = parse_sql(statement)[0].stmt
    assert isinstance(select, ast.SelectStmt)
    assert select.whereClause is not None
    return select.whereClause
