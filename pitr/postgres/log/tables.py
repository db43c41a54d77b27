"""Which relation files a log is about, and which table each belongs to: by the catalog map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pitr.errors import TableUnknown
from pitr.postgres.catalog.catalog_map import CatalogMap, Version, version_at
from pitr.postgres.catalog.reading import Relation
from pitr.postgres.index.file import BlockRanges
from pitr.postgres.statement.pattern import TablePattern, is_own_schema
from pitr.postgres.wal.record import RelationFile

PG_CLASS = 1259
_TABLES = "rm"  # ordinary tables and partitions, materialized views
_NAMED = "rmp"


@dataclass(frozen=True, slots=True, order=True)
class TableKey:
    """A table by its database (0: shared) and OID; `oid` 0 and a file number for an unknown one."""

    database: int
    oid: int
    file: int = 0


# Which table, and its kind as in pg_class; and from that question the tables of unseen files.
TableOf: TypeAlias = Callable[[RelationFile], "tuple[TableKey, str] | None"]
FindUnseen: TypeAlias = Callable[[TableOf], dict[RelationFile, TableKey]]


class Tables:
    """The tables of one log: those that patterns name, or all but PostgreSQL's own."""

    def __init__(
        self,
        catalog: CatalogMap,
        patterns: Sequence[TablePattern],
        *,
        default: str | None,
        begin: int,
        end: int,
        find_unseen: FindUnseen = lambda _table_of: {},
    ) -> None:
        """Look the patterns up among all that was there from `begin` to `end`.

        `default` is the database that patterns without one are about, and that is not printed.
        `find_unseen` says which files that no reading has seen belong to which tables. Raises
        TableUnknown for a pattern that no table fits.
        """
        self._catalog = catalog
        self._default = default
        self._end = end
        self._shown: dict[TableKey, TableKey] | None = None
        self._known: dict[RelationFile, tuple[TableKey, str] | None] = {}
        versions = {
            database: list(catalog.versions_between(database, begin, end))
            for database in catalog.database_oids()
        }
        self._parents = {
            TableKey(database, version.relation.oid): TableKey(database, version.relation.parent)
            for database, found in versions.items()
            for version in found
            if version.relation.parent
        }
        self.traced = frozenset(_files(versions, {TableKey(d, PG_CLASS) for d in versions}))
        self.files: dict[RelationFile, BlockRanges | None] | None = None
        if patterns:
            self._shown = self._find(patterns, versions)
            wanted = _files(versions, self._shown)
            self.files = dict.fromkeys([*wanted, *self.traced])
        for file, key in find_unseen(self.table_of).items():
            self._known[file] = (key, _TABLES[0])
            if self.files is not None and self._shown is not None and key in self._shown:
                self.files[file] = None

    def table_of(self, file: RelationFile) -> tuple[TableKey, str] | None:
        """Return the table of a file and its kind as in pg_class; None for an unknown file."""
        if file not in self._known:
            found = self._catalog.relation_of(file, self._end)
            key = TableKey(found.database, found.relation.oid) if found else None
            self._known[file] = (key, found.relation.kind) if found and key else None
        return self._known[file]

    def named(self) -> list[TableKey]:
        """Return the tables that patterns name, without the partitions that come with them."""
        return sorted(key for key, shown in (self._shown or {}).items() if key == shown)

    def shown_as(self, key: TableKey) -> TableKey | None:
        """Return the table whose line a table's rows go into; None when it is not asked for.

        A partition's rows go to the table that the user named, or to the topmost one.
        """
        if self._shown is not None:
            return self._shown.get(key)
        if key.oid and is_own_schema(self._newest(key).relation.schema):
            return None
        while key in self._parents:
            key = self._parents[key]
        return key

    def is_table(self, kind: str) -> bool:
        """Return whether relations of a kind have rows that a user sees."""
        return kind in _TABLES

    def name(self, key: TableKey, position: int) -> str:
        """Return the name of a table at a position: `schema.table`, elsewhere with the database."""
        database = self._catalog.database_name(key.database, position) or str(key.database)
        if not key.oid:
            return f"{database}/{key.file}"
        if not key.database:
            database = self._default or ""
        relation = version_at(self._catalog.versions_of(key.database, key.oid), position).relation
        name = f"{_quoted(relation.schema)}.{_quoted(relation.name)}"
        return name if database in (self._default, "") else f"{_quoted(database)}.{name}"

    def _newest(self, key: TableKey) -> Version:
        return self._catalog.versions_of(key.database, key.oid)[-1]

    def _find(
        self, patterns: Sequence[TablePattern], versions: dict[int, list[Version]]
    ) -> dict[TableKey, TableKey]:
        """Return the tables that patterns name, with partitions: each with where it is shown."""
        shown: dict[TableKey, TableKey] = {}
        for pattern in patterns:
            found = {
                _key(database, version.relation)
                for database, of_database in versions.items()
                for version in of_database
                if version.relation.kind in _NAMED and self._fits(pattern, database, version)
            }
            if not found:
                raise self._unknown(pattern, versions)
            shown.update((key, key) for key in found)
        for key in {key for key in self._parents if key not in shown}:
            above = key
            while above in self._parents and above not in shown:
                above = self._parents[above]
            if above in shown:
                shown[key] = shown[above]
        return shown

    def _fits(self, pattern: TablePattern, database: int, version: Version) -> bool:
        name = self._catalog.database_name(database, self._end) or ""
        relation = version.relation
        return pattern.matches(name, relation.schema, relation.name, default=self._default)

    def _unknown(self, pattern: TablePattern, versions: dict[int, list[Version]]) -> TableUnknown:
        names = sorted(
            {
                f"{self._catalog.database_name(database, self._end)}.{relation.schema}"
                f".{relation.name}"
                for database, found in versions.items()
                for relation in (version.relation for version in found)
                if relation.kind in _NAMED and not is_own_schema(relation.schema)
            }
        )
        some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        where = f" in the database {self._default}" if self._default else ""
        return TableUnknown(
            f"no table is called {pattern.text!r}{where}",
            detail=f"There were then: {some or 'none'}.",
            hint="Write it as schema.table or database.schema.table.",
        )


def _files(versions: dict[int, list[Version]], keys: Iterable[TableKey]) -> list[RelationFile]:
    wanted = set(keys)
    return [
        version.relation.relation_file(database)
        for database, found in versions.items()
        for version in found
        if version.relation.file and _key(database, version.relation) in wanted
    ]


def _key(database: int, relation: Relation) -> TableKey:
    return TableKey(0 if relation.is_shared else database, relation.oid)


def _quoted(name: str) -> str:
    """Return a name as `-t` reads it."""
    is_plain = name.replace("_", "a").isalnum() and name == name.lower() and name.isascii()
    return name if is_plain and not name[0].isdigit() else '"' + name.replace('"', '""') + '"'
