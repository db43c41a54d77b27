"""The columns by which rows of one table are matched across several databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import apsw

from pitr.sqlite.past.replay import BUILTIN_COLLATIONS
from pitr.sqlite.past.tables import PastTable, folded
from pitr.sqlite.statement.tokens import quoted


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """One table in one of the databases of a connection.

    `shared_names` gives, by folded name, the folded name under which all sides know a column that
    is called otherwise here.
    """

    schema: str
    table: PastTable
    shared_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def sql_name(self) -> str:
        """Return the name to use in a statement."""
        return f"{self.schema}.{quoted(self.table.name)}"

    def shared(self, column: str) -> str:
        """Return the folded name under which all sides know a column."""
        return self.shared_names.get(folded(column), folded(column))

    def collation(self, connection: apsw.Connection, column: str) -> str:
        """Return the collation that a column is declared with, in capitals."""
        found = connection.column_metadata(self.schema, self.table.name, column)
        return found[1].upper()

    def _unique_keys(self, connection: apsw.Connection) -> Iterator[tuple[str, ...]]:
        """Yield the columns of each declared key, the primary key first."""
        table = self.table
        if table.integer_key:
            yield (table.integer_key,)
        indexes = connection.execute(
            'SELECT name FROM pragma_index_list(?, ?) WHERE "unique" AND NOT partial'
            " ORDER BY origin = 'pk' DESC",
            (table.name, self.schema),
        ).fetchall()
        for index in indexes:
            statement = "SELECT name FROM pragma_index_info(?, ?) ORDER BY seqno"
            names = [row[0] for row in connection.execute(statement, (index[0], self.schema))]
            if all(name in table.plain_columns for name in names):  # None: an expression
                yield tuple(map(str, names))

    def _has_null(self, connection: apsw.Connection, key: Sequence[str]) -> bool:
        """Return whether a row has NULL in a key column: then the key does not name it."""
        never = {column.name for column in self.table.columns if column.not_null}
        never.add(self.table.integer_key or "")
        maybe = [f"{quoted(name)} IS NULL" for name in key if name not in never]
        if not maybe:
            return False
        statement = f"SELECT 1 FROM {self.sql_name} WHERE {' OR '.join(maybe)} LIMIT 1"
        return connection.execute(statement).fetchone() is not None


def shared_key(connection: apsw.Connection, sides: Sequence[PlacedTable]) -> tuple[str, ...]:
    """Return the columns of a key that names each row of every side once; empty for none.

    The names are those of the first side, whose primary key is preferred.
    """
    first, *others = sides
    if all(side.table.virtual for side in sides):
        virtual = first.table.virtual
        assert virtual is not None
        return (virtual.key_column or first.table.columns[0].name,)
    keys_of_others = [
        {frozenset(map(side.shared, key)): key for key in side._unique_keys(connection)}
        for side in others
    ]
    for key in first._unique_keys(connection):
        shared = frozenset(map(first.shared, key))
        found = [keys[shared] for keys in keys_of_others if shared in keys]
        if len(found) == len(others) and not any(
            side._has_null(connection, own) for side, own in zip(sides, [key, *found], strict=True)
        ):
            return key
    return ()


def key_collation(
    connection: apsw.Connection, sides: Sequence[PlacedTable], columns: Sequence[str]
) -> str:
    """Return the collation under which a key column, named for each side, is to be compared.

    The declared one where all sides declare the same and it is known here: only under it are the
    values unique. BINARY tells apart whatever any other of SQLite's own collations does.
    """
    declared = {
        side.collation(connection, column) for side, column in zip(sides, columns, strict=True)
    }
    if len(declared) == 1:
        only = declared.pop()
        if only in BUILTIN_COLLATIONS:
            return only
    return "BINARY"
