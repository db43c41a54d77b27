"""The tables of a past state: found by name, and described as far as bringing them back needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import apsw

from pitr.errors import UsageError
from pitr.sqlite.statement.faults import sqlite_faults, sqlite_says
from pitr.sqlite.statement.pattern import TablePattern
from pitr.sqlite.statement.readonly import table_unknown
from pitr.sqlite.statement.tokens import TokenKind, quoted, tokens_of
from pitr.sqlite.statement.virtual import SHADOW_SUFFIXES, VirtualText, read_virtual

_HIDDEN, _GENERATED_VIRTUAL, _GENERATED_STORED = 1, 2, 3
_ROWID_NAMES = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """One column as `PRAGMA table_xinfo` describes it."""

    name: str
    declared_type: str
    not_null: bool
    default: str | None
    primary_key_position: int  # counted from 1; 0 = not in the primary key
    hidden: int

    @property
    def is_generated(self) -> bool:
        """Return whether its value is computed, stored or not."""
        return self.hidden in (_GENERATED_VIRTUAL, _GENERATED_STORED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTable:
    """One table of a database: its text, where its pages begin and how its rows are named.

    `rowid_name` is a name under which the rowid can be read and written; None when the table has
    none, or when columns of its own take all three names. `integer_key` is the column that is the
    rowid. `options` are the words behind the closing parenthesis: STRICT, WITHOUT, ROWID.
    """

    name: str
    sql: str
    root_page: int
    columns: tuple[TableColumn, ...]
    virtual: VirtualText | None
    rowid_name: str | None
    integer_key: str | None
    options: frozenset[str]
    has_autoincrement: bool

    @property
    def plain_columns(self) -> tuple[str, ...]:
        """Return the columns that a statement can give values to."""
        return tuple(column.name for column in self.columns if column.hidden == 0)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Return the names of the primary key's columns in key order."""
        in_key = [column for column in self.columns if column.primary_key_position]
        return tuple(c.name for c in sorted(in_key, key=lambda c: c.primary_key_position))


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    name: str
    sql: str
    root_page: int


def find_tables(
    past: apsw.Connection,
    names: Sequence[str],
    *,
    explain_absence: Callable[[str], str | None] | None = None,
) -> list[PastTable]:
    """Return the tables of these names and patterns, each once, in the order given.

    A pattern leaves out what could not be brought back. `explain_absence` may add a sentence to
    the error for a name that is not there. Raises TableUnknown, and UsageError for what holds no
    rows that could be brought back by themselves: views, shadow tables, SQLite's internal tables,
    virtual tables that cannot be opened here.
    """
    found: dict[str, PastTable] = {}
    with sqlite_faults("the schema cannot be read"):
        entries = {folded(entry.name): entry for entry in _schema(past)}
        for name in names:
            meant = _meant(past, name, entries)
            if not meant:
                detail = explain_absence(name) if explain_absence else None
                raise table_unknown(past, name, detail)
            for table in meant:
                found.setdefault(table.name, table)
    return list(found.values())


def _meant(past: apsw.Connection, text: str, entries: dict[str, _Entry]) -> list[PastTable]:
    """Return the tables that a name or pattern means. Raises UsageError, of a name only."""
    pattern = TablePattern.parse(text)
    names = pattern.chosen(entry.name for entry in entries.values())
    found = []
    for name in names:
        entry = entries[folded(name)]
        try:
            _check_kind(past, entry, entries)
            found.append(_describe(past, entry))
        except UsageError:
            if not pattern.is_wild or folded(name) == folded(text):
                raise
    return found


def find_table(connection: apsw.Connection, schema: str, name: str) -> PastTable | None:
    """Return one table of an attached database, None when there is no such table."""
    entries = {folded(entry.name): entry for entry in _schema(connection, schema)}
    entry = entries.get(folded(name))
    if entry is None or entry.kind != "table":
        return None
    return _describe(connection, entry, schema)


def root_pages(past: apsw.Connection, table_name: str, suffixes: Sequence[str]) -> list[int]:
    """Return the root pages of the shadow tables of a virtual table."""
    wanted = {folded(table_name + suffix) for suffix in suffixes}
    return [entry.root_page for entry in _schema(past) if folded(entry.name) in wanted]


def folded(name: str) -> str:
    """Return the name with A to Z in lower case and nothing else changed, as SQLite compares."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)


def _schema(connection: apsw.Connection, schema: str = "main") -> Iterator[_Entry]:
    rows = connection.execute(
        f"SELECT type, name, coalesce(sql, ''), rootpage FROM {schema}.sqlite_schema"
        " WHERE type IN ('table', 'view')"
    )
    for kind, name, sql, root_page in rows:
        yield _Entry(str(kind), str(name), str(sql), int(str(root_page or 0)))


def _check_kind(past: apsw.Connection, entry: _Entry, entries: dict[str, _Entry]) -> None:
    if entry.kind == "view":
        raise UsageError(
            f"{entry.name} is a view, not a table",
            detail="A view holds no rows of its own.",
            hint=f"Run 'pitr sql --at TARGET \"SELECT * FROM {entry.name}\"' to see its rows then.",
        )
    if folded(entry.name).startswith("sqlite_"):
        raise UsageError(
            f"{entry.name} is one of SQLite's internal tables",
            detail="The AUTOINCREMENT value of a table comes back with the table itself.",
            hint="Name the table that it belongs to.",
        )
    owner = _owner_of_shadow(entry, entries)
    if owner is not None and _opens(past, owner):
        raise UsageError(
            f"{entry.name} is part of the virtual table {owner.name}",
            detail="Its rows mean nothing by themselves.",
            hint=f"Restore the virtual table: -t {owner.name}",
        )


def _owner_of_shadow(entry: _Entry, entries: dict[str, _Entry]) -> _Entry | None:
    stem, _, suffix = folded(entry.name).rpartition("_")
    owner = entries.get(stem)
    virtual = read_virtual(owner.sql) if owner else None
    if virtual and f"_{suffix}" in SHADOW_SUFFIXES.get(virtual.module, ()):
        return owner
    return None


def _opens(past: apsw.Connection, entry: _Entry) -> bool:
    try:
        past.execute(f"EXPLAIN SELECT 1 FROM main.{quoted(entry.name)}").fetchall()
    except apsw.SQLError:
        return False
    return True


def _describe(connection: apsw.Connection, entry: _Entry, schema: str = "main") -> PastTable:
    columns = _columns(connection, entry, schema)
    tokens = list(tokens_of(entry.sql))
    last = max((at for at, token in enumerate(tokens) if token.is_sign(")")), default=0)
    virtual = read_virtual(entry.sql)
    rowid_name = None if virtual else _rowid_name(connection, schema, entry.name, columns)
    has_key = any(column.primary_key_position for column in columns)
    integer_key = None
    if not virtual and has_key and not _has_key_index(connection, schema, entry.name):
        integer_key = next(column.name for column in columns if column.primary_key_position)
    return PastTable(
        name=entry.name,
        sql=entry.sql,
        root_page=entry.root_page,
        columns=columns,
        virtual=virtual,
        rowid_name=rowid_name,
        integer_key=integer_key,
        options=frozenset(t.text.upper() for t in tokens[last:] if t.kind is TokenKind.WORD),
        has_autoincrement=any(token.is_word("AUTOINCREMENT") for token in tokens),
    )


def _columns(connection: apsw.Connection, entry: _Entry, schema: str) -> tuple[TableColumn, ...]:
    try:
        rows = connection.execute(
            'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?)',
            (entry.name, schema),
        ).fetchall()
    except apsw.SQLError as error:
        content = f"{entry.name}_content"
        raise UsageError(
            f"the virtual table {entry.name} cannot be opened here",
            detail=sqlite_says(error),
            hint=f"Its content may rest in a table named after it: -t {content}",
        ) from error
    return tuple(
        TableColumn(
            name=str(name),
            declared_type=str(declared_type),
            not_null=bool(not_null),
            default=None if default is None else str(default),
            primary_key_position=int(str(position)),
            hidden=int(str(hidden)),
        )
        for name, declared_type, not_null, default, position, hidden in rows
    )


def _rowid_name(
    connection: apsw.Connection, schema: str, name: str, columns: Sequence[TableColumn]
) -> str | None:
    taken = {folded(column.name) for column in columns}
    free = next((candidate for candidate in _ROWID_NAMES if candidate not in taken), None)
    if free is None:
        return None
    try:
        connection.execute(f"EXPLAIN SELECT {free} FROM {schema}.{quoted(name)}").fetchall()
    except apsw.SQLError:  # WITHOUT ROWID
        return None
    return free


def _has_key_index(connection: apsw.Connection, schema: str, name: str) -> bool:
    """Return whether the primary key has an index, which it has unless it is the rowid itself."""
    origins = "SELECT 1 FROM pragma_index_list(?, ?) WHERE origin = 'pk'"
    return connection.execute(origins, (name, schema)).fetchone() is not None
