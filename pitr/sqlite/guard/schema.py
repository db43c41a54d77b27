"""The schema of a live database as statements, read without leaving a trace in it."""

from __future__ import annotations

from pathlib import Path

import apsw

from pitr.errors import SourceUnusable
from pitr.sqlite.past.live_reading import LiveUnreadable, live_access
from pitr.sqlite.past.replay import connect
from pitr.sqlite.statement.faults import sqlite_says

_ORDER = (
    "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    " ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 WHEN 'view' THEN 3 ELSE 4 END,"
    " rowid"
)


def read_schema(path: Path) -> list[str]:
    """Return the statements that make the schema, tables first. Raises SourceUnusable."""
    try:
        access = live_access(path)
        connection = connect(
            f"{path.absolute().as_uri()}?{access.parameters}", writable_others=False
        )
        try:
            return [str(row[0]) for row in connection.execute(_ORDER)]
        finally:
            connection.close(True)
    except (LiveUnreadable, apsw.Error) as error:
        detail = sqlite_says(error) if isinstance(error, apsw.Error) else str(error)
        raise SourceUnusable(
            f"the schema of {path} cannot be read",
            detail=detail,
            hint="'pitr guard check --engine sqlite' looks at the SQL alone.",
        ) from None
