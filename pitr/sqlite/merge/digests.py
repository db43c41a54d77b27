"""Digests of the rows of a plan: as they were, what is to be done, and as they are in live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from pitr.merge.fingerprint import rows_digest
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.row_class import Action, RowClass

_TOUCHED = (Action.INSERT, Action.UPDATE, Action.DELETE, Action.CONFLICT)
_WITHOUT_BEFORE = (RowClass.BOGUS_INSERT, RowClass.BOGUS_TOUCHED)
_WITHOUT_LIVE = (RowClass.LOST, RowClass.DELETED_SINCE)


def planned_digest(connection: apsw.Connection, table: PlannedTable) -> str:
    """Return the digest of the rows that the plan touches: key, class, mask, reason, and `b`."""
    touched = table.classes(*_TOUCHED)
    # What is read here of each of a million rows is what it costs: class and mask of lost rows are
    # always the same, and the key need not come twice.
    verdict = ["r.reason"] if touched == [RowClass.LOST] else ["r.class", "r.mask", "r.reason"]
    taken = [*table.key_values().split(", "), *verdict]
    if table.keyless:
        joined, images = "", ["r.copies"]
    else:
        outer = "LEFT " if set(touched) & set(_WITHOUT_BEFORE) else ""
        joined = f"{outer}{table.before_row()}"
        known = set(table.key) - set(table.columns)
        images = [table.was(name) for name in table.insert_columns if name not in known]
    return _digest(connection, table, taken, images, joined, touched)


def live_digest(connection: apsw.Connection, table: PlannedTable) -> str:
    """Return the digest of the live rows that the plan touches, with all that they hold."""
    if table.created_by is not None:
        return ""
    if table.keyless:
        return _copies_digest(connection, table)
    touched = [c for c in table.classes(*_TOUCHED) if c not in _WITHOUT_LIVE]
    if not touched:
        return ""
    images = [f"l.{quoted(name)}" for name in table.definition.plain_columns]
    keys = table.key_values().split(", ")
    return _digest(connection, table, keys, images, f"LEFT {table.live_row()}", touched)


def _copies_digest(connection: apsw.Connection, table: PlannedTable) -> str:
    """Return the digest of how often live has each row that the plan touches."""
    if not table.classes(*_TOUCHED):
        return ""
    rows = connection.execute(
        f"SELECT r.rowid, count(l.pitr_found) FROM {table.rows} AS r"
        f" LEFT JOIN (SELECT 1 AS pitr_found, * FROM {table.live}) AS l ON {table.same_content()}"
        " GROUP BY r.rowid ORDER BY r.rowid"
    )
    return rows_digest(rows)


def _digest(
    connection: apsw.Connection,
    table: PlannedTable,
    plain: Sequence[str],
    images: Sequence[str],
    joined: str,
    classes: Sequence[RowClass],
) -> str:
    names = ", ".join(f"'{row_class}'" for row_class in classes) or "NULL"
    ending = f" FROM {table.rows} AS r {joined} WHERE r.class IN ({names})"
    ending += f" ORDER BY {table.row_key_of()}"

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        return connection.execute(f"SELECT {', '.join(columns)}{ending}")

    try:
        return f"{','.join(classes)}:{rows_digest(rows([*plain, *images]))}"
    except UnicodeDecodeError:
        # Text that is no UTF-8 cannot come out as text: its bytes can.
        values = [text for one in (*plain, *images) for text in (f"typeof({one})", _blob(one))]
        return f"{','.join(classes)}:{rows_digest(rows(values))}"


def _blob(expression: str) -> str:
    return f"CAST({expression} AS BLOB)"
