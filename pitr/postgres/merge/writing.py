"""The statements of a merge, set by set; each tells how many rows it wrote, and that is checked.

Names are written in full and the settings are those of the role, as triggers may expect them.
Foreign keys are satisfied by order where one is possible: the verbs are tried in several orders,
each within a savepoint, and in one statement, since keys are checked when that ends; the one counts
after which the rows are as they shall be. Rows that swap unique values come last. No trigger is
switched off, and no constraint is set aside but those that are DEFERRABLE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from psycopg import errors

from pitr.errors import DatabaseRefused
from pitr.postgres.merge.parents import Family
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.script import parents_first
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, rows_of, run
from pitr.vocabulary.plan import BlockerKind
from pitr.vocabulary.row_class import Action

# nextval() can never lower a sequence that others use meanwhile; setval() could.
_STEPS_MAX = 1_000_000
# What may come out otherwise in another order.
_OF_VALUES = (errors.UniqueViolation, errors.ExclusionViolation)
_OF_ORDER = (errors.ForeignKeyViolation, *_OF_VALUES)
Outcome = TypeVar("Outcome")
_ORDERS = (
    (Action.INSERT, Action.UPDATE, Action.DELETE),
    (Action.DELETE, Action.UPDATE, Action.INSERT),
    (Action.DELETE, Action.INSERT, Action.UPDATE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTable:
    """What a merge did to one table."""

    table: str
    inserted: int
    updated: int
    deleted: int


@dataclass(frozen=True, slots=True)
class _Write:
    """One statement, whose rows must be `expected`."""

    table: PlannedTable
    action: Action
    statement: str
    expected: int
    mask: str = ""


def refused(detail: str, hint: str | None = None) -> DatabaseRefused:
    """Return the error for a merge that did not come out as planned."""
    return DatabaseRefused("the merge was refused and rolled back", detail=detail, hint=hint)


def suppressed(connection: Connection, table: PlannedTable, condition: str) -> DatabaseRefused:
    """Return the error for rows, given by a condition on `r`, that are not what was written."""
    keys = table.keys(connection, condition)
    shown = "; ".join(", ".join(map(str, key)) for key in keys)
    rows = table.count(connection, condition)
    return refused(
        f"{BlockerKind.TRIGGER_SUPPRESSED}: {rows} rows of {table.name} were not written as"
        f" planned. They are, by {', '.join(table.classified.key)}: {shown}.",
        f"Look at the triggers of {table.name}; 'pitr plan' names those that fire.",
    )


def write_all(
    connection: Connection, family: Family, verify: Callable[[], Outcome]
) -> tuple[tuple[WrittenTable, ...], Outcome]:
    """Write every row of the plan, in an order of which `verify` says that it came out so.

    Return what was written, and what `verify` did. Raises DatabaseRefused, psycopg.Error.
    """
    for table in family.tables:
        raise_sequences(connection, table)
    writes = list(_writes(connection, family))
    orders = _orders(writes)
    in_order = [partial(_in_order, connection, writes, order) for order in orders]
    attempts: list[Callable[[], None]] = [*in_order]
    if len(writes) > 1:
        attempts.append(partial(_at_once, connection, writes))
    swaps: list[Callable[[], None]] = []
    if any(one.action is Action.UPDATE for one in writes):
        swaps += [partial(_parked, connection, family, one) for one in in_order]
        swaps.append(partial(_replaced, connection, family, writes))
    outcome = _first_that_works(connection, attempts, swaps, verify)
    done = Counter[tuple[str, Action]]()
    for one in writes:
        done[one.table.rows, one.action] += one.expected
    written = tuple(
        WrittenTable(
            table=table.name,
            inserted=done[table.rows, Action.INSERT],
            updated=done[table.rows, Action.UPDATE],
            deleted=done[table.rows, Action.DELETE],
        )
        for table in family.tables
    )
    return written, outcome


def _orders(writes: Sequence[_Write]) -> list[tuple[Action, ...]]:
    """Return the orders that differ for the verbs that there are."""
    present = {one.action for one in writes}
    orders = [tuple(action for action in order if action in present) for order in _ORDERS]
    return list(dict.fromkeys(orders))


def _first_that_works(
    connection: Connection,
    attempts: Sequence[Callable[[], None]],
    swaps: Sequence[Callable[[], None]],
    verify: Callable[[], Outcome],
) -> Outcome:
    """Return what `verify` does after the first attempt that works; raise the first error, else.

    What a trigger makes of a row may depend on the order, too. `swaps` come when unique values
    were in the way of each other.
    """
    first: Exception | None = None
    waiting = list(attempts)
    while waiting:
        attempt = waiting.pop(0)
        run(connection, "SAVEPOINT pitr_order")
        try:
            run(connection, "SET CONSTRAINTS ALL DEFERRED")
            attempt()
            run(connection, "SET CONSTRAINTS ALL IMMEDIATE")
            outcome = verify()
        except (*_OF_ORDER, DatabaseRefused) as error:
            first = first or error
            if isinstance(error, _OF_VALUES) and swaps:
                waiting, swaps = [*waiting, *swaps], ()
            run(connection, "ROLLBACK TO SAVEPOINT pitr_order")
            continue
        run(connection, "RELEASE SAVEPOINT pitr_order")
        return outcome
    assert first is not None
    raise first


def _in_order(connection: Connection, writes: Sequence[_Write], order: Sequence[Action]) -> None:
    for action in order:
        chosen = [one for one in writes if one.action is action]
        for one in reversed(chosen) if action is Action.DELETE else chosen:
            rows = run(connection, one.statement).rowcount
            _check(connection, one, rows)


def _at_once(connection: Connection, writes: Sequence[_Write]) -> None:
    """Run all statements as one: foreign keys are checked at its end, so cycles are no obstacle."""
    parts = [f"w{at} AS ({one.statement} RETURNING 1)" for at, one in enumerate(writes)]
    counts = [f"(SELECT count(*) FROM w{at})" for at in range(len(writes))]
    (found,) = rows_of(connection, f"WITH {', '.join(parts)} SELECT {', '.join(counts)}")
    for one, rows in zip(writes, found, strict=True):
        _check(connection, one, int(rows))


def _check(connection: Connection, one: _Write, rows: int) -> None:
    if rows == one.expected:
        return
    acting = one.table.acting(one.action)
    if one.mask:
        acting = f"{acting} AND r.mask = '{one.mask}'"
    raise suppressed(connection, one.table, acting)


def _writes(connection: Connection, family: Family) -> Iterator[_Write]:
    """Yield the statements, parents first."""
    for table in parents_first(family):
        if table.classes(Action.INSERT):
            acting = table.acting(Action.INSERT)
            insertion = _insertion(table, None if table.is_inserted_whole else acting)
            yield _Write(table, Action.INSERT, insertion, table.written(Action.INSERT))
        for mask in table.masks(connection):
            condition = f"{table.acting(Action.UPDATE)} AND r.mask = '{mask}'"
            rows = table.count(connection, condition)
            statement = _update(table, mask, condition)
            yield _Write(table, Action.UPDATE, statement, rows, mask)
        if table.classes(Action.DELETE):
            acting = table.acting(Action.DELETE)
            rows = table.written(Action.DELETE)
            yield _Write(table, Action.DELETE, _deletion(table, acting), rows)


def _insertion(
    table: PlannedTable, acting: str | None, columns: Sequence[str] | None = None
) -> str:
    """Return the statement that inserts the rows of `x`: those of a condition on `r`, or all."""
    chosen = table.insert_columns if columns is None else columns
    names = ", ".join(map(quoted, chosen))
    taken = ", ".join(f"x.{quoted(name)}" for name in chosen)
    copies = "CROSS JOIN LATERAL generate_series(1, r.copies)" if table.keyless else ""
    identity = any(column.identity for column in table.live.columns)
    overriding = "OVERRIDING SYSTEM VALUE " if identity else ""
    insert = f"INSERT INTO {table.live.name.sql} ({names}) {overriding}SELECT {taken}"
    if acting is None:
        return f"{insert} FROM {table.become} AS x{table.in_order}"
    return (
        f"{insert} FROM {table.rows} AS r {table.becoming()} {copies} WHERE {acting} ORDER BY r.n"
    )


def _update(table: PlannedTable, mask: str, condition: str) -> str:
    sets = ", ".join(f"{quoted(name)} = x.{quoted(name)}" for name in table.masked(mask))
    return (
        f"UPDATE {table.live.source} AS l SET {sets} FROM {table.rows} AS r {table.becoming()}"
        f" WHERE {table.same_key()} AND {condition}"
    )


def _deletion(table: PlannedTable, acting: str) -> str:
    if not table.keyless:
        return (
            f"DELETE FROM {table.live.source} AS l USING {table.rows} AS r"
            f" WHERE {table.same_key()} AND {acting}"
        )
    # Of copies that are all alike, the ones that came last.
    numbered = (
        "SELECT l.tableoid AS relation, l.ctid AS place, r.copies,"
        " row_number() OVER (PARTITION BY r.n ORDER BY l.tableoid, l.ctid DESC) AS number"
        f" FROM {table.rows} AS r JOIN {table.live.source} AS l ON {table.same_content()}"
        f" WHERE {acting}"
    )
    return (
        f"DELETE FROM {table.live.source} AS l USING ({numbered}) AS d"
        " WHERE d.number <= d.copies AND l.tableoid = d.relation AND l.ctid = d.place"
    )


def _parked(connection: Connection, family: Family, rest: Callable[[], None]) -> None:
    """Set unique columns to NULL in passing, so that rows can swap their values, and do the rest.

    Only where no trigger would see it and the column may be NULL; else the server's refusal stands.
    """
    for table in family.tables:
        fires = any("UPDATE" in trigger.events for trigger in table.live.triggers)
        numbers = {n for index in table.live.indexes for n in index.columns}
        free = {c.name for c in table.live.columns if c.number in numbers and not c.not_null}
        for mask in [] if fires else table.masks(connection):
            parked = [name for name in table.masked(mask) if name in free]
            if parked:
                sets = ", ".join(f"{quoted(name)} = NULL" for name in parked)
                run(
                    connection,
                    f"UPDATE {table.live.source} AS l SET {sets} FROM {table.rows} AS r"
                    f" WHERE {table.same_key()} AND {table.acting(Action.UPDATE)}"
                    f" AND r.mask = '{mask}'",
                )
    rest()


def _replaced(connection: Connection, family: Family, writes: Sequence[_Write]) -> None:
    """Take rows out that are to be updated and put them in whole, so that they can swap values.

    Only where no trigger would see it, no other row refers to the table, and the role may do both;
    else the rows are updated, and the server's refusal stands.
    """
    free = {
        table.rows
        for table in family.tables
        if table.classes(Action.UPDATE)
        and not table.live.triggers
        and not family.to(table)
        and {"INSERT", "DELETE"} <= table.live.privileges
    }
    updates = [one for one in writes if one.action is Action.UPDATE and one.table.rows in free]
    tables = list({one.table.rows: one.table for one in updates}.values())
    for table in tables:
        run(connection, _deletion(table, table.acting(Action.UPDATE)))
    rest = [one for one in writes if one not in updates]
    _in_order(connection, rest, _ORDERS[1])
    for table in tables:
        columns = [column.name for column in table.live.plain_columns]
        run(connection, _insertion(table, table.acting(Action.UPDATE), columns))


# --- sequences -----------------------------------------------------------------------------------


def raise_sequences(connection: Connection, table: PlannedTable) -> None:
    """Bring each sequence of a table past the values that are put in; never move one back.

    Not undone by a rollback, and harmless: it leaves numbers out.
    """
    if table.classes(Action.INSERT):
        for sequence, farthest in table.farthest_numbers(connection):
            _move_to(connection, sequence.name.sql, farthest, sequence.increment)


def _move_to(connection: Connection, name: str, farthest: int, increment: int) -> None:
    ((last, is_called),) = rows_of(connection, f"SELECT last_value, is_called FROM {name}")
    steps = -((int(last) - (0 if is_called else increment) - farthest) // increment)
    if steps <= 0:
        return
    if steps <= _STEPS_MAX:
        run(
            connection,
            "SELECT count(pg_catalog.nextval(%s::regclass)) FROM generate_series(1, %s)",
            (name, steps),
        )
        return
    escaped = name.replace("%", "%%")
    behind = "<" if increment > 0 else ">"
    run(
        connection,
        f"SELECT pg_catalog.setval(%s::regclass, %s) FROM {escaped} WHERE last_value {behind} %s",
        (name, farthest, farthest),
    )
