"""One table in its three states, side by side: which columns name its rows, which are compared.

Statements call the states b, a and l, the columns of the key k0, k1, … and those that are compared
c0, c1, …. Rows of before and after stand in temporary tables beside the live one:

    pitr_before_<i>, pitr_after_<i>     k0 …, c0 …, and without a key: copies

Values are compared in the form in which they are carried: as they are where equality of the type is
equality of the image, else as their text under pinned settings. A numeric is carried as its text
but staged as it is, and `source` makes the text: most staged rows are never compared, and to put
them in costs less. Keys match by the equality of the live index, under the live collation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pitr.postgres.diff.drift import drift_between, readded_columns, same_columns
from pitr.postgres.tables.definition import Column, Table
from pitr.postgres.tables.name import quoted
from pitr.vocabulary.drift import SchemaDrift

BEFORE, AFTER, LIVE = "before", "after", "live"
ALIASES = {BEFORE: "b", AFTER: "a", LIVE: "l"}
_NUMERIC = 1700
# Far below what can be: of 1200 the server plans for seconds, as if each could be left out.
_JOINED_COLUMNS_MAX = 600


@dataclass(frozen=True, slots=True)
class SharedColumn:
    """One column as each state that has the table defines it.

    A state after the damage, which had dropped a column that live has again, has NULL for it.
    """

    sides: Mapping[str, Column]

    @property
    def own(self) -> Column:
        """Return the live column, or the one before where there is no live table."""
        return self.sides.get(LIVE) or self.sides[BEFORE]

    @property
    def name(self) -> str:
        """Return its live name, or the one before."""
        return self.own.name

    @property
    def carried(self) -> str:
        """Return the type by which its values are compared in all states."""
        kinds = {column.carried for column in self.sides.values()}
        return kinds.pop() if len(kinds) == 1 else "text"

    @property
    def is_numeric(self) -> bool:
        """Return whether it is a plain numeric, no domain, in every state that has it.

        A numeric keeps its scale, so that its text can be made later.
        """
        return all(column.type_oid == _NUMERIC for column in self.sides.values())

    @property
    def key_type(self) -> str | None:
        """Return the type that all states share and every server knows, None when there is none."""
        if any(not column.is_builtin or column.kind != "b" for column in self.sides.values()):
            return None
        kinds = {column.plain_type for column in self.sides.values()}
        return kinds.pop() if len(kinds) == 1 else None

    def image(self, state: str, alias: str) -> str:
        """Return the carried value of the column of a row of a state."""
        if state not in self.sides:
            return f"NULL::{self.carried}"
        column = self.sides[state]
        value = column.image(alias)
        if self.carried == "text" and column.carried != "text":
            return f'({value})::text COLLATE "C"'
        return value


@dataclass(frozen=True, kw_only=True)
class AlignedTable:
    """One table in the states that have it. `key` is empty for rows known by content alone.

    `columns` are compared; where only some of them count, `judged` has their places. `as_is` has
    the places of those that are staged as numerics, where a record says that; else it follows from
    the types.
    """

    index: int
    sides: Mapping[str, Table]
    after_known: bool
    key: tuple[SharedColumn, ...]
    columns: tuple[SharedColumn, ...]
    drift: SchemaDrift
    judged: frozenset[int] | None = None
    as_is: frozenset[int] | None = None

    @property
    def is_wide(self) -> bool:
        """Return whether its states have too many columns to be joined as they are."""
        width = 1 + len(self.key) + len(self.columns)
        return bool(self.key) and width * (2 + self.after_known) > _JOINED_COLUMNS_MAX

    @cached_property
    def key_operators(self) -> tuple[str, ...]:
        """Return the operators by which the index of the key tells values apart, as SQL.

        A bare = would be looked up where types of extensions need not be.
        """
        table = self.live or self.before
        side = LIVE if self.live else BEFORE
        names = [column.sides[side].name for column in self.key]
        for index in table.indexes:
            if index.can_name_rows and sorted(table.names(index.columns)) == sorted(names):
                known = dict(zip(table.names(index.columns), index.operators, strict=True))
                return tuple(known[name] for name in names)
        return ("=",) * len(names)

    @cached_property
    def owned(self) -> frozenset[int]:
        """Return the places of columns that a trigger of live sets whenever a row is updated.

        Such as the time of the last change: nobody else's value would stay there.
        """
        triggers = self.live.triggers if self.live else ()
        names = {name for one in triggers if one.is_unconditional for name in one.owned("UPDATE")}
        return frozenset(at for at, one in enumerate(self.columns) if one.name in names)

    @property
    def before(self) -> Table:
        """Return the table at the target."""
        return self.sides[BEFORE]

    @property
    def live(self) -> Table | None:
        """Return the live table."""
        return self.sides.get(LIVE)

    @property
    def name(self) -> str:
        """Return the live name, or the one before, as people read it."""
        return str((self.live or self.before).name)

    def staged(self, state: str) -> str:
        """Return the name of the temporary table that holds the rows of a state."""
        return f"pg_temp.pitr_{state}_{self.index}"

    def staged_columns(self) -> list[tuple[str, str]]:
        """Return the columns of the temporary tables with their types."""
        keys = [(f"k{at}", column.key_type or "text") for at, column in enumerate(self.key)]
        values = [
            (f"c{at}", "numeric" if self._is_staged_as_is(at) else column.carried)
            for at, column in enumerate(self.columns)
        ]
        return [*keys, *values, *([] if self.key else [("copies", "bigint")])]

    def key_image(self, column: SharedColumn, state: str, alias: str) -> str:
        """Return the value of a key column as it is staged."""
        if column.key_type is not None:
            return f"{alias}.{quoted(column.sides[state].name)}"
        side = column.sides[state]
        value = side.image(alias)
        return value if side.carried == "text" else f"({value})::text"

    def rows_in(self, state: str) -> str:
        """Return the SELECT body of a state on its own server, with its rows under alias t."""
        return f"FROM {self.sides[state].source} AS t"

    def _is_staged_as_is(self, at: int) -> bool:
        if self.as_is is not None:
            return at in self.as_is
        # Rows without a key are grouped by what is staged, wide ones compared by it.
        return self.columns[at].is_numeric and bool(self.key) and not self.is_wide

    def taken(self, state: str, alias: str = "t") -> list[str]:
        """Return the staged values of a row of a state, without copies."""
        found = [self.key_image(column, state, alias) for column in self.key]
        for at, column in enumerate(self.columns):
            if self._is_staged_as_is(at):
                side = column.sides.get(state)
                found.append(f"{alias}.{quoted(side.name)}" if side else "NULL::numeric")
            else:
                found.append(column.image(state, alias))
        return found

    def typed_key(self, at: int, expression: str) -> str:
        """Return a staged key value in the live type and collation."""
        column = self.key[at]
        own = column.own
        if LIVE in column.sides and column.key_type is None:
            expression = f"({expression})::{own.plain_type}"
        return f"({expression}) COLLATE {own.collation}" if own.collation else expression

    def staged_source(self, alias: str) -> str:
        """Return what to put behind FROM for the rows of before, each value as it is staged."""
        taken = self._staged_keys() + [f"c{at}" for at in range(len(self.columns))]
        return f"(SELECT {', '.join(taken)} FROM {self.staged(BEFORE)}) AS {alias}"

    def _staged_keys(self) -> list[str]:
        return [f"{self.typed_key(at, f'k{at}')} AS k{at}" for at in range(len(self.key))]

    def source(self, state: str, *, alias: str | None = None) -> str:
        """Return what to put behind FROM or JOIN for a state, beside the live table."""
        name = alias or ALIASES[state]
        if state == LIVE and self.live is not None:
            keys = [f"t.{quoted(c.sides[LIVE].name)} AS k{at}" for at, c in enumerate(self.key)]
            values = [f"{c.image(LIVE, 't')} AS c{at}" for at, c in enumerate(self.columns)]
            return f"(SELECT {', '.join([*keys, *values])} {self.rows_in(LIVE)}) AS {name}"
        taken = self._staged_keys()
        for at in range(len(self.columns)):
            is_as_is = self._is_staged_as_is(at)
            taken.append(f'(c{at})::text COLLATE "C" AS c{at}' if is_as_is else f"c{at}")
        taken += [] if self.key else ["copies"]
        if state in self.sides:
            return f"(SELECT {', '.join(taken)} FROM {self.staged(state)}) AS {name}"
        # Without the table there are no rows, but they have the types of those before.
        return f"(SELECT {', '.join(taken)} FROM {self.staged(BEFORE)} WHERE FALSE) AS {name}"

    def match(self, left: str, right: str) -> str:
        """Return the condition that two rows have the same key; `left` is like `b.k{at}`."""
        size = range(len(self.key))
        return self.agree([left.format(at=at) for at in size], [right.format(at=at) for at in size])

    def agree(self, left: Iterable[str], right: Iterable[str]) -> str:
        """Return the condition that two lists of expressions are values of the same key."""
        pairs = zip(left, self.key_operators, right, strict=True)
        return " AND ".join(f"{one} {operator} {other}" for one, operator, other in pairs)


def align(
    index: int,
    before: Table,
    after: Table | None,
    live: Table | None,
    *,
    after_known: bool,
    chosen: Sequence[str] | None = None,
) -> AlignedTable:
    """Put the states of one table side by side; `chosen` are the columns that count, if not all."""
    sides = {BEFORE: before}
    if after is not None:
        sides[AFTER] = after
    if live is not None:
        sides[LIVE] = live
    others = {state: same_columns(before, table) for state, table in sides.items()}
    shared: dict[str, SharedColumn] = {}
    readded = readded_columns(before, live) if live is not None else ()
    for column in before.columns:
        there = {s: names for s, names in others.items() if column.name in names}
        if len(there) == len(others) or (
            column.name in readded and others.keys() - there == {AFTER}
        ):
            found = {s: sides[s].column(names[column.name]) for s, names in there.items()}
            if not any(one.is_generated for one in found.values()):
                shared[column.name] = SharedColumn(found)
    key = _shared_key(sides, others, shared)
    compared = tuple(
        column
        for column in shared.values()
        if column not in key or not all(one.is_exact_key for one in column.sides.values())
    )
    names = [column.name for column in (*key, *compared)]
    return AlignedTable(
        index=index,
        sides=sides,
        after_known=after_known,
        key=key,
        columns=compared,
        drift=drift_between(before, live, names),
        judged=_judged(chosen, key, compared),
    )


def _judged(
    chosen: Sequence[str] | None, key: Sequence[SharedColumn], columns: Sequence[SharedColumn]
) -> frozenset[int] | None:
    """Return the places of the columns that count: those chosen, named as before, and the key.

    Without a key a row is its content: then all of them do.
    """
    if chosen is None or not key:
        return None
    names = {*chosen, *(one.sides[BEFORE].name for one in key)}
    return frozenset(at for at, one in enumerate(columns) if one.sides[BEFORE].name in names)


def _shared_key(
    sides: Mapping[str, Table],
    others: Mapping[str, Mapping[str, str]],
    shared: Mapping[str, SharedColumn],
) -> tuple[SharedColumn, ...]:
    """Return the columns that name each row once in every state; none when there are none."""
    known = {state: {frozenset(key) for key in table.row_keys()} for state, table in sides.items()}
    for key in sides[BEFORE].row_keys():
        if all(name in shared for name in key) and all(
            frozenset(names.get(name, "") for name in key) in known[state]
            for state, names in others.items()
        ):
            return tuple(shared[name] for name in key)
    return ()
