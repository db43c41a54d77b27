"""Run a plan in one transaction of the live database: all of it, or nothing.

    1  foreign_keys is set, and read back: inside a transaction the setting would be ignored
    2  BEGIN IMMEDIATE: from here on nobody else writes. A transaction that begins by reading can
       fail to become a writing one, whatever the busy timeout
    3  the rows that the plan touches must be what they were when it was made
    4  deletes, updates, inserts, parents first, set by set. Foreign keys are checked at the end
       (defer_foreign_keys), so cycles and rows that name rows of their own table are no obstacle
    5  what was written is read back: a trigger may have dropped or altered rows
    6  the undo record becomes durable
    7  COMMIT

Only `main` is written: a transaction over several files is not atomic in WAL mode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import apsw

from pitr.clock import now_us
from pitr.errors import DatabaseRefused, PlanStale
from pitr.sqlite.merge.digests import live_digest
from pitr.sqlite.merge.parents import abandoning, violations
from pitr.sqlite.merge.plan import PreparedPlan, schema_digest
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.merge.undo import UndoImages
from pitr.sqlite.merge.verification import verify_written
from pitr.sqlite.merge.writing import UNIQUE_CODES, Writer, WrittenTable, refused
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.faults import sqlite_faults, sqlite_says
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.plan import CommitTrace, MergeStep, OnStep
from pitr.vocabulary.row_class import Action

_LOCK_PAUSE_SECONDS = 0.0005
_COMMIT_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a merge did, and what there is to know about it."""

    tables: tuple[WrittenTable, ...]
    warnings: tuple[str, ...]
    trace: CommitTrace


Record = Callable[[bytes, bytes, tuple[WrittenTable, ...]], None]


def begin_locked(connection: apsw.Connection, *, enforces_keys: bool, lock_seconds: float) -> None:
    """Set up the connection and begin the transaction that writes.

    `wait_for_locks` comes first. Raises DatabaseRefused when another connection holds the lock for
    `lock_seconds`.
    """
    connection.pragma("foreign_keys", enforces_keys)
    if bool(connection.pragma("foreign_keys")) != enforces_keys:
        raise DatabaseRefused("the checking of foreign keys cannot be set")
    connection.pragma("synchronous", 2)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except apsw.BusyError as error:
        raise _locked(lock_seconds) from error
    connection.pragma("defer_foreign_keys", True)


def wait_for_locks(connection: apsw.Connection, lock_seconds: float) -> None:
    """Ask for a lock again and again, for so long at most.

    SQLite's own busy timeout soon asks only ten times a second: beside writers that leave the lock
    for less than a millisecond at a time it waits in vain.
    """
    began: list[float] = []

    def wait(attempt: int) -> bool:
        if not attempt:
            began[:] = [time.monotonic()]
        time.sleep(_LOCK_PAUSE_SECONDS)
        return time.monotonic() - began[0] < lock_seconds

    connection.set_busy_handler(wait)


def apply_plan(
    connection: apsw.Connection,
    prepared: PreparedPlan,
    *,
    lock_seconds: float,
    record: Record,
    on_step: OnStep,
) -> Applied:
    """Run a plan inside the transaction of `begin_locked`, and commit it.

    `record` makes the images before and after durable; nothing is committed before it returns.
    Raises PlanStale when rows have moved, DatabaseRefused; then the transaction is still open, and
    the caller rolls it back.
    """
    with sqlite_faults("the merge was refused and rolled back"), _stale_keys():
        _revalidate(connection, prepared)
        on_step(MergeStep.VALIDATED)
        images = UndoImages(connection, prepared.family)
        images.save_before()
        tables = _write(connection, prepared)
        on_step(MergeStep.APPLIED)
        images.save_after()
        warnings = verify_written(connection, prepared)
        if not prepared.enforces_keys:
            _check_parents(connection, prepared)
        on_step(MergeStep.VERIFIED)
        record(*images.take_out(), tables)
        on_step(MergeStep.RECORDED)
        trace = _traced_commit(connection, prepared, lock_seconds)
    on_step(MergeStep.COMMITTED)
    return Applied(tables=tables, warnings=warnings, trace=trace)


@contextmanager
def _stale_keys() -> Iterator[None]:
    try:
        yield
    except apsw.ConstraintError as error:
        if getattr(error, "extendedresult", 0) not in UNIQUE_CODES:
            raise
        # When the plan was made every key and every unique value was free.
        raise stale(sqlite_says(error)) from error


def stale(detail: str) -> PlanStale:
    """Return the error for rows that are not what the plan saw."""
    return PlanStale(
        "the plan is stale; nothing was changed",
        detail=detail,
        hint="Run 'pitr plan' again, and look at what it shows now.",
    )


def _locked(lock_seconds: float) -> DatabaseRefused:
    return DatabaseRefused(
        f"the database stayed locked for {lock_seconds:g} s; nothing was changed",
        detail="Another connection is writing, or reads where a rollback journal is in use.",
        hint="Run the command again, or wait longer with --lock-timeout.",
    )


def _revalidate(connection: apsw.Connection, prepared: PreparedPlan) -> None:
    if schema_digest(connection, prepared.tables) != prepared.schema:
        raise stale("The definition of a table, an index or a trigger has changed.")
    for table, digest in zip(prepared.tables, prepared.live_digests, strict=True):
        if live_digest(connection, table) != digest:
            raise stale(f"Rows of {table.name} that the plan touches have changed.")
        for key in prepared.family.keys.to(table.name):
            chosen = abandoning(prepared.family, table, key)
            if chosen and connection.execute(f"{chosen} LIMIT 1").fetchone():
                raise stale(f"Rows of {key.child} have come to refer to rows that are to go.")


def _write(connection: apsw.Connection, prepared: PreparedPlan) -> tuple[WrittenTable, ...]:
    tables = _parents_first(prepared)
    writer = Writer(connection, prepared.effects)
    for table in tables:
        if table.created_by is not None and table.classes(Action.INSERT):
            writer.create(table)
    # Children that get their old parent back must have it before the wrong one goes.
    late = [t for t in tables if any(map(_has_updates, _children(prepared, t)))]
    for table in reversed(tables):
        if table not in late:
            writer.delete(table)
    for table in tables:
        writer.update(table)
    for table in reversed(late):
        writer.delete(table)
    for table in tables:
        writer.insert(table)
    for name in prepared.dropped:
        if not connection.execute(f"SELECT EXISTS (SELECT 1 FROM main.{quoted(name)})").get:
            connection.execute(f"DROP TABLE main.{quoted(name)}")
    for name in prepared.rebuilt:
        connection.execute(f"INSERT INTO main.{quoted(name)}({quoted(name)}) VALUES ('rebuild')")
    return tuple(writer.written(table) for table in prepared.tables)


def _has_updates(table: PlannedTable) -> bool:
    return bool(table.classes(Action.UPDATE))


def _children(prepared: PreparedPlan, parent: PlannedTable) -> list[PlannedTable]:
    names = {folded(key.child) for key in prepared.family.keys.to(parent.name)}
    return [table for table in prepared.tables if folded(table.name) in names]


def _parents_first(prepared: PreparedPlan) -> list[PlannedTable]:
    """Return the tables, each behind its parents; where they go in circles, as they come."""
    ordered: list[PlannedTable] = []
    waiting = list(prepared.tables)
    while waiting:
        free = [t for t in waiting if not _parents(prepared, t) & {folded(w.name) for w in waiting}]
        taken = free or waiting[:1]
        ordered += taken
        waiting = [table for table in waiting if table not in taken]
    return ordered


def _parents(prepared: PreparedPlan, table: PlannedTable) -> set[str]:
    keys = prepared.family.keys.of(table.name)
    return {folded(key.parent) for key in keys} - {folded(table.name)}


def _check_parents(connection: apsw.Connection, prepared: PreparedPlan) -> None:
    """Compare the rows without a parent with those that the plan knew of, and name them."""
    for name, rows in violations(connection, prepared.family).items():
        if rows > prepared.tolerated.get(name, 0):
            raise refused(
                f"{rows} rows of {name} would have no parent.",
                "Run 'pitr plan' again; --with-parents brings parents back too.",
            )


def _traced_commit(
    connection: apsw.Connection, prepared: PreparedPlan, lock_seconds: float
) -> CommitTrace:
    """Commit, and note when, and where the WAL ended then; others may go on at once."""
    frames: list[int] = []

    def hear(_connection: apsw.Connection, schema: str, frame: int) -> int:
        if schema == "main":
            frames.append(frame)
        return apsw.SQLITE_OK

    # It takes the place of automatic checkpoints, which are off in this connection.
    connection.set_wal_hook(hear)
    begin_us = now_us()
    _commit(connection, prepared, lock_seconds)
    end_us = now_us()
    return CommitTrace(begin_us=begin_us, end_us=end_us, frame=frames[-1] if frames else None)


def _commit(connection: apsw.Connection, prepared: PreparedPlan, lock_seconds: float) -> None:
    """Commit. With a rollback journal it has to wait until no reader is left.

    Where SQLite enforces foreign keys it checks them now, and leaves the transaction open.
    """
    deadline = time.monotonic() + lock_seconds
    while True:
        try:
            connection.execute("COMMIT")
            return
        except apsw.ConstraintError:
            _check_parents(connection, prepared)
            raise
        except apsw.BusyError as error:
            if time.monotonic() > deadline:
                raise _locked(lock_seconds) from error
        time.sleep(_COMMIT_PAUSE_SECONDS)
