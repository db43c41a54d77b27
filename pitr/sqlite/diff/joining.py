"""The statements that put every row of one table under its class, into temp.pitr_rows_<i>.

Made from the rules of `pitr.diff.sql`. The states are joined by key: every row before is looked up
in the others, and so is every row that the damage put in; or, where pages told which rows can be
in question, those alone. Rows without a key are counted by content.
"""

from __future__ import annotations

from collections.abc import Sequence

from pitr.diff.sql import SQLITE, RowSource, class_sql
from pitr.sqlite.diff.alignment import ALIASES, AlignedTable
from pitr.sqlite.diff.states import AFTER, BEFORE, LIVE, States
from pitr.vocabulary.row_class import RowClass

_PRESENT = {schema: f"({alias}.k0 IS NOT NULL)" for schema, alias in ALIASES.items()}


def rows_name(number: int) -> str:
    """Return the name of the table of the rows of a recovery's table, as statements use it."""
    return f"temp.pitr_rows_{number}"


class RowsTable:
    """temp.pitr_rows_<number>, being filled; `candidates` is the table of the rows in question."""

    def __init__(
        self, states: States, number: int, table: AlignedTable, candidates: str | None
    ) -> None:
        self._states = states
        self._connection = states.connection
        self._table = table
        self._rows = rows_name(number)
        self._candidates = candidates

    def fill(self) -> None:
        """Make it anew, with every row that is not unrelated."""
        self._connection.execute(f"DROP TABLE IF EXISTS {self._rows}")
        if self._table.key:
            self._by_key()
        elif self._table.columns:
            self._by_content()
        else:
            self._connection.execute(f"CREATE TABLE {self._rows} (class TEXT, mask TEXT, copies)")

    def counts(self) -> dict[RowClass, int]:
        """Return how many rows are of each class; classes without a row are left out."""
        amount = "count(*)" if self._table.key else "sum(copies)"
        found = self._connection.execute(
            f"SELECT class, {amount} FROM {self._rows} GROUP BY class ORDER BY class"
        )
        return {RowClass(str(name)): int(str(count)) for name, count in found}

    # --- rows with a key -------------------------------------------------------------------------

    def _by_key(self) -> None:
        """Join the states by key."""
        table = self._table
        body = table.keyed_columns("key_", "class TEXT", "mask TEXT")
        self._connection.execute(f"CREATE TABLE {self._rows} {body}")
        if self._candidates:
            self._insert(self._from_candidates())
            return
        self._announce()
        selects = [self._from(BEFORE)]
        if table.after_known and not self._states.sources.has_condition:
            # What the damage put in. A condition leaves out rows that were there before: none of
            # them may be taken for one that was not.
            selects.append(f"{self._from(AFTER)} WHERE NOT {_PRESENT[BEFORE]}")
        self._insert(" UNION ALL ".join(selects))

    def _from(self, first: str) -> str:
        """Return the SELECT that looks up every row of one state in the others."""
        others = [BEFORE, LIVE] if first == AFTER else [AFTER, LIVE]
        if not self._table.after_known:
            others.remove(AFTER)
        keys = [f"{ALIASES[first]}.k{at} AS key_{at}" for at in range(len(self._table.key))]
        return self._select(keys, self._table.source(first), ALIASES[first], others)

    def _from_candidates(self) -> str:
        """Return the SELECT that looks up the rows in question in all states."""
        table = self._table
        keys = [f"b.k{at} AS key_{at}" for at in range(len(table.key))]
        schemas = [BEFORE, LIVE]
        if table.after_known:
            schemas.insert(1, AFTER)
            keys = [
                f"CASE WHEN {_PRESENT[BEFORE]} THEN b.k{at} ELSE a.k{at} END AS key_{at}"
                for at in range(len(table.key))
            ]
        found = self._select(keys, f"{self._candidates} AS n", "n", schemas)
        if self._states.sources.has_condition:
            found = f"{found} WHERE {_PRESENT[BEFORE]}"
        return found

    def _select(self, keys: Sequence[str], first: str, alias: str, schemas: Sequence[str]) -> str:
        table = self._table
        sources = {schema: RowSource(ALIASES[schema], _PRESENT[schema]) for schema in ALIASES}
        expressions = class_sql(
            [f"c{at}" for at in range(len(table.columns))],
            before=sources[BEFORE],
            after=sources[AFTER] if table.after_known else None,
            live=sources[LIVE],
            dialect=SQLITE,
            judged=None if table.judged is None else [f"c{at}" for at in sorted(table.judged)],
        )
        masks = [
            f"CASE WHEN {repair} THEN 'r' WHEN {touched} THEN 't' ELSE '.' END"
            for repair, touched in zip(expressions.repair, expressions.touched, strict=True)
        ]
        joins = "".join(
            f" LEFT JOIN {table.source(schema)}"
            f" ON {table.match(f'{ALIASES[schema]}.k{{at}}', f'{alias}.k{{at}}')}"
            for schema in schemas
        )
        taken = ", ".join(
            [
                *keys,
                f"{expressions.row_class} AS class",
                f"{balanced(masks, '||') if masks else repr('')} AS mask",
            ]
        )
        return f"SELECT {taken} FROM {first}{joins}"

    def _insert(self, select: str) -> None:
        """Insert what is not unrelated, in the order of the key."""
        key = self._table.key
        order = ", ".join(f"key_{at}{self._table.collate(c)}" for at, c in enumerate(key))
        self._connection.execute(
            f"INSERT INTO {self._rows} SELECT * FROM ({select})"
            f" WHERE class <> '{RowClass.UNRELATED}' ORDER BY {order}"
        )

    def _announce(self) -> None:
        """Say that states in the archive will be read from end to end."""
        for schema in (AFTER, LIVE):
            side = self._table.sides.get(schema)
            if side:
                self._states.expect(schema, side.table.root_page)

    # --- rows without a key ----------------------------------------------------------------------

    def _by_content(self) -> None:
        """Count the copies of each row in the states."""
        columns = [f"c{at}" for at in range(len(self._table.columns))]
        keys = ", ".join(self._table.content_columns("key_"))
        self._connection.execute(
            f"CREATE TABLE {self._rows} ({keys}, class TEXT, mask TEXT, copies INTEGER)"
        )
        lost = "min(sum(gone_after), sum(gone_live))"
        if not self._table.after_known:
            lost = "sum(gone_live)"
        taken = ", ".join(columns)
        # 1 and 1.0 are one group by value, so the storage classes stand beside the values.
        classes = balanced([f"substr(typeof({column}), 1, 1)" for column in columns], "||")
        group = ", ".join([*(f"{column} COLLATE BINARY" for column in columns), classes])
        self._connection.execute(
            f"INSERT INTO {self._rows} SELECT {taken}, '{RowClass.LOST}', '', {lost} AS copies"
            f" FROM ({self._candidates_or_all(taken)}) GROUP BY {group} HAVING {lost} > 0"
            f" ORDER BY {group}"
        )

    def _candidates_or_all(self, taken: str) -> str:
        """Return a SELECT of rows, each with what it adds to the copies that are gone."""
        if self._candidates:
            return f"SELECT * FROM {self._candidates}"
        self._announce()
        source = self._table.source
        parts = [f"SELECT 1 AS gone_after, 1 AS gone_live, {taken} FROM {source(BEFORE)}"]
        if self._table.after_known:
            parts.append(f"SELECT -1, 0, {taken} FROM {source(AFTER)}")
        parts.append(f"SELECT 0, -1, {taken} FROM {source(LIVE)}")
        return " UNION ALL ".join(parts)


def balanced(parts: Sequence[str], sign: str) -> str:
    """Return expressions joined by a sign, nested as a balanced tree: SQLite limits the depth."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({balanced(parts[:middle], sign)} {sign} {balanced(parts[middle:], sign)})"
