"""One table of a plan: which rows are to be written, and the SQL fragments that all steps share.

Every statement about the rows of a plan joins up to four relations, under these aliases:

    r   temp.pitr_rows_<i>: key, class, mask; and `reason`, set where a blocker leaves a row out
    b   the row as it was, in the sidecar or, for a closure, copied out of the archive
    l   the live row
    x   the row as it is to become, with every column that the live table has

A row is written by its class, and only while it has no reason against it. The database is asked
set by set; no row passes through Python but those shown to a person.

A write to a table that declares ON CONFLICT says OR ABORT: REPLACE would delete other rows. No
other write does: the word would hold in its triggers too, against their own OR IGNORE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import apsw

from pitr.sqlite.diff.joining import balanced
from pitr.sqlite.past.tables import PastTable
from pitr.sqlite.statement.tokens import quoted, tokens_of
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.row_class import Action, RowClass

REHEARSAL = "rehearsal"
_WRITING = (Action.INSERT, Action.UPDATE, Action.DELETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTable:
    """One table of a plan.

    `columns` are compared, one character of the mask each; `insert_columns` are what an insert
    gives values to. Both, and `key`, are live names; `before_names` says what a column is called
    in `before`. `match(rows, state, alias)` is the condition that joins the keys. `created_by` is
    the text that makes a table that is missing in live, `index_texts` those of its indexes;
    `definition` is that of the live table, or of the one that will be made. `sequence` is the
    AUTOINCREMENT value that the table had. `values` are columns added since, with SQL over `b`.
    """

    name: str
    before: str
    rows: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    insert_columns: tuple[str, ...]
    before_names: Mapping[str, str]
    match: Callable[[str, str, str], str]
    counts: Mapping[RowClass, int]
    keyless: bool
    drift: SchemaDrift
    definition: PastTable
    actions: Mapping[RowClass, Action]
    created_by: str | None = None
    index_texts: tuple[str, ...] = ()
    sequence: int | None = None
    values: tuple[tuple[str, str], ...] = ()
    is_rehearsed: bool = False

    @property
    def live(self) -> str:
        """Return the live table's name for a statement."""
        return f"main.{quoted(self.name)}"

    @property
    def inserts(self) -> str:
        """Return the words that begin an INSERT into the table."""
        return f"INSERT{self._or_abort}"

    @property
    def updates(self) -> str:
        """Return the words that begin an UPDATE of the table."""
        return f"UPDATE{self._or_abort}"

    @property
    def _or_abort(self) -> str:
        tokens = tokens_of(self.definition.sql)
        return " OR ABORT" if any(token.is_word("CONFLICT") for token in tokens) else ""

    @property
    def row_key(self) -> tuple[str, ...]:
        """Return the columns of `rows` that name a row there."""
        if self.keyless:
            return ("rowid",)
        return tuple(f"key_{place}" for place in range(len(self.key)))

    def row_key_of(self, alias: str = "r") -> str:
        """Return the list of those columns for a statement."""
        return ", ".join(f"{alias}.{name}" for name in self.row_key)

    def key_values(self, alias: str = "r") -> str:
        """Return the list of the key's values; without a key that is the whole content."""
        return ", ".join(f"{alias}.key_{place}" for place in range(len(self.key)))

    def classes(self, *actions: Action) -> list[RowClass]:
        """Return the classes with rows that get one of the actions; none given: are written."""
        wanted = actions or _WRITING
        return [c for c in RowClass if self.actions[c] in wanted and self.counts.get(c)]

    def acting(self, *actions: Action, rows: str = "r") -> str:
        """Return the condition that a row gets one of the actions; none given: is written."""
        names = ", ".join(f"'{c}'" for c in self.classes(*actions))
        return f"({rows}.class IN ({names}) AND {rows}.reason IS NULL)" if names else "FALSE"

    def same_content(self, *, rows: str = "r", live: str = "l") -> str:
        """Return the condition that `l` has the content of `r`, a row without a key."""
        return " AND ".join(
            f"{live}.{quoted(name)} IS {rows}.key_{at} COLLATE BINARY"
            f" AND typeof({live}.{quoted(name)}) = typeof({rows}.key_{at})"
            for at, name in enumerate(self.key)
        )

    def before_row(self) -> str:
        """Return the join that finds `b` of `r`."""
        return f"JOIN {self.before} AS b ON {self.match('r', 'before', 'b')}"

    def is_row(self, rows: str, live: str) -> str:
        """Return the condition that a live row is the one of `r`; without a key, a copy of it."""
        if self.keyless:
            return self.same_content(rows=rows, live=live)
        return self.match(rows, "main", live)

    def live_row(self) -> str:
        """Return the join that finds `l` of `r`; without a key every copy."""
        return f"JOIN {self.live} AS l ON {self.is_row('r', 'l')}"

    def was(self, column: str) -> str:
        """Return a column of `b` under its live name."""
        return f"b.{quoted(self.before_names[column])}"

    def becoming(self, *, alias: str = "x", rows: str = "r") -> str:
        """Return the join that finds `x` of `r`, for rows that are inserted or updated."""
        if self.keyless:
            names = (f"key_{at} AS {quoted(name)}" for at, name in enumerate(self.key))
            content = f'SELECT rowid AS "pitr row", {", ".join(names)} FROM {self.rows}'
            return f'JOIN ({content}) AS {alias} ON {alias}."pitr row" = {rows}.rowid'
        if self.is_rehearsed:
            rehearsed = f"{REHEARSAL}.{quoted(self.name)}"
            return f"JOIN {rehearsed} AS {alias} ON {self.match(rows, 'main', alias)}"
        return f"JOIN {self.before} AS {alias} ON {self.match(rows, 'before', alias)}"

    def became(self, column: str) -> str:
        """Return the value that an update leaves in a column: restored where the mask says so."""
        if column not in self.columns:
            return f"l.{quoted(column)}"
        at = self.columns.index(column) + 1
        return (
            f"CASE WHEN substr(r.mask, {at}, 1) <> '.'"
            f" THEN {self.was(column)} ELSE l.{quoted(column)} END"
        )

    def masks(self, connection: apsw.Connection) -> list[str]:
        """Return the different masks of the rows that are updated."""
        if not self.classes(Action.UPDATE):
            return []
        acting = self.acting(Action.UPDATE)
        rows = connection.execute(f"SELECT DISTINCT mask FROM {self.rows} AS r WHERE {acting}")
        return [str(mask) for (mask,) in rows]

    def masked(self, mask: str) -> tuple[str, ...]:
        """Return the columns that a mask restores."""
        return tuple(c for c, mark in zip(self.columns, mask, strict=True) if mark != ".")

    def changes_any(self, columns: Sequence[str], *, rows: str = "r") -> str:
        """Return the condition that an update of `r` writes one of these columns."""
        places = [self.columns.index(name) + 1 for name in columns if name in self.columns]
        tests = [f"substr({rows}.mask, {at}, 1) <> '.'" for at in places]
        return f"({balanced(tests, 'OR')})" if tests else "FALSE"

    def writes_columns(self, columns: Sequence[str], *, rows: str = "r") -> str:
        """Return the condition that `r` is inserted, or updated in one of these columns."""
        updates = self.acting(Action.UPDATE, rows=rows)
        if updates == "FALSE":
            return self.acting(Action.INSERT, rows=rows)
        changed = self.changes_any(columns, rows=rows)
        return f"({self.acting(Action.INSERT, rows=rows)} OR ({updates} AND {changed}))"

    def insertion(self, target: str, *, only: str = "TRUE") -> str:
        """Return the statement that inserts the lost rows into a table of the live columns.

        `only` is a further condition on `r`.
        """
        names = [*self.insert_columns, *(name for name, _ in self.values)]
        into = f"{self.inserts} INTO {target}({', '.join(map(quoted, names))})"
        acting = f"{self.acting(Action.INSERT)} AND {only}"
        if self.keyless:
            return f"{into} {self._copies(acting)}"
        taken = [self.was(name) for name in self.insert_columns]
        order = ", ".join(f"r.{name}" for name in self.row_key)
        if not self.values:
            rows = f"FROM {self.rows} AS r {self.before_row()} WHERE {acting} ORDER BY {order}"
            return f"{into} SELECT {', '.join(taken)} {rows}"
        # The user's expression names the columns of `b` alone: no other table may stand beside it.
        taken += [f"({expression})" for _, expression in self.values]
        found = f"SELECT 1 FROM {self.rows} AS r WHERE {self.match('r', 'before', 'b')}"
        return f"{into} SELECT {', '.join(taken)} FROM {self.before} AS b" + (
            f" WHERE EXISTS ({found} AND {acting})"
        )

    def _copies(self, acting: str) -> str:
        """Return the SELECT of rows without a key, each as often as it is lost."""
        most = f"(SELECT max(copies) FROM {self.rows})"
        return (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})"
            f" SELECT {self.key_values()} FROM {self.rows} AS r JOIN n ON n.i <= r.copies"
            f" WHERE {acting} ORDER BY r.rowid"
        )

    def count(self, connection: apsw.Connection, condition: str) -> int:
        """Return how many rows meet a condition on `r`; without a key each copy counts."""
        counted = "total(r.copies)" if self.keyless else "count(*)"
        statement = f"SELECT {counted} FROM {self.rows} AS r WHERE {condition}"
        return int(connection.execute(statement).get)

    def keys(self, connection: apsw.Connection, condition: str, limit: int) -> tuple[Row, ...]:
        """Return the keys of the first rows that meet a condition on `r`.

        None at all where one is text that is no UTF-8, which cannot be shown.
        """
        rows = connection.execute(
            f"SELECT {self.key_values()} FROM {self.rows} AS r WHERE {condition}"
            f" ORDER BY {self.row_key_of()} LIMIT {limit}"
        )
        try:
            return tuple(rows)
        except UnicodeDecodeError:
            return ()

    def leave_out(self, connection: apsw.Connection, reason: str, chosen: str) -> int:
        """Set the reason against rows; `chosen` is a SELECT of their row keys. Return how many."""
        connection.execute(
            f"UPDATE {self.rows} AS r SET reason = ? WHERE {self.acting()}"
            f" AND ({self.row_key_of()}) IN ({chosen})",
            (reason,),
        )
        return connection.changes()
