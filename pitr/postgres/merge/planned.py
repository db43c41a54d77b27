"""One table of a plan: which rows are to be written, and the SQL fragments that all steps share.

Every statement about the rows of a plan joins up to four relations, under these aliases:

    r   pg_temp.pitr_rows_<i>: number, key, class, mask; and `reason`, set where a blocker
        leaves a row out
    b   the row as it was, by its carried values
    l   the live row, with every column that the live table has
    x   pg_temp.pitr_become_<i>: the row as it is to become, of the live table's columns and
        types, and its number in "pitr n"; or the same out of b, where b has all of it

A row is written by its class, and only while it has no reason against it. The server is asked set
by set; no row passes through Python but those shown to a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pitr.merge.blocking import KEYS_SHOWN
from pitr.postgres.diff.alignment import BEFORE, LIVE, AlignedTable, SharedColumn
from pitr.postgres.diff.classified import ClassifiedTable, balanced
from pitr.postgres.diff.copying import CopiedRows
from pitr.postgres.tables.definition import Column, ColumnSequence, Table
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, rows_of, run, value_of
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action, RowClass

NUMBER = '"pitr n"'
_NUMBERS = (20, 21, 23, 1700)
_COLUMNS_MAX = 1600  # MaxHeapAttributeNumber
_WRITING = (Action.INSERT, Action.UPDATE, Action.DELETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTable:
    """One table of a plan; `live` is there, or the table is blocked and no row of it is written.

    `values` are columns added since, with SQL over the row as it was. `is_as_staged`: every row is
    to be inserted as it was, and b has no other rows, so that x needs no table of its own. `staged`
    is what these rows came to when they were staged, where that is known. `left_out` has how many
    rows of each class have a reason against them, once that is settled.
    """

    classified: ClassifiedTable
    actions: Mapping[RowClass, Action]
    values: tuple[tuple[str, str], ...] = ()
    is_as_staged: bool = False
    staged: CopiedRows | None = None
    left_out: Mapping[RowClass, int] = field(default_factory=dict)

    @property
    def aligned(self) -> AlignedTable:
        """Return the table in its states."""
        return self.classified.aligned

    @property
    def name(self) -> str:
        """Return the name as people read it."""
        return self.classified.name

    @property
    def live(self) -> Table:
        """Return the live table."""
        assert self.aligned.live is not None, f"{self.name} is missing"
        return self.aligned.live

    @property
    def is_missing(self) -> bool:
        """Return whether there is no live table."""
        return self.aligned.live is None

    @property
    def is_made_anew(self) -> bool:
        """Return whether the live table was made in the transaction of the plan."""
        return self.aligned.drift.missing and not self.is_missing

    @property
    def keyless(self) -> bool:
        """Return whether no key names the rows."""
        return self.classified.keyless

    @property
    def rows(self) -> str:
        """Return the name of the table of the rows."""
        return self.classified.rows_table

    @property
    def become(self) -> str:
        """Return what stands behind FROM for the rows as they are to become, without numbers."""
        if self.is_as_staged:
            return self._staged()
        return f"pg_temp.pitr_become_{self.aligned.index}"

    @property
    def staged_taken(self) -> str:
        """Return the list of the columns of b, here `s`, in the form in which its rows came."""
        return ", ".join(f"s.{name}" for name, _ in self.aligned.staged_columns())

    @property
    def staged_rows(self) -> str:
        """Return a SELECT of the rows of b in that form."""
        return f"SELECT {self.staged_taken} FROM {self.aligned.staged(BEFORE)} AS s"

    def _staged(self, number: str = "", condition: str = "") -> str:
        taken = [f"{value} AS {quoted(name)}" for name, value in self.restored("y")]
        taken += [f"{number} AS {NUMBER}"] if number else []
        source = self.aligned.staged_source("y")
        return f"(SELECT {', '.join(taken)} FROM {source}{condition})"

    @property
    def in_order(self) -> str:
        """Return the ORDER BY that brings `x`, as `become` has it, into the order it is written in.

        Rows as staged come as they lay before: sorting them whole costs more than it saves.
        """
        return "" if self.is_as_staged else f" ORDER BY x.{NUMBER}"

    def carried(self, alias: str = "b") -> Iterator[tuple[SharedColumn, str]]:
        """Yield each column that both states have, with its carried value in a row of `b`."""
        compared = {column.name for column in self.aligned.columns}
        for at, column in enumerate(self.aligned.key):
            if column.name not in compared:
                yield column, f"{alias}.k{at}"
        for at, column in enumerate(self.aligned.columns):
            yield column, f"{alias}.c{at}"

    def restored(self, alias: str = "b") -> Iterator[tuple[str, str]]:
        """Yield the names of these columns with their values in the types of live."""
        for column, value in self.carried(alias):
            yield column.name, column.own.typed(value)

    @property
    def is_numbered(self) -> bool:
        """Return whether that table has a column for numbers: no table has more than 1600."""
        return len(self.live.columns) < _COLUMNS_MAX

    @property
    def becomes(self) -> str:
        """Return what stands behind FROM, before its alias, for those rows with their numbers."""
        if self.is_as_staged:
            match = self.aligned.match("y.k{at}", "o.key_{at}")
            return self._staged("o.n", f" JOIN {self.rows} AS o ON {match}")
        if self.is_numbered:
            return self.become
        return (
            f"(SELECT y.*, o.n AS {NUMBER} FROM {self.become} AS y JOIN {self.rows} AS o"
            f" ON {self.same_key('o', 'y')})"
        )

    @property
    def insert_columns(self) -> tuple[str, ...]:
        """Return the live names of what an insert gives values to, each once."""
        shared = (*self.aligned.key, *self.aligned.columns)
        named = [column.name for column in shared]
        return tuple(dict.fromkeys([*named, *(name for name, _ in self.values)]))

    def classes(self, *actions: Action) -> list[RowClass]:
        """Return the classes with rows that get one of the actions; none given: are written."""
        wanted, counts = actions or _WRITING, self.classified.counts
        return [c for c in RowClass if self.actions[c] in wanted and counts.get(c)]

    def acting(self, *actions: Action, rows: str = "r") -> str:
        """Return the condition that a row gets one of the actions; none given: is written."""
        names = ", ".join(f"'{c}'" for c in self.classes(*actions))
        return f"({rows}.class IN ({names}) AND {rows}.reason IS NULL)" if names else "FALSE"

    def same_key(self, rows: str = "r", live: str = "l") -> str:
        """Return the condition that a live row has the key of `r`."""
        named = [f"{live}.{quoted(column.name)}" for column in self.aligned.key]
        return self.aligned.agree(named, [f"{rows}.key_{at}" for at in range(len(named))])

    def same_content(self, rows: str = "r", live: str = "l") -> str:
        """Return the condition that a live row has the content of `r`, a row without a key.

        The hash is there so that the server can join by it; equality of every value decides.
        """
        images = [column.image(LIVE, live) for column in self.aligned.columns]
        keys = [f"{rows}.key_{at}" for at in range(len(images))]
        tests = [f"{_hash(images)} = {_hash(keys)}"]
        tests += [f"{a} IS NOT DISTINCT FROM {b}" for a, b in zip(images, keys, strict=True)]
        return balanced(tests, "AND")

    def live_row(self, rows: str = "r", live: str = "l") -> str:
        """Return the join that finds `l` of `r`."""
        return f"JOIN {self.live.source} AS {live} ON {self.same_key(rows, live)}"

    def before_row(self) -> str:
        """Return the join that finds `b` of `r`."""
        match = self.aligned.match("b.k{at}", "r.key_{at}")
        return f"JOIN {self.aligned.source(BEFORE)} ON {match}"

    def becoming(self, alias: str = "x", rows: str = "r") -> str:
        """Return the join that finds `x` of `r`, for rows that are inserted or updated."""
        if self.is_as_staged:
            match = self.aligned.match("y.k{at}", f"{rows}.key_{{at}}")
            return f"CROSS JOIN LATERAL {self._staged(f'{rows}.n', f' WHERE {match}')} AS {alias}"
        return f"JOIN {self.becomes} AS {alias} ON {alias}.{NUMBER} = {rows}.n"

    def masks(self, connection: Connection) -> list[str]:
        """Return the different masks of the rows that are updated."""
        if not self.classes(Action.UPDATE):
            return []
        acting = self.acting(Action.UPDATE)
        found = rows_of(connection, f"SELECT DISTINCT mask FROM {self.rows} AS r WHERE {acting}")
        return sorted(str(mask) for (mask,) in found)

    def masked(self, mask: str) -> tuple[str, ...]:
        """Return the columns that a mask restores."""
        pairs = zip(self.classified.columns, mask, strict=True)
        return tuple(column for column, mark in pairs if mark != ".")

    def changes_any(self, columns: Sequence[str], rows: str = "r") -> str:
        """Return the condition that an update of `r` may alter one of these columns."""
        if any(self.live.column(name).is_generated for name in columns):
            return "TRUE"
        compared = self.classified.columns
        places = [compared.index(name) + 1 for name in columns if name in compared]
        tests = [f"substr({rows}.mask, {at}, 1) <> '.'" for at in places]
        return balanced(tests, "OR") if tests else "FALSE"

    def writes_columns(self, columns: Sequence[str], rows: str = "r") -> str:
        """Return the condition that `r` is inserted, or may be altered in one of these columns."""
        inserts, updates = (self.acting(a, rows=rows) for a in (Action.INSERT, Action.UPDATE))
        return f"({inserts} OR ({updates} AND {self.changes_any(columns, rows)}))"

    def count(self, connection: Connection, condition: str) -> int:
        """Return how many rows meet a condition on `r`; without a key each copy counts."""
        counted = "coalesce(sum(r.copies), 0)::bigint" if self.keyless else "count(*)"
        return int(
            value_of(connection, f"SELECT {counted} FROM {self.rows} AS r WHERE {condition}")
        )

    def written(self, action: Action) -> int:
        """Return how many rows get an action, once that is settled; each copy counts."""
        counts, left_out = self.classified.counts, self.left_out
        return sum(counts[one] - left_out.get(one, 0) for one in self.classes(action))

    @property
    def is_inserted_whole(self) -> bool:
        """Return whether `x` has exactly the rows that are written, and all are inserted.

        Then `r` need not be asked which they are: joining it costs as much as reading them.
        """
        if self.keyless or not self.is_numbered or self.classes(Action.UPDATE, Action.DELETE):
            return False
        return not any(self.left_out.values())

    def farthest_numbers(self, connection: Connection) -> Iterator[tuple[ColumnSequence, int]]:
        """Yield the sequences that number a column of rows to be inserted, with the farthest.

        Values that no sequence gives are left out, and sequences that give only a part of a value.
        """
        for sequence in self.live.sequences:
            name = sequence.column
            if name not in self.insert_columns or self.live.column(name).base_oid not in _NUMBERS:
                continue
            value = f"x.{quoted(name)}"
            farthest = "max" if sequence.increment > 0 else "min"
            source = f"{self.rows} AS r {self.becoming()}"
            condition = f"{value} BETWEEN {sequence.lowest} AND {sequence.highest}"
            if self.is_inserted_whole:
                source = f"{self.become} AS x"
            else:
                condition += f" AND {self.acting(Action.INSERT)}"
            found = value_of(
                connection,
                f"SELECT {farthest}({value})::bigint FROM {source} WHERE {condition}",
            )
            if found is not None:
                yield sequence, int(found)

    def key_texts(self, rows: str = "r") -> str:
        """Return the list of the key's values as texts."""
        return ", ".join(f"{rows}.key_{at}::text" for at in range(len(self.classified.key)))

    def keys(self, connection: Connection, condition: str) -> tuple[Row, ...]:
        """Return the keys of the first rows that meet a condition on `r`, as texts."""
        if not self.classified.key:
            return ()
        return tuple(
            rows_of(
                connection,
                f"SELECT {self.key_texts()} FROM {self.rows} AS r WHERE {condition}"
                f" ORDER BY r.n LIMIT {KEYS_SHOWN}",
            )
        )

    def leave_out(self, connection: Connection, kind: BlockerKind, chosen: str) -> int:
        """Set the reason against rows; `chosen` is a SELECT of their numbers. Return how many."""
        acting = self.acting()
        rows = self.count(connection, f"{acting} AND r.n IN ({chosen})")
        if rows:
            run(
                connection,
                f"UPDATE {self.rows} AS r SET reason = '{kind}'"
                f" WHERE {acting} AND r.n IN ({chosen})",
            )
        return rows

    def blocker(
        self,
        kind: BlockerKind,
        detail: str,
        resolution: Resolution,
        *,
        rows: int = 0,
        keys: tuple[Row, ...] = (),
        held_by: tuple[Row, ...] = (),
    ) -> Blocker:
        """Return a blocker of the table, or of some of its rows."""
        return Blocker(
            kind=kind,
            table=self.name,
            rows=rows,
            detail=detail,
            resolution=resolution,
            key_columns=self.classified.key,
            keys=keys,
            held_by=held_by,
        )

    def refuse(
        self,
        connection: Connection,
        kind: BlockerKind,
        detail: str,
        resolution: Resolution,
        chosen: str,
    ) -> list[Blocker]:
        """Leave rows out and return their blocker; none when no row that is written is chosen."""
        keys = self.keys(connection, f"{self.acting()} AND r.n IN ({chosen})")
        rows = self.leave_out(connection, kind, chosen)
        if not rows:
            return []
        return [self.blocker(kind, detail, resolution, rows=rows, keys=keys)]

    def added(self) -> list[Column]:
        """Return the live columns that rows of before have no value for, generated ones left out.

        That is also a column whose values could not be compared.
        """
        known = set(self.insert_columns)
        return [column for column in self.live.plain_columns if column.name not in known]


def _hash(values: Sequence[str]) -> str:
    row = f'(ROW({", ".join(values)})::text) COLLATE "C"'
    return f"pg_catalog.hashtextextended({row}, 0)"
