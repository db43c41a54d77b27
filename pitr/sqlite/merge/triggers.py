"""What else a write of ours sets off: triggers, and what foreign keys do to other rows.

SQLite is asked: it compiles the statement, triggers and all, and tells an authorizer each table and
column that the program would write, and in which trigger. Nothing runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import apsw

from pitr.sqlite.past.tables import folded

_WRITES = {
    apsw.SQLITE_INSERT: "inserts into",
    apsw.SQLITE_UPDATE: "updates",
    apsw.SQLITE_DELETE: "deletes from",
}


@dataclass(frozen=True, slots=True)
class Effects:
    """What the statements would set off in the live database.

    `triggers` has the name of each that fires, and in words what it writes. `owned_columns` are the
    columns of the table itself that a trigger writes, by folded name.
    """

    triggers: dict[str, list[str]] = field(default_factory=dict)
    owned_columns: set[str] = field(default_factory=set)

    def add(self, others: Effects) -> None:
        """Take over what other statements on the same table set off."""
        for name, writes in others.triggers.items():
            known = self.triggers.setdefault(name, [])
            known += [one for one in writes if one not in known]
        self.owned_columns.update(others.owned_columns)


def effects_of(connection: apsw.Connection, table: str, statements: Sequence[str]) -> Effects:
    """Return what the statements on a table would set off. Raises apsw.SQLError.

    That error says that the table cannot be written here: a function of the application in a
    trigger or a CHECK, for example.
    """
    found = Effects()

    def note(
        operation: int, first: str | None, second: str | None, _schema: str | None, by: str | None
    ) -> int:
        if by is not None:
            _note_trigger(found, table, operation, first or "", second, by)
        return apsw.SQLITE_OK

    with _authorized(connection, note):
        for statement in statements:
            connection.execute(f"EXPLAIN {statement}").fetchall()
    return found


def _note_trigger(
    found: Effects, table: str, operation: int, first: str, second: str | None, by: str
) -> None:
    words = found.triggers.setdefault(by, [])
    verb = _WRITES.get(operation)
    if verb is None:
        return
    if f"{verb} {first}" not in words:
        words.append(f"{verb} {first}")
    if operation == apsw.SQLITE_UPDATE and folded(first) == folded(table) and second:
        found.owned_columns.add(folded(second))


@contextmanager
def _authorized(connection: apsw.Connection, authorizer: apsw.Authorizer) -> Iterator[None]:
    before = connection.authorizer
    connection.authorizer = authorizer
    try:
        yield
    finally:
        connection.authorizer = before
