"""Every row of the chosen tables with its class, in temporary tables; and rows as they stream out.

Table number i of a recovery has pg_temp.pitr_rows_<i>, which leaves `unrelated` rows out:

    n                 a number for each row, ascending by key
    key_0, key_1, …   the key in the live type, as it was before, or as the damage put it in
    class             the text of the RowClass
    mask              one character a compared column: '.' nothing, 'r' repair, 't' touched since
    reason            what keeps the row out of the plan, NULL when nothing does
    copies            only where rows have no key: how many of these rows are lost, or were put in

Rows without a key are known by their content: `key_<n>` is every column that all states have, by
its carried value. A row that was changed is one that is lost and another one that was put in. The
live server does the work, set by set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from pitr.diff.sql import POSTGRES, RowSource, class_sql
from pitr.postgres.diff.alignment import AFTER, ALIASES, BEFORE, LIVE, AlignedTable
from pitr.postgres.diff.candidates import Buckets, Limits, find_candidates
from pitr.postgres.diff.copying import CopiedRows
from pitr.postgres.diff.narrowing import find_written
from pitr.postgres.diff.staging import stage, stage_written
from pitr.postgres.diff.states import States, align_table
from pitr.postgres.diff.wide import WIDE, wide_column, wide_columns, wide_live, wide_source
from pitr.postgres.tables.definition import Creation
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import Connection, rows_of, run
from pitr.vocabulary.diff_row import DiffRow, Row, Verdict
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.row_class import RowClass

_FETCHED_ROWS = 500
_WHOLE_NUMBERS = ("int2", "int4", "int8", "oid")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedTable:
    """One table of a recovery, and how many of its rows are of each class.

    `key` and `columns` are live names, `key_<n>` of `rows_table` and character n of its mask in
    their order. `creation` is how the table was made anew, or why it was not, where that was asked
    for. `buckets` are those that checksums told to look at, `is_narrowed` says that the WAL told
    which blocks to; `where` is the condition that chose rows of before. `staged` is what the rows
    of before came to when they were staged, where that is known.
    """

    aligned: AlignedTable
    counts: dict[RowClass, int]
    warnings: tuple[str, ...]
    buckets: Buckets | None = None
    where: str | None = None
    creation: Creation | None = None
    is_narrowed: bool = False
    staged: CopiedRows | None = None

    @property
    def name(self) -> str:
        """Return the name of the live table, or the one before where there is none."""
        return self.aligned.name

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
    def rows_table(self) -> str:
        """Return the name of the table of the rows, as statements may use it."""
        return rows_name(self.aligned.index)

    @property
    def drift(self) -> SchemaDrift:
        """Return how the live table differs from what it was."""
        return self.aligned.drift


def rows_name(index: int) -> str:
    """Return the name of the table of the rows of table number `index`."""
    return f"pg_temp.pitr_rows_{index}"


def classify(states: States, limits: Limits | None = None) -> list[ClassifiedTable]:
    """Classify the rows of every table of the recovery, in the order of the recovery.

    Makes the temporary tables, inside the transactions that are open. Raises what `align_table`
    raises.
    """
    chosen = limits or Limits()
    return [classify_table(states, at, name, chosen) for at, name in enumerate(states.tables)]


def classify_table(states: States, index: int, name: TableName, limits: Limits) -> ClassifiedTable:
    """Stage and classify one table of the state before; `index` is a number of its own."""
    table = align_table(states, index, name)
    written = find_written(states, table, limits.narrowed_bytes)
    if written is not None:
        staged = stage_written(states, table, written)
        found = classify_staged(states.live, table, None, where=states.where)
        return replace(found, is_narrowed=True, staged=staged)
    buckets = find_candidates(states, table, limits)
    staged = stage(states, table, buckets)
    found = classify_staged(states.live, table, buckets, where=states.where)
    return replace(found, staged=staged)


def classify_again(live: Connection, table: ClassifiedTable) -> ClassifiedTable:
    """Classify the same staged rows beside live as it is now."""
    again = classify_staged(live, table.aligned, table.buckets, where=table.where)
    return replace(
        again, creation=table.creation, is_narrowed=table.is_narrowed, staged=table.staged
    )


def classify_staged(
    live: Connection, table: AlignedTable, buckets: Buckets | None, *, where: str | None = None
) -> ClassifiedTable:
    """Classify the rows of one table whose other states are staged."""
    run(live, f"DROP TABLE IF EXISTS {rows_name(table.index)}")
    select = _by_key(table, where) if table.key else _by_content(table, buckets, where)
    own = rows_name(table.index).partition(".")[2]
    run(live, f"CREATE TEMP TABLE {own} ON COMMIT DROP AS {select}")
    run(live, f"ANALYZE {rows_name(table.index)}")
    return ClassifiedTable(
        aligned=table,
        counts=class_counts(live, table),
        warnings=_warnings(table, where),
        buckets=buckets,
        where=where,
    )


def class_counts(live: Connection, table: AlignedTable) -> dict[RowClass, int]:
    """Count the rows of each class."""
    amount = "count(*)" if table.key else "sum(copies)"
    found = rows_of(
        live, f"SELECT class, {amount}::bigint FROM {rows_name(table.index)} GROUP BY 1 ORDER BY 1"
    )
    return {RowClass(name): int(count) for name, count in found}


def _warnings(table: AlignedTable, where: str | None) -> tuple[str, ...]:
    name = table.name
    found = list(table.drift.sentences(name))
    if not table.key:
        found.append(
            f"{name}: no key names its rows, so they are told apart by their content; "
            "a row that was changed counts as lost, and what became of it as put in"
        )
    if where is not None and table.after_known:
        found.append(f"{name}: only some rows were restored; rows put in since are not looked for")
    return tuple(found)


# --- by key --------------------------------------------------------------------------------------


def _by_key(table: AlignedTable, where: str | None) -> str:
    """Return the SELECT that classifies: a join of the staged states, and live looked up by key."""
    width, wide = range(len(table.key)), table.is_wide
    present = {state: f"({alias}.k0 IS NOT NULL)" for state, alias in ALIASES.items()}
    sources = {state: RowSource(ALIASES[state], present[state]) for state in ALIASES}
    found = class_sql(
        [f"c{at}" for at in range(len(table.columns))],
        before=sources[BEFORE],
        after=sources[AFTER] if table.after_known else None,
        live=sources[LIVE],
        dialect=WIDE if wide else POSTGRES,
        judged=None if table.judged is None else {f"c{at}" for at in table.judged},
        owned={f"c{at}" for at in table.owned},
    )
    masks = [
        f"CASE WHEN {repair} THEN 'r' WHEN {touched} THEN 't' ELSE '.' END"
        for repair, touched in zip(found.repair, found.touched, strict=True)
    ]
    keys = [f"CASE WHEN {present[BEFORE]} THEN b.k{at} ELSE a.k{at} END" for at in width]
    source = partial(wide_source, table) if wide else table.source
    joined = source(BEFORE)
    if table.after_known:
        how = "LEFT" if where is not None else "FULL"
        joined += f" {how} JOIN {source(AFTER)} ON {table.match('b.k{at}', 'a.k{at}')}"
        live_keys = table.agree([f"l.k{at}" for at in width], [f"({key})" for key in keys])
    else:
        keys = [f"b.k{at}" for at in width]
        live_keys = table.match("l.k{at}", "b.k{at}")
    if wide:
        joined += f" LEFT JOIN LATERAL {wide_live(table, keys)} ON TRUE"
        joined += wide_columns("bal" if table.after_known else "bl")
    else:
        joined += f" LEFT JOIN {table.source(LIVE)} ON {live_keys}"
    named = ", ".join(f"{key} AS key_{at}" for at, key in enumerate(keys))
    mask = "''"
    if masks:  # only of a row that is there before and live can a column be repaired, or touched
        both = f"{present[BEFORE]} AND {present[LIVE]}"
        mask = f"CASE WHEN {both} THEN {balanced(masks, '||')} ELSE '{'.' * len(masks)}' END"
    inner = f"SELECT {named}, {found.row_class} AS class, {mask} AS mask FROM {joined}"
    related = f" WHERE class <> '{RowClass.UNRELATED}'"
    if not wide:  # asked first, so that no mask is made of rows that nothing happened to
        inner, related = f"{inner} WHERE {found.row_class} <> '{RowClass.UNRELATED}'", ""
    order = ", ".join(f"key_{at}" for at in width)
    # OFFSET 0: so that rows are sorted without their columns.
    return (
        f"SELECT row_number() OVER (ORDER BY {order}) AS n, {order}, class, mask,"
        f" NULL::text AS reason FROM ({inner} OFFSET 0) AS classed{related}"
    )


def balanced(parts: list[str], sign: str) -> str:
    """Return expressions joined by a sign, nested as a balanced tree: a deep one costs stack."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({balanced(parts[:middle], sign)} {sign} {balanced(parts[middle:], sign)})"


# --- by content ----------------------------------------------------------------------------------


def _by_content(table: AlignedTable, buckets: Buckets | None, where: str | None) -> str:
    """Return the SELECT that counts the copies of each row in the states.

    Lost are those of which before has more than both after and live, put in those of which it has
    fewer. Where after is not known, or a condition chose rows of before, only lost ones are
    told.
    """
    width = range(len(table.columns))
    columns = ", ".join(f"c{at}" for at in width)
    keys = ", ".join(f"c{at} AS key_{at}" for at in width)
    lost = "least(sum(gone_after), sum(gone_live))" if table.after_known else "sum(gone_live)"
    row_class, copies = f"'{RowClass.LOST}'", lost
    if table.after_known and where is None:
        copies = f"greatest({lost}, -greatest(sum(gone_after), sum(gone_live)))"
        row_class = f"CASE WHEN {lost} > 0 THEN {row_class} ELSE '{RowClass.BOGUS_INSERT}' END"
    parts = [
        f"SELECT copies AS gone_after, copies AS gone_live, {columns} FROM {table.source(BEFORE)}"
    ]
    if table.after_known:
        parts.append(f"SELECT -copies, 0, {columns} FROM {table.source(AFTER)}")
    parts.append(f"SELECT 0, -copies, {columns} FROM {live_contents(table, buckets)}")
    return (
        f"SELECT row_number() OVER (ORDER BY {columns}) AS n, {keys}, ({row_class})::text"
        f" AS class, ''::text AS mask, NULL::text AS reason, ({copies})::bigint AS copies"
        f" FROM ({' UNION ALL '.join(parts)}) AS counted GROUP BY {columns} HAVING {copies} > 0"
    )


def live_contents(table: AlignedTable, buckets: Buckets | None) -> str:
    """Return what stands behind FROM for the live rows of a table without a key, with `copies`."""
    width = range(len(table.columns))
    if table.live is None:
        none = ", ".join(f"c{at}" for at in width)
        return f"(SELECT {none}, copies FROM {table.staged(BEFORE)} WHERE FALSE) AS l"
    taken = ", ".join(f"{c.image(LIVE, 't')} AS c{at}" for at, c in enumerate(table.columns))
    chosen = f" WHERE {buckets.condition(table, LIVE)}" if buckets else ""
    groups = ", ".join(str(at + 1) for at in width)
    return (
        f"(SELECT {taken}, count(*) AS copies {table.rows_in(LIVE)}{chosen} GROUP BY {groups}) AS l"
    )


# --- rows ----------------------------------------------------------------------------------------


def stream_rows(
    live: Connection,
    table: ClassifiedTable,
    classes: Collection[RowClass] | None = None,
    limit: int | None = None,
) -> Iterator[DiffRow]:
    """Yield the rows in the order of their keys, with the values of `columns` in each state.

    A value is an int, or the text that PostgreSQL writes of it. Without a key the values are those
    of `key`, and a row that is lost, or was put in, several times comes as often. Reads as it goes,
    inside the open transaction, a few hundred rows at a time.
    """
    statement = _content_statement(table) if table.keyless else _key_statement(table)
    if classes is not None:
        names = ", ".join(f"'{row_class}'" for row_class in sorted(classes)) or "NULL"
        statement += f" WHERE r.class IN ({names})"
    statement += " ORDER BY r.n" + ("" if limit is None else f" LIMIT {limit}")
    name = f"pitr_diff_{table.aligned.index}"
    with live.cursor(name) as cursor:
        cursor.itersize = _FETCHED_ROWS
        cursor.execute(statement.encode())
        for row in cursor:
            yield _diff_row(table, row)


def _content_statement(table: ClassifiedTable) -> str:
    shown = [_shown(f"r.key_{at}", c.carried) for at, c in enumerate(table.aligned.columns)]
    return (
        f"SELECT {', '.join(['r.class', 'r.mask', *shown])}"
        f" FROM {table.rows_table} AS r CROSS JOIN LATERAL generate_series(1, r.copies)"
    )


def _key_statement(table: ClassifiedTable) -> str:
    aligned = table.aligned
    states = [state for state in (BEFORE, AFTER, LIVE) if state in aligned.sides]
    taken = ["r.class", "r.mask"]
    taken += [_shown(f"r.key_{at}", column.own.carried) for at, column in enumerate(aligned.key)]
    joined = ""
    for state in states:
        alias = ALIASES[state]
        taken += [f"({alias}.k0 IS NOT NULL)"]
        match = aligned.match(f"{alias}.k{{at}}", "r.key_{at}")
        if aligned.is_wide:
            texts = [f"{wide_column(alias, at)}::text" for at in range(len(aligned.columns))]
            taken.append(f"ARRAY[{', '.join(texts)}]::text[]")
            keys = [f"r.key_{at}" for at in range(len(aligned.key))]
            joined += " LEFT JOIN " + (
                f"LATERAL {wide_live(aligned, keys)} ON TRUE"
                if state == LIVE
                else f"{wide_source(aligned, state)} ON {match}"
            )
            continue
        taken += [_shown(f"{alias}.c{at}", c.carried) for at, c in enumerate(aligned.columns)]
        joined += f" LEFT JOIN {aligned.source(state)} ON {match}"
    if aligned.is_wide:
        joined += wide_columns(ALIASES[state] for state in states)
        named = [f"{value} AS v{at}" for at, value in enumerate(taken)]
        inner = f"SELECT r.n, {', '.join(named)} FROM {table.rows_table} AS r{joined} OFFSET 0"
        shown = ", ".join(f"r.v{at}" for at in range(len(taken)))
        return f"SELECT {shown} FROM (SELECT v0 AS class, * FROM ({inner}) AS i) AS r"
    return f"SELECT {', '.join(taken)} FROM {table.rows_table} AS r{joined}"


def _shown(value: str, carried: str) -> str:
    """Return a value as a diff shows it: a whole number, or the text of anything else."""
    return value if carried in _WHOLE_NUMBERS else f"({value})::text"


def _diff_row(table: ClassifiedTable, row: Row) -> DiffRow:
    width, size = len(table.columns), len(table.key)
    verdict, key = _verdict(str(row[0]), str(row[1])), row[2 : 2 + size]
    if table.keyless:
        was, now = (key, None) if verdict.row_class is RowClass.LOST else (None, key)
        return DiffRow(table=table.name, key=(), verdict=verdict, before=was, after=now, live=now)
    images: dict[str, Row | None] = {}
    at = 2 + size
    for state in (BEFORE, AFTER, LIVE):
        if state in table.aligned.sides and table.aligned.is_wide:
            images[state] = _numbered(table, row[at + 1]) if row[at] else None
            at += 2
        elif state in table.aligned.sides:
            images[state] = row[at + 1 : at + 1 + width] if row[at] else None
            at += 1 + width
    return DiffRow(
        table=table.name,
        key=key,
        verdict=verdict,
        before=images.get(BEFORE),
        after=images.get(AFTER),
        live=images.get(LIVE),
    )


def _numbered(table: ClassifiedTable, texts: Any) -> Row:
    """Return the values of a row that came as an array of texts."""
    return tuple(
        int(text) if text is not None and column.carried in _WHOLE_NUMBERS else text
        for column, text in zip(table.aligned.columns, texts, strict=True)
    )


@lru_cache(maxsize=1024)
def _verdict(name: str, mask: str) -> Verdict:
    """Return what a row of the table says; the same few come again and again."""
    return Verdict(
        RowClass(name),
        repair_columns=tuple(at for at, mark in enumerate(mask) if mark == "r"),
        touched_columns=tuple(at for at, mark in enumerate(mask) if mark == "t"),
    )
