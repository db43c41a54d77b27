"""Every row of the chosen tables with its class, in temporary tables; and rows as they stream out.

Table number i of a recovery has temp.pitr_rows_<i>, which leaves `unrelated` rows out:

    key_0, key_1, …   the key as it was before, or as it was put in by the damage
    class             the text of the RowClass
    mask              one character a compared column: '.' nothing, 'r' repair, 't' touched since
    copies            only where rows have no key: how many of these rows are lost

An integer key is the rowid of that table, any other key its PRIMARY KEY, under the collation by
which the states are matched. Rows without a key are known by their content: `key` is every column
that all states have, the class is always `lost`, and rows that were changed cannot be told from
rows that were removed. SQLite does the work, set by set, with sorts that go to a file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, repeat

import apsw

from pitr.diff.sql import SQLITE
from pitr.errors import UsageError
from pitr.sqlite.diff.alignment import ALIASES, AlignedTable, SharedColumn, align
from pitr.sqlite.diff.candidates import Limits, find_candidates
from pitr.sqlite.diff.joining import RowsTable, balanced, rows_name
from pitr.sqlite.diff.states import AFTER, BEFORE, LIVE, States
from pitr.sqlite.statement.faults import sqlite_faults, sqlite_says
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.diff_row import DiffRow, Row, Value, Verdict
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.row_class import RowClass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedTable:
    """One table of a recovery, and how many of its rows are of each class.

    `name` is the live name, or the one before where there is no live table. `key` and `columns`
    are live names, `key_<n>` of `rows_table` and character n of its mask in their order. A key
    column stands in both where keys that match may still differ: under NOCASE, or 1 and 1.0.
    `narrowed` says that pages told which rows to look at.
    """

    index: int
    aligned: AlignedTable
    counts: dict[RowClass, int]
    warnings: tuple[str, ...]
    narrowed: bool

    @property
    def name(self) -> str:
        """Return the name of the live table."""
        return (self.aligned.sides.get(LIVE) or self.aligned.sides[BEFORE]).table.name

    @property
    def before_name(self) -> str:
        """Return the name of the table in the sidecar."""
        return self.aligned.before.name

    @property
    def after_name(self) -> str | None:
        """Return the name just after the damage, None when it did not exist or is not known."""
        side = self.aligned.sides.get(AFTER)
        return side.table.name if side else None

    @property
    def keyless(self) -> bool:
        """Return whether no key names the rows, so that `key` is all of their content."""
        return not self.aligned.key

    @property
    def key(self) -> tuple[str, ...]:
        """Return the columns that name a row."""
        chosen = self.aligned.columns if self.keyless else self.aligned.key
        return tuple(column.name for column in chosen)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are compared."""
        return () if self.keyless else tuple(column.name for column in self.aligned.columns)

    @property
    def insert_columns(self) -> tuple[str, ...]:
        """Return every column that a lost row is given a value of, each once."""
        return tuple(dict.fromkeys(self.key + self.columns))

    @property
    def rows_table(self) -> str:
        """Return the name of the table of the rows, as statements may use it."""
        return rows_name(self.index)

    @property
    def drift(self) -> SchemaDrift:
        """Return how the live table differs from what it was."""
        return self.aligned.drift

    def name_in(self, schema: str, column: str) -> str:
        """Return what a column, given by its live name, is called in a state."""
        every = (*self.aligned.key, *self.aligned.columns)
        return next(found.names[schema] for found in every if found.name == column)

    def match(self, schema: str, *, rows: str = "r", alias: str) -> str:
        """Return the condition that a row of a state has the key of a row of `rows_table`.

        `rows` and `alias` are what the statement calls the two. Not for rows without a key.
        """
        aligned = self.aligned
        return " AND ".join(
            f"{alias}.{quoted(column.names[schema])} = {rows}.key_{at}{aligned.collate(column)}"
            for at, column in enumerate(aligned.key)
        )


def classify(states: States, limits: Limits | None = None) -> list[ClassifiedTable]:
    """Classify the rows of every table of the recovery, in the order of the recovery.

    Makes the temporary tables, inside the transaction that is open; making them again replaces
    them. `limits` says where narrowing by pages ends. Raises what reading the states raises.
    """
    with sqlite_faults("cannot compare the recovery with the live database"):
        tables = align(states)
        candidates = find_candidates(states, tables, limits or Limits())
        return [
            _classify_one(states, number, table, candidates.get(number))
            for number, table in enumerate(tables)
        ]


def _classify_one(
    states: States, number: int, table: AlignedTable, candidates: str | None
) -> ClassifiedTable:
    RowsTable(states, number, table, candidates).fill()
    return ClassifiedTable(
        index=number,
        aligned=table,
        counts=_counts(states, number, table),
        warnings=_warnings(states, table),
        narrowed=candidates is not None,
    )


def _counts(states: States, number: int, table: AlignedTable) -> dict[RowClass, int]:
    amount = "count(*)" if table.key else "sum(copies)"
    found = states.connection.execute(
        f"SELECT class, {amount} FROM {rows_name(number)} GROUP BY class ORDER BY class"
    )
    return {RowClass(str(name)): int(str(count)) for name, count in found}


def _warnings(states: States, table: AlignedTable) -> tuple[str, ...]:
    name = table.before.name
    found = list(table.drift.sentences(name))
    if not table.columns and not table.key:
        found.append(f"{name}: no column is left to compare by")
    elif not table.key:
        found.append(
            f"{name}: no key names its rows, so they are told apart by their content; "
            "a row that was changed counts as lost"
        )
    if name in states.sources.columns:
        found.append(_of_columns(states.sources.columns[name], table))
    if states.sources.has_condition and table.after_known:
        found.append(f"{name}: only some rows were restored; rows put in since are not looked for")
    return (*found, *_computed_otherwise(states, table))


def _of_columns(columns: Sequence[str], table: AlignedTable) -> str:
    names = ", ".join(columns)
    if not table.key:
        return f"{table.before.name}: no key names its rows, so they are not compared by {names}"
    return (
        f"{table.before.name}: only {names} compared and set back; rows that are gone come back"
        " whole"
    )


def _computed_otherwise(states: States, table: AlignedTable) -> list[str]:
    """Return a warning for each generated column that gives something else from the same values.

    Values can only differ when the text of the table does.
    """
    live = table.sides.get(LIVE)
    if live is None or not table.key or live.table.sql == table.before.sql:
        return []
    return [warning for column in table.computed if (warning := _computed(states, table, column))]


def _computed(states: States, table: AlignedTable, column: SharedColumn) -> str | None:
    joined = replace(table, columns=(*table.columns, column))
    *same, computed = (SQLITE.equal(f"b.c{at}", f"l.c{at}") for at in range(len(joined.columns)))
    condition = balanced([*same, f"NOT {computed}"], "AND")
    try:
        count = states.connection.execute(
            f"SELECT count(*) FROM {joined.source(BEFORE)} JOIN {joined.source(LIVE)}"
            f" ON {joined.match('l.k{at}', 'b.k{at}')} WHERE {condition}"
        ).get
    except apsw.SQLError as error:
        return f"{table.before.name}: {column.name} cannot be computed here. {sqlite_says(error)}"
    if not count:
        return None
    return (
        f"{table.before.name}: the generated column {column.name} differs in {count} rows whose "
        "other columns are the same: it is computed otherwise now"
    )


def let_go_of_live(states: States, tables: Sequence[ClassifiedTable]) -> None:
    """End the read transaction, with the live rows that are to be shown copied beforehand.

    A reader never blocks a writer, but it keeps the WAL from being started anew: whoever shows rows
    to a person must not hold it for as long as that person reads. Then only `stream_rows` and
    attribution know of live.
    """
    with sqlite_faults("cannot read the live rows"):
        for table in tables:
            _copy_live(states, table)
        states.end()


def _live_copy(table: ClassifiedTable) -> str:
    return f"temp.pitr_live_{table.index}"


def _copy_live(states: States, table: ClassifiedTable) -> None:
    aligned = table.aligned
    if table.keyless or LIVE not in aligned.sides:
        return
    keys = [f"k{at}" for at in range(len(table.key))]
    columns = [f"c{at}" for at in range(len(table.columns))]
    body = aligned.keyed_columns("k", *columns)
    states.connection.execute(f"DROP TABLE IF EXISTS {_live_copy(table)}")
    states.connection.execute(f"CREATE TABLE {_live_copy(table)} {body}")
    taken = [f"r.key_{at}" for at in range(len(keys))] + [f"l.{name}" for name in columns]
    states.connection.execute(
        f"INSERT INTO {_live_copy(table)} SELECT {', '.join(taken)} FROM {table.rows_table} AS r"
        f" JOIN {aligned.source(LIVE)} ON {aligned.match('l.k{at}', 'r.key_{at}')}"
    )


# --- rows ----------------------------------------------------------------------------------------


def stream_rows(
    states: States,
    table: ClassifiedTable,
    classes: Collection[RowClass] | None = None,
    limit: int | None = None,
) -> Iterator[DiffRow]:
    """Yield the rows in the order of their keys, with the values of `columns` in each state.

    Without a key, the values are those of `key`, and a row that is lost several times comes as
    often. Reads as it goes, inside the transaction that is open. Raises UsageError for a text that
    is not valid Unicode.
    """
    chosen = "" if classes is None else _condition(classes)
    ending = "" if limit is None else f" LIMIT {limit}"
    with sqlite_faults("cannot read the rows"):
        try:
            if table.keyless:
                rows = _rows_by_content(states, table, chosen)
                yield from rows if limit is None else islice(rows, limit)
            else:
                yield from _rows_by_key(states, table, chosen, ending)
        except UnicodeDecodeError as error:
            raise _not_unicode(table, error) from error


def _condition(classes: Collection[RowClass]) -> str:
    names = ", ".join(f"'{row_class}'" for row_class in sorted(classes))
    return f" WHERE r.class IN ({names})"


def _rows_by_content(states: States, table: ClassifiedTable, chosen: str) -> Iterator[DiffRow]:
    if not table.key:
        return
    keys = ", ".join(f"key_{at}" for at in range(len(table.key)))
    rows = states.connection.execute(f"SELECT copies, {keys} FROM {table.rows_table} AS r{chosen}")
    for copies, *content in rows:
        row = DiffRow(
            table=table.name,
            key=(),
            verdict=Verdict(RowClass.LOST),
            before=tuple(content),
            after=None,
            live=None,
        )
        yield from repeat(row, int(str(copies)))


def _rows_by_key(
    states: States, table: ClassifiedTable, chosen: str, ending: str
) -> Iterator[DiffRow]:
    """Read the rows and each state by cursors of their own, in step.

    One statement for all would have more columns than SQLite allows where a table is very wide.
    """
    aligned = table.aligned
    order = f"{chosen} ORDER BY {', '.join(f'r.key_{at}' for at in range(len(table.key)))}{ending}"
    keys = ", ".join(f"r.key_{at}" for at in range(len(table.key)))
    execute = states.connection.execute
    rows = execute(f"SELECT r.class, r.mask, {keys} FROM {table.rows_table} AS r{order}")
    images = [
        execute(_images_statement(states, table, schema, order))
        if schema in aligned.sides
        else None
        for schema in (BEFORE, AFTER, LIVE)
    ]
    for name, mask, *key in rows:
        before, after, live = (next(cursor) if cursor else (None,) for cursor in images)
        yield DiffRow(
            table=table.name,
            key=tuple(key),
            verdict=_verdict(str(name), str(mask)),
            before=_image(before),
            after=_image(after),
            live=_image(live),
        )


def _images_statement(states: States, table: ClassifiedTable, schema: str, order: str) -> str:
    alias = ALIASES[schema]
    source = table.aligned.source(schema)
    if schema == LIVE and states.has_ended:
        source = f"{_live_copy(table)} AS {alias}"
    taken = [f"{alias}.k0 IS NOT NULL"]
    taken += [f"{alias}.c{at}" for at in range(len(table.columns))]
    match = table.aligned.match(f"{alias}.k{{at}}", "r.key_{at}")
    return (
        f"SELECT {', '.join(taken)} FROM {table.rows_table} AS r"
        f" LEFT JOIN {source} ON {match}{order}"
    )


def _image(found: Sequence[Value]) -> Row | None:
    """Return the values behind the flag that says whether there is a row."""
    return tuple(found[1:]) if found[0] else None


@lru_cache(maxsize=1024)
def _verdict(name: str, mask: str) -> Verdict:
    """Return what a row of the table says; the same few come again and again."""
    return Verdict(
        RowClass(name),
        repair_columns=tuple(at for at, mark in enumerate(mask) if mark == "r"),
        touched_columns=tuple(at for at, mark in enumerate(mask) if mark == "t"),
    )


def _not_unicode(table: ClassifiedTable, error: UnicodeDecodeError) -> UsageError:
    return UsageError(
        f"a row of {table.name} holds text that is not valid UTF-8",
        detail=f"It begins with {error.object[:20]!r}. A merge brings it back as it was; it cannot"
        " be shown.",
        hint="Show the counts alone with '--limit 0'.",
    )
