"""The foreign keys of a database, as far as bringing rows back has to respect them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby

import apsw

from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """One foreign key. `parent_columns` is empty where the parent has no such key, or is missing.

    SQLite refuses every write to the child then, while it enforces foreign keys. `is_alike` says
    that the columns on both sides are declared with the same types.
    """

    child: str
    child_columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_update: str
    on_delete: str
    is_alike: bool = False

    def has_parent(self, parent: str, child: str) -> str:
        """Return the condition that a row of the parent is the one that a child's row names.

        Both arguments are aliases. SQLite compares by the parent's collation and affinity: so the
        parent stands on the left, and `+` takes the child's affinity away. For finding parents.
        """
        pairs = zip(self.parent_columns, self.child_columns, strict=True)
        return " AND ".join(f"{parent}.{quoted(a)} = +{child}.{quoted(b)}" for a, b in pairs)

    def has_child(self, parent: str, child: str) -> str:
        """Return the same condition for finding children: an index of the child can be used."""
        if not self.is_alike:
            return self.has_parent(parent, child)
        pairs = zip(self.parent_columns, self.child_columns, strict=True)
        return " AND ".join(f"{parent}.{quoted(a)} = {child}.{quoted(b)}" for a, b in pairs)

    def names_parent(self, child: str) -> str:
        """Return the condition that a child's row names a parent at all: no column is NULL."""
        return " AND ".join(f"{child}.{quoted(name)} IS NOT NULL" for name in self.child_columns)


class ForeignKeys:
    """All foreign keys of one schema."""

    def __init__(self, keys: Iterable[ForeignKey]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def read(
        cls,
        connection: apsw.Connection,
        schema: str,
        *,
        parents: str | None = None,
        absent: Mapping[str, tuple[str, ...]] | None = None,
    ) -> ForeignKeys:
        """Read them. `parents` is the schema that has the parents, when it is another one.

        `absent` has the primary keys of tables that are not there, by folded name.
        """
        text = files("pitr.sql").joinpath("sqlite/foreign_keys.sql").read_text()
        rows = connection.execute(text.replace("{schema}", schema)).fetchall()
        return cls(
            _foreign_key(connection, (schema, parents or schema), group, absent or {})
            for _, group in groupby(rows, key=lambda row: row[:2])
        )

    def __bool__(self) -> bool:
        return bool(self._keys)

    def with_keys_of(self, children: Iterable[str], other: ForeignKeys) -> ForeignKeys:
        """Return these keys and, of tables that have none here, those of another schema."""
        added = [key for child in children if not self.of(child) for key in other.of(child)]
        return ForeignKeys((*self._keys, *added))

    def of(self, child: str) -> list[ForeignKey]:
        """Return the keys of a table."""
        return [key for key in self._keys if folded(key.child) == folded(child)]

    def to(self, parent: str) -> list[ForeignKey]:
        """Return the keys that name rows of a table."""
        return [key for key in self._keys if folded(key.parent) == folded(parent)]


def _foreign_key(
    connection: apsw.Connection,
    schemas: tuple[str, str],
    rows: Iterable[apsw.SQLiteValues],
    absent: Mapping[str, tuple[str, ...]],
) -> ForeignKey:
    own, schema = schemas
    parts = list(rows)
    child, _, parent, _, first_named, on_update, on_delete = parts[0]
    named = tuple(str(part[4]) for part in parts) if first_named is not None else ()
    primary = absent.get(folded(str(parent)))
    if primary is None:
        columns = _parent_key(connection, schema, str(parent), named, len(parts))
    else:
        columns = named or primary
    return ForeignKey(
        child=str(child),
        child_columns=tuple(str(part[3]) for part in parts),
        parent=str(parent),
        parent_columns=columns if len(columns) == len(parts) else (),
        on_update=str(on_update),
        on_delete=str(on_delete),
        is_alike=_types(connection, own, str(child), [str(part[3]) for part in parts])
        == _types(connection, schema, str(parent), columns),
    )


def _types(
    connection: apsw.Connection, schema: str, table: str, columns: Sequence[str]
) -> list[str]:
    statement = "SELECT name, type FROM pragma_table_xinfo(?, ?)"
    declared = {
        folded(str(name)): str(kind).upper()
        for name, kind in connection.execute(statement, (table, schema))
    }
    return [declared.get(folded(name), "") for name in columns]


def _parent_key(
    connection: apsw.Connection, schema: str, parent: str, named: tuple[str, ...], width: int
) -> tuple[str, ...]:
    """Return the columns that the key names; empty when the parent has no key of them."""
    primary = tuple(
        str(row[0])
        for row in connection.execute(
            "SELECT name FROM pragma_table_info(?, ?) WHERE pk ORDER BY pk", (parent, schema)
        )
    )
    if not named or set(map(folded, named)) == set(map(folded, primary)):
        return (named or primary) if len(primary) == width else ()
    wanted = set(map(folded, named))
    indexes = connection.execute(
        'SELECT name FROM pragma_index_list(?, ?) WHERE "unique" AND NOT partial', (parent, schema)
    ).fetchall()
    for (index,) in indexes:
        info = "SELECT coalesce(name, '') FROM pragma_index_info(?, ?)"
        columns = {folded(str(row[0])) for row in connection.execute(info, (index, schema))}
        if columns == wanted:
            return named
    return ()
