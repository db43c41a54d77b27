"""Which other tables an act reaches: by the catalog of one database, which is only read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import statement_text

_DELETES, _NULLS, _INHERITS = "c", ("n", "d"), "inherits"
_ON_DELETE = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """One table of the catalog; `triggers` are those of users."""

    table: TableName
    kind: str
    triggers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReachedTable:
    """A table that an act reaches by itself: what is done to it, and by which way."""

    table: TableName
    kind: str
    way: str


@dataclass(frozen=True, slots=True)
class DroppedThing:
    """A table, or one column of it, that DROP … CASCADE takes along."""

    table: TableName
    kind: str
    column: str | None


class Cascades:
    """Foreign keys, inheritance and dependencies of one database, as they are now."""

    def __init__(self, connection: Connection) -> None:
        """Read tables and links. Raises as `server_faults` says."""
        self._connection = connection
        self._tables = {
            row[0]: CatalogTable(TableName(row[1], row[2]), row[3], tuple(row[4]))
            for row in self._rows("guard_relations")
        }
        self._links: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for child, parent, how in self._rows("guard_links"):
            self._links[parent].append((child, how))

    def find(self, schema: str | None, name: str) -> int | None:
        """Return the OID of a table, None when there is none.

        Without a schema `public` is looked at first: the search_path of whoever runs it is not
        known.
        """
        found = [
            (table.table.schema != "public", oid)
            for oid, table in self._tables.items()
            if table.table.name == name and schema in (None, table.table.schema)
        ]
        return min(found)[1] if found else None

    def table(self, oid: int) -> CatalogTable:
        """Return a table by its OID."""
        return self._tables[oid]

    def deleted(self, oid: int, *, has_children: bool) -> Iterator[ReachedTable]:
        """Yield the tables that a DELETE reaches, nearest first, each once."""
        seen, waiting = {oid}, [oid]
        while waiting:
            parent = waiting.pop(0)
            for child, how in self._links[parent]:
                is_deleted = how == _DELETES or (how == _INHERITS and has_children)
                if child in seen or child not in self._tables or not (is_deleted or how in _NULLS):
                    continue
                seen.add(child)
                if is_deleted:
                    waiting.append(child)
                if how != _INHERITS:
                    kind = "delete" if is_deleted else "update"
                    words = _ON_DELETE[how]
                    yield self._reached(child, kind, f"ON DELETE {words} from {self._at(parent)}")

    def truncated(
        self, oid: int, *, has_cascade: bool, has_children: bool
    ) -> Iterator[ReachedTable]:
        """Yield the tables that a TRUNCATE reaches, nearest first, each once."""
        seen, waiting = {oid}, [oid]
        while waiting:
            parent = waiting.pop(0)
            for child, how in self._links[parent]:
                is_reached = has_children if how == _INHERITS else has_cascade
                if child in seen or child not in self._tables or not is_reached:
                    continue
                seen.add(child)
                waiting.append(child)
                word = "part of" if how == _INHERITS else "TRUNCATE CASCADE from"
                yield self._reached(child, "truncate", f"{word} {self._at(parent)}")

    def dropped(self, class_name: str, schema: str | None, name: str) -> list[DroppedThing]:
        """Return what DROP … CASCADE of an object takes along, itself included."""
        values = {"class": class_name, "schema": schema, "name": name}
        rows = self._rows("guard_drop", values)
        return [DroppedThing(TableName(row[0], row[1]), row[2], row[3]) for row in rows]

    def may_write(self, schema: str | None, name: str) -> bool:
        """Return whether a function of this name can write rows, or is not there at all."""
        [(is_writing, is_known)] = self._rows("guard_functions", {"schema": schema, "name": name})
        return bool(is_writing or not is_known)

    def _reached(self, oid: int, kind: str, way: str) -> ReachedTable:
        return ReachedTable(self._tables[oid].table, kind, way)

    def _at(self, oid: int) -> str:
        return str(self._tables[oid].table)

    def _rows(self, name: str, values: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with server_faults("cannot read the catalog"):
            return self._connection.execute(statement_text(name).encode(), values).fetchall()
