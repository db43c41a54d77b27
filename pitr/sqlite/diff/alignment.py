"""One table in its three states, side by side: which columns name its rows, which are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apsw

from pitr.errors import PreconditionFailed
from pitr.sqlite.diff.drift import columns_by_name, drift_between
from pitr.sqlite.diff.lineage import Lineage, TableThen
from pitr.sqlite.diff.row_key import PlacedTable, key_collation, shared_key
from pitr.sqlite.diff.span import Span
from pitr.sqlite.diff.states import AFTER, BEFORE, LIVE, States
from pitr.sqlite.past.definition import Affinity, parse_table
from pitr.sqlite.past.replay import BUILTIN_COLLATIONS
from pitr.sqlite.past.tables import PastTable, find_table, folded
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.drift import SchemaDrift

ALIASES = {BEFORE: "b", AFTER: "a", LIVE: "l"}


@dataclass(frozen=True, slots=True)
class SharedColumn:
    """One column under its name in each state, by schema name; `collation` matters in keys."""

    names: Mapping[str, str]
    collation: str = "BINARY"

    @property
    def name(self) -> str:
        """Return the live name, or the one before where there is no live table."""
        return self.names.get(LIVE) or self.names[BEFORE]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTable:
    """One table in the states that have it.

    `columns` are compared; where only some of them count, `judged` has their places. `key` names
    each row once in all states; it is empty for rows that are only known by their content.
    `computed` are the columns generated both before and live. `last_name` is what the table was
    called last in the archive.
    Statements call the states by `ALIASES`, the columns of the key `k0`, `k1`, … and those of
    `columns` `c0`, `c1`, ….
    """

    sides: Mapping[str, PlacedTable]
    after_known: bool
    key: tuple[SharedColumn, ...]
    columns: tuple[SharedColumn, ...]
    computed: tuple[SharedColumn, ...]
    has_integer_key: bool
    drift: SchemaDrift
    last_name: str
    judged: frozenset[int] | None = None

    @property
    def before(self) -> PastTable:
        """Return the table of the sidecar."""
        return self.sides[BEFORE].table

    def source(self, schema: str, *, alias: str | None = None) -> str:
        """Return what to put behind FROM or JOIN for a state; without the table it has no rows."""
        side = self.sides.get(schema)
        taken = [
            f"{quoted(column.names[schema]) if side else 'NULL'} AS {prefix}{at}"
            for prefix, columns in (("k", self.key), ("c", self.columns))
            for at, column in enumerate(columns)
        ]
        rows = f"FROM {side.sql_name}" if side else "WHERE FALSE"
        return f"(SELECT {', '.join(taken)} {rows}) AS {alias or ALIASES[schema]}"

    def match(self, left: str, right: str) -> str:
        """Return the condition that two rows have the same key.

        `left` and `right` are like `b.k{at}` and `r.key_{at}`, where `{at}` is the number.
        """
        return " AND ".join(
            f"{left.format(at=at)} = {right.format(at=at)}{self.collate(column)}"
            for at, column in enumerate(self.key)
        )

    def keyed_columns(self, prefix: str, *more: str) -> str:
        """Return the body of a CREATE TABLE whose primary key is the key, in its order."""
        names = [f"{prefix}{at}" for at in range(len(self.key))]
        if self.has_integer_key:
            return f"({', '.join([f'{names[0]} INTEGER PRIMARY KEY', *more])})"
        columns = [
            f"{name} COLLATE {column.collation}"
            for name, column in zip(names, self.key, strict=True)
        ]
        key = f"PRIMARY KEY ({', '.join(names)})"
        return f"({', '.join([*columns, *more, key])}) WITHOUT ROWID"

    def content_columns(self, prefix: str) -> Iterator[str]:
        """Yield the definition of each compared column, for a table of rows without a key.

        With affinity and collation of the column before: foreign keys compare by them. The values
        have been through that affinity already, and stay what they are.
        """
        declared = {column.name: column for column in parse_table(self.before.sql).columns}
        for at, column in enumerate(self.columns):
            found = declared[column.names[BEFORE]]
            known = found.collation.upper() in BUILTIN_COLLATIONS
            collation = found.collation if known else "BINARY"
            yield f"{prefix}{at} {found.affinity} COLLATE {collation}"

    def collate(self, column: SharedColumn) -> str:
        """Return the COLLATE of a key column in a comparison."""
        return "" if self.has_integer_key else f" COLLATE {column.collation}"


def align(states: States) -> list[AlignedTable]:
    """Find the tables of the recovery in all states, inside the transaction that is open."""
    names = states.sources.tables
    after: dict[str, TableThen] = {}
    last: dict[str, TableThen] = {}
    span = states.span
    if span is not None:
        lineage = Lineage(span, names)
        if states.sources.after_commit is not None:
            after = lineage.advance_to(states.sources.after_commit)
        last = lineage.advance_to(span.last)
    live_is_last = span is not None and _is_live_schema(states, span)
    return [
        _align_one(states, name, after.get(name), last.get(name), live_is_last=live_is_last)
        for name in names
    ]


def _is_live_schema(states: States, span: Span) -> bool:
    """Return whether the live schema is that of the newest state of the span."""
    if states.live_commit == span.last:
        return True
    header = span.snapshot(span.last).header
    return bool(states.connection.execute("PRAGMA main.schema_version").get == header.schema_cookie)


def _align_one(
    states: States,
    name: str,
    then: TableThen | None,
    last: TableThen | None,
    *,
    live_is_last: bool,
) -> AlignedTable:
    connection = states.connection
    before = find_table(connection, BEFORE, name)
    if before is None:
        raise PreconditionFailed(
            f"the sidecar no longer holds the table {name}",
            detail=f"It was changed: {states.sources.sidecar}.",
            hint="Restore again.",
        )
    own = {folded(column.name): column.name for column in before.columns}
    maps = {BEFORE: own}
    tables = {BEFORE: before}
    for schema, found in ((AFTER, then), (LIVE, last)):
        if schema == AFTER and states.after is None:
            continue
        entry = found.entry if found else None
        # Beyond what is archived a table is known by its name alone.
        is_gone = found is not None and entry is None and (schema == AFTER or live_is_last)
        table = None
        if not is_gone:
            known = found.last_entry.name if found and found.last_entry else name
            table = find_table(connection, schema, known)
        if table is None:
            continue
        tables[schema] = table
        maps[schema] = _columns(before, table, found)
    return _aligned(states, tables, maps, last)


def _columns(before: PastTable, table: PastTable, then: TableThen | None) -> dict[str, str]:
    """Return under which names of a table the columns before are known, by folded name.

    One that was dropped and is there again is taken for the same: its values are what is missing.
    """
    by_name = columns_by_name(before, table)
    if then is None or before.virtual or table.virtual:
        return by_name
    now = {folded(column.name): column.name for column in table.columns}
    found = {
        first: now[folded(name)] for first, name in then.columns.items() if folded(name) in now
    }
    taken = set(found.values())
    return found | {
        first: name for first, name in by_name.items() if first not in found and name not in taken
    }


def _aligned(
    states: States,
    tables: Mapping[str, PastTable],
    maps: Mapping[str, Mapping[str, str]],
    last: TableThen | None,
) -> AlignedTable:
    sides = {
        schema: PlacedTable(schema, table, _shared_names(table, maps[schema]))
        for schema, table in tables.items()
    }
    first = LIVE if LIVE in sides else BEFORE
    ordered = [sides[first], *(side for schema, side in sides.items() if schema != first)]
    key_names = shared_key(states.connection, ordered)
    key = tuple(_shared(states.connection, sides, first, name) for name in key_names)
    columns = _compared(sides, first)
    has_integer_key = _has_integer_key(sides, key)
    exact = {column.name for column in key if has_integer_key or _is_exact(sides, column)}
    drift = drift_between(
        tables[BEFORE],
        tables.get(LIVE),
        maps.get(LIVE, {}),
        compared=[column.name for column in columns],
        recreated=last is not None and last.is_recreated,
    )
    columns = [column for column in columns if column.name not in exact]
    return AlignedTable(
        sides=sides,
        after_known=states.after is not None,
        key=key,
        columns=tuple(columns),
        computed=tuple(_computed(sides)),
        has_integer_key=has_integer_key,
        drift=drift,
        last_name=last.last_entry.name if last and last.last_entry else tables[BEFORE].name,
        judged=_judged(states.sources.columns.get(tables[BEFORE].name), key, columns),
    )


def _judged(
    chosen: Sequence[str] | None, key: Sequence[SharedColumn], columns: Sequence[SharedColumn]
) -> frozenset[int] | None:
    """Return the places of the columns that count: those chosen, and the key's.

    Without a key a row is its content: then all of them do.
    """
    if chosen is None or not key:
        return None
    names = {folded(name) for name in chosen} | {folded(one.names[BEFORE]) for one in key}
    places = (at for at, one in enumerate(columns) if folded(one.names[BEFORE]) in names)
    return frozenset(places)


def _shared_names(table: PastTable, known: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each column of a state as all states know it: the folded one before.

    A column that was not there before gets a name that none there can have.
    """
    first = {folded(name): before for before, name in known.items()}
    names = (folded(column.name) for column in table.columns)
    return {name: first.get(name, f"\0{name}") for name in names}


def _compared(sides: Mapping[str, PlacedTable], first: str) -> list[SharedColumn]:
    """Return the columns that can be given values in every state, in the order of `first`."""
    own = {
        schema: {side.shared(name): name for name in side.table.plain_columns}
        for schema, side in sides.items()
    }
    found = []
    for name in sides[first].table.plain_columns:
        shared = sides[first].shared(name)
        if all(shared in names for names in own.values()):
            found.append(SharedColumn({schema: names[shared] for schema, names in own.items()}))
    return found


def _computed(sides: Mapping[str, PlacedTable]) -> Iterator[SharedColumn]:
    """Yield the columns that are generated before and live."""
    before, live = sides[BEFORE], sides.get(LIVE)
    now = (
        {live.shared(c.name): c.name for c in live.table.columns if c.is_generated} if live else {}
    )
    for column in before.table.columns:
        shared = before.shared(column.name)
        if column.is_generated and shared in now:
            yield SharedColumn({BEFORE: column.name, LIVE: now[shared]})


def _shared(
    connection: apsw.Connection, sides: Mapping[str, PlacedTable], first: str, name: str
) -> SharedColumn:
    """Return a key column with its names and the collation to compare it by."""
    if sides[first].table.virtual:
        return SharedColumn(dict.fromkeys(sides, name))
    shared = sides[first].shared(name)
    names = {
        schema: next(c for c in side.table.plain_columns if side.shared(c) == shared)
        for schema, side in sides.items()
    }
    collation = key_collation(connection, list(sides.values()), list(names.values()))
    return SharedColumn(names, collation)


def _has_integer_key(sides: Mapping[str, PlacedTable], key: Sequence[SharedColumn]) -> bool:
    if len(key) != 1:
        return False
    return all(
        side.table.virtual or side.table.integer_key == key[0].names[schema]
        for schema, side in sides.items()
    )


def _is_exact(sides: Mapping[str, PlacedTable], column: SharedColumn) -> bool:
    """Return whether equal keys are equal values: not under NOCASE, not where 1 and 1.0 differ."""
    if column.collation != "BINARY":
        return False
    affinities = {
        next(c.affinity for c in parse_table(side.table.sql).columns if c.name == own)
        for own, side in ((column.names[schema], side) for schema, side in sides.items())
    }
    return len(affinities) == 1 and Affinity.BLOB not in affinities
