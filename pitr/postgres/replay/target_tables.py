"""The tables of a database as its catalogs at the target have them: names in, files out.

Names are resolved there and never in the live database, where the table may be gone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg

from pitr.errors import TableUnknown, UsageError
from pitr.postgres.statement.pattern import TablePattern

_SQL = files("pitr.sql").joinpath("postgres")
_NAME_PART = re.compile(r'"((?:[^"]|"")+)"|([^".\s]+)')
_NEAREST_MAX = 3
_KINDS = {
    "v": ("is a view", "Name the tables that it reads."),
    "f": ("is a foreign table", "Its rows are in another server; nothing of them is archived."),
}
_PERSISTENCES = {
    "u": "is unlogged, and nothing of it is in the WAL",
    "t": "is temporary, and nothing of it is in the WAL",
}

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class KinWish:
    """Whether tables come along whose rows belong to those of the chosen ones by foreign keys."""

    parents: bool = False
    children: bool = False


@dataclass(frozen=True, slots=True)
class TargetRelation:
    """A relation as the catalogs at the target have it.

    `kind` is relkind. `file` is its tablespace and file number, None when it has no file. `parent`
    is what it is a partition of.
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    file: tuple[int, int] | None = None
    parent: int | None = None

    @property
    def full_name(self) -> str:
        """Return `schema.name` as a user reads it."""
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Return the name for a statement."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def split_name(text: str) -> tuple[str, ...]:
    """Return the parts of a name as typed: unquoted ones in lower case. Raises UsageError."""
    parts, at = [], 0
    while True:
        match = _NAME_PART.match(text, at)
        if match is None:
            break
        parts.append(match[1].replace('""', '"') if match[1] else match[2].lower())
        at = match.end()
        if at == len(text) and len(parts) <= 3:
            return tuple(parts)
        if text[at : at + 1] != ".":
            break
        at += 1
    raise UsageError(
        f"this is no name of a table: {text!r}",
        hint="Write 'orders', 'shop.orders' or 'database.shop.orders', with double quotes where "
        "SQL needs them.",
    )


def named_relations(connection: Connection) -> list[TargetRelation]:
    """Return what a user can name: tables, sequences, views."""
    rows = connection.execute(statement_of("named_relations")).fetchall()
    return [
        TargetRelation(oid, schema, name, kind, persistence, None, parent)
        for oid, schema, name, kind, persistence, parent in rows
    ]


def catalog_files(connection: Connection) -> set[tuple[int, int]]:
    """Return the files of the system catalogs, as (tablespace, number)."""
    return set(connection.execute(statement_of("catalog_files")).fetchall())


def needed_relations(
    connection: Connection, tables: Sequence[TargetRelation], kin: KinWish
) -> list[TargetRelation]:
    """Return the tables with all that they need to be usable, and their kin."""
    parameters = {
        "tables": [table.oid for table in tables],
        "with_parents": kin.parents,
        "with_children": kin.children,
    }
    rows = connection.execute(statement_of("needed_relations"), parameters).fetchall()
    return [
        TargetRelation(
            oid, schema, name, kind, persistence, (tablespace, number) if number else None
        )
        for oid, schema, name, kind, persistence, tablespace, number in rows
    ]


def owning_table(connection: Connection, file: tuple[int, int]) -> TargetRelation:
    """Return the table that a file is of: its own, or that of its TOAST data or of an index."""
    tablespace, number = file
    values = {"tablespace": tablespace, "number": number}
    row = connection.execute(statement_of("owning_table"), values).fetchone()
    if row is None:
        raise UsageError(
            f"file {number} is of no table at the target",
            hint="Report this, with the statement.",
        )
    return TargetRelation(*row)


def tablespaces(connection: Connection) -> list[int]:
    """Return the OIDs of the tablespaces that users made."""
    statement = "SELECT oid FROM pg_tablespace WHERE oid >= 16384"
    return [oid for (oid,) in connection.execute(statement).fetchall()]


def search_path(connection: Connection) -> list[str]:
    """Return the schemas that sessions in this database look names up in, as its settings say."""
    with connection.transaction():
        connection.execute(statement_of("use_search_path"))
        found = connection.execute("SELECT unnest(current_schemas(false))::text").fetchall()
    return [schema for (schema,) in found]


def choose_tables(
    known: Sequence[TargetRelation], names: Sequence[str], path: Sequence[str]
) -> list[TargetRelation]:
    """Return the tables of these names and patterns, each once, in the order of the names.

    Without a schema it is the first along `path`, as sessions of the database find it, or the only
    one of that name. A pattern means tables whose rows can be recovered, without the partitions of
    those that it means too. Raises TableUnknown, and UsageError for a name of several tables or of
    something that cannot be recovered.
    """
    chosen: dict[int, TargetRelation] = {}
    for text in names:
        pattern = TablePattern.parse(text)
        found = [one for one in known if pattern.names(one.schema, one.name)]
        if pattern.schema is None:
            found = _first_along(path, found) or found
        if pattern.is_wild:
            found = _recoverable(found)
        elif len(found) > 1:
            raise _ambiguous(found)
        if not found:
            raise unknown_table(known, text, split_name(text)[-1])
        for table in found:
            require_recoverable(table)
        chosen |= {table.oid: table for table in found}
    return list(chosen.values())


def _first_along(path: Sequence[str], found: Sequence[TargetRelation]) -> list[TargetRelation]:
    """Return of each name the table in the first schema of the path; none that is in no schema."""
    first: dict[str, TargetRelation] = {}
    for schema in path:
        for table in found:
            if table.schema == schema:
                first.setdefault(table.name, table)
    return list(first.values())


def _recoverable(found: Sequence[TargetRelation]) -> list[TargetRelation]:
    oids = {table.oid for table in found}
    return [
        table
        for table in found
        if table.kind in "rpm" and table.persistence == "p" and table.parent not in oids
    ]


def _ambiguous(found: Sequence[TargetRelation]) -> UsageError:
    return UsageError(
        f"several tables are called {found[0].name}",
        detail=f"At the target there are {', '.join(table.full_name for table in found)}.",
        hint=f"Say which, as in '-t {found[0].full_name}'.",
    )


def unknown_table(known: Sequence[TargetRelation], text: str, name: str) -> TableUnknown:
    """Return the error for a name that no table at the target has, with those like it."""
    names = {table.full_name for table in known} | {table.name for table in known}
    near = difflib.get_close_matches(text, names, _NEAREST_MAX) or difflib.get_close_matches(
        name, names, _NEAREST_MAX
    )
    return TableUnknown(
        f"there is no table {text} at the target",
        table=text,
        detail=f"Names like it: {', '.join(near)}." if near else f"It has {len(known)} tables.",
        hint="'pitr log' shows when tables came and went; choose another name or another target.",
    )


def require_recoverable(table: TargetRelation) -> None:
    """Raise UsageError for a relation whose rows are not in its cluster's files and WAL."""
    if table.kind in _KINDS:
        seen, hint = _KINDS[table.kind]
        raise UsageError(f"{table.full_name} {seen}", hint=hint)
    if table.persistence in _PERSISTENCES:
        raise UsageError(
            f"{table.full_name} {_PERSISTENCES[table.persistence]}",
            hint="Its rows cannot be recovered from any physical backup.",
        )


def statement_of(name: str) -> str:
    """Return the statement in sql/postgres/<name>.sql."""
    return _SQL.joinpath(f"{name}.sql").read_text()
