"""Temporary databases beside the live one, for what a plan has to try out or to copy."""

from __future__ import annotations

import apsw

from pitr.sqlite.statement.tokens import quoted


def make_fresh(connection: apsw.Connection, schema: str) -> None:
    """Attach an empty temporary database, or empty the one that has the name.

    Inside a transaction too. It is a file without a name, and is gone with the connection. Where
    the connection may only read, it is in memory: SQLite lets it write nothing else.
    """
    attached = {str(row[1]) for row in connection.execute("PRAGMA database_list")}
    if schema not in attached:
        place = f"file:{schema}?mode=memory" if connection.readonly("main") else ""
        connection.execute(f"ATTACH ? AS {schema}", (place,))
        return
    # A virtual table takes its shadow tables with it.
    names = connection.execute(
        f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'"
        " AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY rootpage > 0"
    ).fetchall()
    for (name,) in names:
        connection.execute(f"DROP TABLE IF EXISTS {schema}.{quoted(str(name))}")
