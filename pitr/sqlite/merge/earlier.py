"""Rows that an earlier merge of the same recovery brought back: others have changed them since.

By the rules such a row is `key_reused`, since the damage had removed it and another content stands
there now. What that merge left in its record tells it from a row that only has the same key.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw

from pitr.sqlite.diff.states import States
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.past.replay import attach
from pitr.sqlite.past.tables import find_table
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.row_class import RowClass

_EARLIER = "earlier"


def attach_earlier(states: States, after: Path) -> str | None:
    """Attach the rows that a merge left; return the schema, None when they cannot be read."""
    with suppress(apsw.Error):
        attach(states.connection, after, _EARLIER, writable=False)
        return _EARLIER
    return None


def was_brought_back(
    connection: apsw.Connection, table: PlannedTable, schema: str | None
) -> str | None:
    """Return the condition that `r` has the key of a row that the merge wrote; None: of none."""
    if schema is None or table.keyless or not table.counts.get(RowClass.KEY_REUSED):
        return None
    with suppress(apsw.Error):
        found = find_table(connection, schema, table.name)
        if found is not None and set(table.key) <= set(found.plain_columns):
            written = f"{schema}.{quoted(found.name)}"
            return (
                f"({table.row_key_of()}) IN (SELECT {table.row_key_of('k')} FROM {table.rows} AS k"
                f" JOIN {written} AS e ON {table.match('k', 'main', 'e')}"
                f" WHERE k.class = '{RowClass.KEY_REUSED}')"
            )
    return None
