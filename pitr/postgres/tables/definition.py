"""What the catalog says of one table, as values. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.postgres.tables.name import TableName, quoted

# Base types whose equality is that of their images, so that values travel and compare as they are.
# numeric (1.0 and 1.00), floats (0 and -0), interval and timetz are equal across images: as text.
_EXACT = {
    16: "bool",
    17: "bytea",
    20: "int8",
    21: "int2",
    23: "int4",
    26: "oid",
    1082: "date",
    1083: "time",
    1114: "timestamp",
    1184: "timestamptz",
    2950: "uuid",
}
_TEXTS = (18, 19, 25, 1042, 1043)
# Of these any session on any server reads what their output function writes as that same value:
# float4, float8, numeric, interval, timetz, json, jsonb, inet, cidr.
_READ_AS_WRITTEN = (700, 701, 1700, 1186, 1266, 114, 3802, 869, 650)
_FIRST_USER_OID = 16384
_BPCHAR = 1042
# Its cast from text does not read what its output writes of a number that names nothing.
_REGCLASS = 2205
_LARGE_OBJECT = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `number` is its attnum, which a rename keeps.

    `type` is as SQL writes it with its modifier, `plain_type` without: a cast to it never cuts a
    value short. `default` is the expression of a generated column too. `collation` is given where
    it is not the type's own. `labels` are those of an enum.
    """

    number: int
    name: str
    type: str
    plain_type: str
    type_oid: int
    base_oid: int
    kind: str
    has_own_text_cast: bool
    not_null: bool
    default: str | None
    identity: str
    generated: str
    collation: str | None
    is_bytewise: bool
    privileges: frozenset[str]
    labels: tuple[str, ...] | None

    @property
    def is_generated(self) -> bool:
        """Return whether its value is computed from others."""
        return self.generated != ""

    @property
    def may_name_large_object(self) -> bool:
        """Return whether its values may be numbers of large objects."""
        return self.base_oid == _LARGE_OBJECT or self.plain_type.split(".")[-1] == "lo"

    @property
    def carried(self) -> str:
        """Return the type by which its values travel and are compared: exact, else their text."""
        return _EXACT.get(self.base_oid, "text")

    @property
    def is_exact_key(self) -> bool:
        """Return whether values that are equal as a key are the same image."""
        exact = self.base_oid in _EXACT or self.base_oid in _TEXTS
        return exact and self.is_bytewise

    @property
    def is_builtin(self) -> bool:
        """Return whether every server of one version knows the type under one OID."""
        return self.type_oid < _FIRST_USER_OID

    def typed(self, value: str) -> str:
        """Return a carried value in the type of the column; its modifier acts when assigned."""
        typed = f"({value})::{self.plain_type}"
        if self.base_oid == _REGCLASS:
            typed = f"((ARRAY[{value}]::text)::{self.plain_type}[])[1]"
        return f"{typed} COLLATE {self.collation}" if self.collation else typed

    @property
    def is_read_as_written(self) -> bool:
        """Return whether a carried value always makes the value that it was carried from."""
        if self.type_oid == _BPCHAR:  # without the blanks at its end
            return False
        known = self.type_oid in _EXACT or self.type_oid in _TEXTS
        return known or self.type_oid in _READ_AS_WRITTEN

    def image(self, alias: str) -> str:
        """Return the expression for the carried value of the column of a row."""
        name = f"{alias}.{quoted(self.name)}"
        if self.carried != "text":
            return name if self.kind != "d" else f"({name})::{self.carried}"
        if self.has_own_text_cast:
            # The cast may lose something; what the type's output function writes does not.
            text = f"CASE WHEN {name} IS NULL THEN NULL ELSE pg_catalog.format('%s', {name}) END"
            return f'({text}) COLLATE "C"'
        return f'({name})::text COLLATE "C"'


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueIndex:
    """One unique index, or exclusion constraint: no two rows may agree by all `operators`.

    `columns` are numbers, 0 for an expression; `parts` the SQL of each over bare column names. Of a
    partitioned table it may be the index of one partition alone: then the predicate says which rows
    that takes, and `columns` are unknown, 0.
    """

    name: str
    columns: tuple[int, ...]
    parts: tuple[str, ...]
    operators: tuple[str, ...]
    predicate: str | None
    is_primary: bool
    nulls_not_distinct: bool
    is_deferrable: bool
    is_exclusion: bool
    is_replica_identity: bool
    has_own_collation: bool

    @property
    def can_name_rows(self) -> bool:
        """Return whether it names each row once, if none of its columns can be NULL."""
        return self.predicate is None and not self.is_exclusion and 0 not in self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger that fires on what a merge writes. `assigned` are columns of NEW it writes to.

    `is_unconditional`: it does so on every row that is written, whatever is in it.
    """

    name: str
    function: str
    timing: str
    for_each_row: bool
    events: tuple[str, ...]
    assigned: tuple[str, ...]
    is_unconditional: bool

    def owned(self, event: str) -> tuple[str, ...]:
        """Return the columns in which its values stand when a row is written so."""
        is_before = self.timing == "BEFORE" and self.for_each_row
        return self.assigned if is_before and event in self.events else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSequence:
    """A sequence that gives a column its values; from `lowest` to `highest`."""

    oid: int
    name: TableName
    column: str
    increment: int
    lowest: int
    highest: int
    may_set: bool
    may_read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key. `operators` compare a parent's column, on the left, with the child's.

    `on_update` and `on_delete` are the letters of the catalog: a, r, c, n, d.
    """

    name: str
    child_oid: int
    child: TableName
    child_columns: tuple[str, ...]
    parent_oid: int
    parent: TableName
    parent_columns: tuple[str, ...]
    operators: tuple[str, ...]
    on_update: str
    on_delete: str
    match: str

    def joins(self, parent: str, child: str) -> str:
        """Return the condition that a row of the parent is the one that a child's row names."""
        pairs = zip(self.parent_columns, self.operators, self.child_columns, strict=True)
        return " AND ".join(
            f"{parent}.{quoted(a)} {operator} {child}.{quoted(b)}" for a, operator, b in pairs
        )

    def names_parent(self, child: str) -> str:
        """Return the condition that a child's row names a parent at all."""
        word = " AND " if self.match == "s" else " OR "
        return f"({word.join(f'{child}.{quoted(c)} IS NOT NULL' for c in self.child_columns)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of one database.

    `kind` is relkind (r: table, p: partitioned, f: foreign, v, m), `persistence` p, u or t.
    `hides_rows`: row security would filter what this role reads. `privileges` of the role on the
    whole table, USAGE meaning its schema. `changes_published_by` are publications that send updates
    or deletes on.
    """

    oid: int
    name: TableName
    kind: str
    persistence: str
    replica_identity: str
    has_children: bool
    hides_rows: bool
    has_row_security: bool
    partitions: int
    estimated_rows: int
    size_bytes: int
    privileges: frozenset[str]
    owner: str
    rules: tuple[str, ...]
    changes_published_by: tuple[str, ...]
    inserts_published_by: tuple[str, ...]
    columns: tuple[Column, ...]
    indexes: tuple[UniqueIndex, ...]
    triggers: tuple[Trigger, ...]
    checks: tuple[tuple[str, str], ...]
    sequences: tuple[ColumnSequence, ...]

    @property
    def source(self) -> str:
        """Return what stands behind FROM: of a table with children by inheritance its own rows."""
        return self.name.sql if self.kind == "p" else f"ONLY {self.name.sql}"

    @property
    def plain_columns(self) -> tuple[Column, ...]:
        """Return the columns that can be given values."""
        return tuple(column for column in self.columns if not column.is_generated)

    def column(self, name: str) -> Column:
        """Return the column of a name that exists."""
        return next(column for column in self.columns if column.name == name)

    def find(self, name: str) -> Column | None:
        """Return the column of a name, None when there is none."""
        return next((column for column in self.columns if column.name == name), None)

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return the names of columns by their numbers."""
        known = {column.number: column.name for column in self.columns}
        return tuple(known[number] for number in numbers)

    def row_keys(self) -> list[tuple[str, ...]]:
        """Return each set of columns that names a row once, the primary key first."""
        never_null = {column.number for column in self.columns if column.not_null}
        found = [
            index
            for index in self.indexes
            if index.can_name_rows and never_null.issuperset(index.columns)
        ]
        found.sort(key=lambda index: (not index.is_primary, not index.is_replica_identity))
        return [self.names(index.columns) for index in found]


@dataclass(frozen=True, slots=True)
class NewDefinition:
    """What a merge made: `kind` is table, type, domain or schema.

    `stamp` stands for a table's definition once the merge was done with it.
    """

    kind: str
    name: TableName
    stamp: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """How tables, `names`, are made anew in a transaction that is open.

    `statements` were run, `later` are to be run when the rows are in. `fault` says why the tables
    could not be made: then nothing was run.
    """

    names: tuple[TableName, ...]
    statements: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    made: tuple[NewDefinition, ...] = ()
    warnings: tuple[str, ...] = ()
    fault: str | None = None
