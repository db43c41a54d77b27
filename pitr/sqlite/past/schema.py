"""The schema of one commit, read straight from the b-tree of sqlite_schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pitr.sqlite.file import page as pages
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import damaged
from pitr.sqlite.past.definition import TableDefinition, parse_table
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.virtual import SHADOW_SUFFIXES, read_virtual

SCHEMA_ROOT = 1


@dataclass(frozen=True, slots=True)
class SchemaEntry:
    """One row of sqlite_schema. `root` is 0 for views, triggers and virtual tables."""

    rowid: int
    kind: str
    name: str
    table: str
    root: int
    sql: str | None

    @property
    def definition(self) -> TableDefinition:
        """Return what the statement of a table says. Raises CorruptDatabase."""
        return parse_table(self.sql or "")

    @property
    def module(self) -> str | None:
        """Return the module of a virtual table, None for anything else."""
        if self.kind != "table" or self.root or not self.sql:
            return None
        try:
            virtual = read_virtual(self.sql)
        except (StopIteration, IndexError):  # a damaged text, of which nothing can be said
            return None
        return virtual.module if virtual else None


class Schema:
    """All of sqlite_schema at one commit."""

    def __init__(self, entries: list[SchemaEntry], cookie: int) -> None:
        self.entries = entries
        self.cookie = cookie
        # By folded name: tables, virtual ones included.
        self.tables = {folded(entry.name): entry for entry in entries if entry.kind == "table"}

    @classmethod
    def read(cls, snapshot: Snapshot) -> Schema:
        """Read it. Raises CorruptDatabase. A database of no pages has an empty schema."""
        if not snapshot.page_count:
            return cls([], 0)
        entries = []
        for cell, page_number in snapshot.cells(SCHEMA_ROOT):
            payload = snapshot.payload(cell)
            record = pages.decode_record(payload, page_number, snapshot.header.encoding)
            entries.append(_entry(cell.rowid or 0, record, page_number))
        entries.sort(key=lambda entry: entry.rowid)
        return cls(entries, snapshot.header.schema_cookie)

    @property
    def roots(self) -> set[int]:
        """Return the root of every b-tree but sqlite_schema's own."""
        return {entry.root for entry in self.entries if entry.root}

    @cached_property
    def shadows(self) -> dict[str, SchemaEntry]:
        """Return the folded names of shadow tables, each with its virtual table."""
        found = {}
        for virtual in self.tables.values():
            for suffix in SHADOW_SUFFIXES.get(virtual.module or "", ()):
                name = folded(virtual.name) + suffix
                if name in self.tables:
                    found[name] = virtual
        return found

    def shadow(self, virtual: SchemaEntry, suffix: str) -> SchemaEntry | None:
        """Return a shadow table of a virtual table, as `_content`."""
        return self.tables.get(folded(virtual.name) + suffix)


def _entry(rowid: int, record: list[pages.Value], page_number: int) -> SchemaEntry:
    if len(record) == 5:
        kind, name, table, root, sql = record
        if (
            isinstance(kind, str)
            and isinstance(name, str)
            and isinstance(table, str)
            and isinstance(root, int | None)
            and isinstance(sql, str | None)
        ):
            return SchemaEntry(rowid, kind, name, table, root or 0, sql)
    raise damaged(page_number, "A row of sqlite_schema has not the columns that it must have.")
