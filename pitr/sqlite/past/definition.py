"""What a CREATE TABLE statement says of rows: columns, their place in a record, the key.

SQLite itself reads the statement, in an empty database in memory. Functions and collations that
only the application has are stood in for: a definition that uses them is still understood.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import apsw

from pitr.errors import CorruptDatabase, UsageError
from pitr.sqlite.file.page import Value
from pitr.sqlite.past.creation import create
from pitr.sqlite.past.replay import allow_unknown_collations
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import tokens_of

_ROWID_NAMES = ("rowid", "_rowid_", "oid")


class Affinity(enum.StrEnum):
    """What a column turns values into; the names are types with this affinity."""

    INTEGER = "INTEGER"
    TEXT = "TEXT"
    BLOB = "BLOB"
    REAL = "REAL"
    NUMERIC = "NUMERIC"


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """One column; `expression` is the SQL text of a virtual generated column, else None."""

    name: str
    affinity: Affinity
    collation: str
    default: str | None  # SQL text
    generated: bool
    expression: str | None

    @property
    def is_stored(self) -> bool:
        """Return whether records have a field for it."""
        return self.expression is None


@dataclass(frozen=True, slots=True)
class KeyField:
    """One part of the key of a WITHOUT ROWID table: its field in the record, its collation."""

    field: int
    column: int
    collation: str


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """One table. `fields` says which column each field of a record is, in record order."""

    name: str
    columns: tuple[ColumnDefinition, ...]
    fields: tuple[int, ...]
    rowid_column: int | None  # the INTEGER PRIMARY KEY: another name for the rowid
    key: tuple[KeyField, ...]  # empty in a table with rowids
    strict: bool

    @property
    def without_rowid(self) -> bool:
        """Return whether the rows live in an index b-tree under their primary key."""
        return bool(self.key)

    def values(self, record: Sequence[Value], rowid: int | None) -> list[Value]:
        """Return the value of each column as SELECT gives it; None for virtual generated ones.

        Fields that were added to the table later than the record was written take their default.
        """
        values: list[Value] = [None] * len(self.columns)
        for field, column in enumerate(self.fields):
            if field >= len(record):
                values[column] = default_value(self.columns[column])
            elif self.columns[column].affinity is Affinity.REAL:
                value = record[field]  # SQLite stores 2.0 as the integer 2
                values[column] = float(value) if isinstance(value, int) else value
            else:
                values[column] = record[field]
        if self.rowid_column is not None:
            values[self.rowid_column] = rowid
        return values

    @property
    def rowid_name(self) -> str | None:
        """Return a name that means the rowid in SQL, None when there is none."""
        if self.without_rowid:
            return None
        if self.rowid_column is not None:
            return self.columns[self.rowid_column].name
        taken = {folded(column.name) for column in self.columns}
        return next((name for name in _ROWID_NAMES if name not in taken), None)


def tolerant_connection() -> apsw.Connection:
    """Return an empty database in memory that takes tables with unknown collations."""
    connection = apsw.Connection(":memory:")
    # The names of SQLite's own tables (sqlite_sequence) are allowed with this.
    connection.execute("PRAGMA writable_schema = ON")
    allow_unknown_collations(connection)
    return connection


@lru_cache(maxsize=1024)
def parse_table(sql: str) -> TableDefinition:
    """Return what a CREATE TABLE statement says. Raises CorruptDatabase when SQLite refuses it."""
    with closing(tolerant_connection()) as connection:
        try:
            create(connection, sql)
            return _read_table(connection, sql)
        except (apsw.Error, UsageError) as error:
            raise CorruptDatabase(
                "the definition of a table cannot be read",
                detail=f"SQLite {apsw.sqlite_lib_version()} refuses it: {error}. It is: {sql[:99]}",
                hint="A table made by a newer SQLite needs a newer apsw: 'pip install -U apsw'.",
            ) from None


def _read_table(connection: apsw.Connection, sql: str) -> TableDefinition:
    # AUTOINCREMENT makes a second table, sqlite_sequence.
    name, without_rowid, strict = connection.execute(
        "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name <> 'sqlite_schema' ORDER BY name = 'sqlite_sequence' LIMIT 1"
    ).get
    expressions = list(_generated_expressions(sql))
    columns, in_key = [], []
    rows = connection.execute("SELECT * FROM pragma_table_xinfo(?)", (name,))
    for number, column, declared, _not_null, default, key_position, hidden in rows:
        collation = connection.column_metadata("main", name, column)[1]
        expression = expressions[number] if hidden == 2 else None
        affinity = _affinity(declared, strict=bool(strict))
        definition = ColumnDefinition(column, affinity, collation, default, hidden > 1, expression)
        columns.append(definition)
        if key_position:
            in_key.append(number)
    primary = _primary_index(connection, name)
    fields = tuple(number for number, column in enumerate(columns) if column.is_stored)
    key: tuple[KeyField, ...] = ()
    if without_rowid:
        fields = tuple(column for column, _, _ in primary)
        key = tuple(
            KeyField(field, column, collation)
            for field, (column, collation, is_key) in enumerate(primary)
            if is_key
        )
    # A primary key without an index of its own is the rowid under another name.
    rowid_column = in_key[0] if in_key and not primary else None
    return TableDefinition(name, tuple(columns), fields, rowid_column, key, bool(strict))


def _primary_index(connection: apsw.Connection, name: str) -> list[tuple[int, str, int]]:
    """Return (column, collation, is part of the key) of the primary key's index, in its order."""
    return list(
        connection.execute(
            "SELECT x.cid, x.coll, x.key FROM pragma_index_list(?) l, pragma_index_xinfo(l.name) x"
            " WHERE l.origin = 'pk' ORDER BY x.seqno",
            (name,),
        )
    )


def _affinity(declared: str, *, strict: bool) -> Affinity:
    """Return the affinity of a declared type, by the rules of SQLite's datatype3.html, 3.1."""
    text = declared.upper()
    if strict and text == "ANY":
        return Affinity.BLOB
    if "INT" in text:
        return Affinity.INTEGER
    if any(part in text for part in ("CHAR", "CLOB", "TEXT")):
        return Affinity.TEXT
    if not text or "BLOB" in text:
        return Affinity.BLOB
    if any(part in text for part in ("REAL", "FLOA", "DOUB")):
        return Affinity.REAL
    return Affinity.NUMERIC


@lru_cache(maxsize=1024)
def default_value(column: ColumnDefinition) -> Value:
    """Return what an old record has for a column that was added with ALTER TABLE."""
    if column.default is None:
        return None
    # A bare word is a text here, but a column's name within parentheses; an expression needs them.
    is_word = sum(1 for _ in tokens_of(column.default)) <= 2
    default = column.default if is_word else f"({column.default})"
    with closing(tolerant_connection()) as connection:
        try:
            connection.execute(f"CREATE TABLE t(c {column.affinity} DEFAULT {default})")
            connection.execute("INSERT INTO t DEFAULT VALUES")
            value: Value = connection.execute("SELECT c FROM t").get
        except apsw.Error as error:
            raise CorruptDatabase(
                f"the default of column {column.name} cannot be read",
                detail=f"SQLite says of DEFAULT {column.default}: {error}.",
            ) from None
        return value


# --- the text of a statement ---------------------------------------------------------------------


def _generated_expressions(sql: str) -> Iterator[str | None]:
    """Yield for each part of the body of CREATE TABLE the text in its `AS (…)`, or None."""
    depth = 0
    begin: int | None = None
    found: str | None = None
    after_as = False
    for token in tokens_of(sql):
        depth += token.is_sign("(") - token.is_sign(")")
        if token.is_sign("(") and depth == 2 and after_as:
            begin = token.end
        elif begin is not None and depth == 1:
            found, begin = sql[begin : token.begin], None
        if (token.is_sign(",") and depth == 1) or (token.is_sign(")") and depth == 0):
            yield found
            found = None
        after_as = token.is_word("AS")
