"""Run a plan in one transaction of the live database: all of it, or nothing.

    1  BEGIN at READ COMMITTED, with timeouts of its own; an advisory lock keeps a second merge out
    2  rows are classified, the live ones among them locked in the order of their keys, and
       classified again: from here on nobody else changes them. Keys that are free cannot be
       locked; taking one meanwhile is a unique violation, and the whole is tried again
    3  the plan is made, by the same code as `plan`, and must be the one that was agreed to
    4  what is to be written is written, set by set, and counted
    5  what was written is read back: a trigger may have dropped or altered rows
    6  the rows before and after, and the record with the transaction's number, become durable;
       that no crash gives the number away again was seen to beforehand
    7  COMMIT. When the connection ends there, the server is asked what became of the transaction

Everything is local to the transaction. No superuser is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import errors

from pitr.clock import now_us
from pitr.errors import DatabaseRefused, PlanStale, SourceUnreachable, SourceUnusable
from pitr.merge.rules import actions_of
from pitr.postgres.diff.classified import ClassifiedTable
from pitr.postgres.diff.states import States, sidecars
from pitr.postgres.live.faults import server_fault
from pitr.postgres.merge.creation import finish, take_back
from pitr.postgres.merge.images import Images
from pitr.postgres.merge.outcome import hold_number, merge_outcome
from pitr.postgres.merge.plan import PlanRequest, PreparedPlan, make_plan
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.verification import verify_written
from pitr.postgres.merge.waiting import Waiting, telling_who_blocks
from pitr.postgres.merge.writability import check_rights
from pitr.postgres.merge.writing import WrittenTable, refused, write_all
from pitr.postgres.tables.definition import NewDefinition
from pitr.postgres.tables.session import (
    Connection,
    begin,
    is_open,
    pin,
    rows_of,
    run,
    set_local,
    unpin,
    value_of,
)
from pitr.recovery.merges import HeldNumber
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.plan import CommitTrace, MergeOutcome, MergeStep, OnStep, Plan
from pitr.vocabulary.row_class import Action

_ATTEMPTS = 5
_ROUNDS = 4
_PAUSE_SECONDS = 0.05
_OUTCOME_SECONDS = 30.0
_IDLE_SECONDS = 600
# 'pitr', and a number of ours: one merge in a database at a time.
_ADVISORY = (0x70697472, 1)
# The state before the merge; what others commit between here and the COMMIT comes after it.
_WAL_END = (
    "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint,"
    " pg_catalog.pg_current_wal_insert_lsn()::text"
)
_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation)


@dataclass(frozen=True, slots=True)
class Transaction:
    """The number of the merge's transaction, and what makes it surely its own."""

    xid: str
    held: HeldNumber | None


Classify = Callable[[States], list[ClassifiedTable]]
Again = Callable[[Connection, Sequence[ClassifiedTable]], list[ClassifiedTable]]
Record = Callable[
    [Transaction, tuple[WrittenTable, ...], PreparedPlan, tuple[NewDefinition, ...]], None
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRun:
    """How one merge or undo is run.

    `folder` is that of the merge, where its rows go. `expected` is the fingerprint that was agreed
    to, None when the user agreed to whatever the plan is. `made` is what an undo drops, if nothing
    was done to it since. `classify` stages and classifies, `again` classifies once more. `record`
    makes the record durable, given the transaction and what was made in it; `discard` removes it
    when that is known to be rolled back. `show` is given the plan of each
    attempt before any row is written. `reconnect` opens live anew, to ask what became of a COMMIT,
    and who blocks. `report` is told of waiting and of another attempt; it may be called by another
    thread. No limit on statements for 0 `statement_seconds`.
    """

    folder: Path
    expected: str | None
    classify: Classify
    again: Again
    record: Record
    discard: Callable[[], None]
    reconnect: Callable[[], Connection]
    on_step: OnStep
    report: OnEvent
    show: Callable[[Plan], None]
    lock_seconds: float = 10.0
    statement_seconds: float = 0.0
    attempts: int = _ATTEMPTS
    made: tuple[NewDefinition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a merge did. Unless `is_written` nothing was: see the plan."""

    prepared: PreparedPlan
    tables: tuple[WrittenTable, ...] = ()
    warnings: tuple[str, ...] = ()
    locked_seconds: float = 0.0
    attempts: int = 1
    is_written: bool = False
    trace: CommitTrace | None = None


def apply_plan(states: States, request: PlanRequest, how: MergeRun) -> Applied:
    """Run the merge, again from the start when others were in its way, a few times at most.

    Raises PlanStale, DatabaseRefused, SourceUnreachable when it is not known what became of the
    COMMIT, and what reading the states raises. But for the last nothing was changed.
    """
    for attempt in range(1, how.attempts + 1):
        try:
            with (
                _rolled_back(states.live),
                telling_who_blocks(
                    states.live, how.reconnect, how.report, how.lock_seconds
                ) as waiting,
                _said(waiting),
            ):
                return _once(states, request, how, attempt)
        except _Again as reason:
            if attempt == how.attempts:
                raise reason.error from reason
            tried = f"trying again, attempt {attempt + 1} of {how.attempts}"
            how.report(Event(Level.INFO, tried, reason.error.detail))
            time.sleep(_PAUSE_SECONDS * 2**attempt)
        finally:
            _sweep(how.folder)
    raise AssertionError("the last attempt returns or raises")


class _Again(Exception):
    """The same may come out otherwise when it is tried again; `error` when it was the last time."""

    def __init__(self, error: DatabaseRefused | PlanStale) -> None:
        super().__init__(error.message)
        self.error = error


@contextmanager
def _rolled_back(live: Connection) -> Iterator[None]:
    """Leave no transaction open, whatever happens in the block."""
    try:
        yield
    finally:
        if not live.closed and is_open(live):
            with suppress(psycopg.Error):
                run(live, "ROLLBACK")


@contextmanager
def _said(waiting: Waiting) -> Iterator[None]:
    """Turn what the server says into errors of ours."""
    try:
        yield
    except _AGAIN as error:
        raise _Again(refused(_says(error))) from error
    except errors.LockNotAvailable as error:
        raise DatabaseRefused(
            "a lock was not to be had in time; nothing was changed",
            detail=_says(error) + waiting.sentence,
            hint="Run the command again, or wait longer with --lock-timeout.",
        ) from error
    except errors.QueryCanceled as error:
        raise DatabaseRefused(
            "a statement of the merge was cancelled; nothing was changed",
            detail=_says(error) + waiting.sentence,
            hint="Run the command again, or allow more time with --statement-timeout.",
        ) from error
    except errors.IntegrityError as error:
        raise refused(_says(error)) from error
    except psycopg.Error as error:
        raise server_fault(error, "the merge failed and was rolled back") from error


def _says(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    detail = error.diag.message_detail
    return f"{text}. {detail}" if detail else f"{text}."


def _sweep(folder: Path) -> None:
    """Remove the files of an attempt that was rolled back, so that the next can make them."""
    if not (folder / "merge.json").exists():
        for path in [*folder.glob("*.zst"), *folder.glob("rows.json")]:
            path.unlink(missing_ok=True)


def _once(states: States, request: PlanRequest, how: MergeRun, attempt: int) -> Applied:
    live = states.live
    with sidecars(states):
        _begin(live, how)
        how.on_step(MergeStep.LOCKED)
        classified = how.classify(states)
        transaction = _transaction(live, how)
        began = time.monotonic()
        classified = _lock(states, classified, request, how)
        prepared = make_plan(states, classified, request)
    if how.expected is not None and prepared.plan.fingerprint != how.expected:
        raise stale("Rows, keys or definitions have moved since the plan was made.")
    if prepared.plan.blocking or not (prepared.plan.has_work or how.made):
        return Applied(prepared=prepared, attempts=attempt)
    how.show(prepared.plan)
    how.on_step(MergeStep.VALIDATED)
    tables, warnings = _write(live, prepared, how)
    made = finish(live, prepared.creations)
    dropped, kept = take_back(live, how.made)
    if not (prepared.plan.has_work or dropped):
        return Applied(prepared=prepared, warnings=tuple(kept), attempts=attempt)
    begin_us, wal_end = rows_of(live, _WAL_END)[0]  # not later: from here on nothing may fail
    how.record(transaction, tables, prepared, made)
    try:
        how.on_step(MergeStep.RECORDED)
    except BaseException:
        how.discard()
        raise
    _commit(live, transaction, request.source, how)
    how.on_step(MergeStep.COMMITTED)
    return Applied(
        prepared=prepared,
        tables=tables,
        warnings=(*warnings, *kept),
        locked_seconds=round(time.monotonic() - began, 4),
        attempts=attempt,
        is_written=True,
        trace=CommitTrace(begin_us=begin_us, end_us=now_us(), before=f"lsn:{wal_end}"),
    )


def _begin(live: Connection, how: MergeRun) -> None:
    begin(live, "ISOLATION LEVEL READ COMMITTED READ WRITE")
    set_local(
        live,
        {
            "lock_timeout": f"{max(1, round(how.lock_seconds * 1000))}ms",
            "statement_timeout": f"{round(how.statement_seconds * 1000)}ms",
            "idle_in_transaction_session_timeout": f"{_IDLE_SECONDS}s",
            "synchronous_commit": _durable_commit(live),
        },
    )
    if value_of(live, "SELECT current_setting('session_replication_role')") == "replica":
        # A session of a role with that default would check no foreign key and fire no trigger.
        set_local(live, {"session_replication_role": "origin"})
    try:
        run(live, "SELECT pg_advisory_xact_lock(%s, %s)", _ADVISORY)
    except errors.LockNotAvailable as error:
        raise DatabaseRefused(
            "another merge is running in this database; nothing was changed",
            detail=f"It held the advisory lock for {how.lock_seconds:g} s.",
            hint="Run the command again when the other merge is over.",
        ) from error


def _transaction(live: Connection, how: MergeRun) -> Transaction:
    xid = str(value_of(live, "SELECT pg_catalog.pg_current_xact_id()::text"))
    return Transaction(xid, hold_number(xid, how.reconnect))


def _durable_commit(live: Connection) -> str:
    """Return a synchronous_commit that is never weaker than the local disk."""
    own = str(value_of(live, "SELECT current_setting('synchronous_commit')"))
    return "on" if own == "off" else own


def _lock(
    states: States, classified: list[ClassifiedTable], request: PlanRequest, how: MergeRun
) -> list[ClassifiedTable]:
    """Lock the live rows that the plan writes, in key order, and classify once more.

    Rows that somebody wrote in between may come under other classes: so again, until nothing has
    moved. What is locked stays so, and each time there is less that can. Raises _Again when that
    does not end.
    """
    for _ in range(_ROUNDS):
        tables = [
            PlannedTable(classified=t, actions=actions_of(request.options)) for t in classified
        ]
        check_rights(states.live, tables)
        locked = [_lock_rows(states.live, table) for table in sorted(tables, key=lambda t: t.name)]
        if not any(locked):
            return classified
        was = [_classes_digest(states.live, table) for table in tables]
        classified = how.again(states.live, classified)
        now = [PlannedTable(classified=t, actions=actions_of(request.options)) for t in classified]
        if [_classes_digest(states.live, table) for table in now] == was:
            return classified
    raise _Again(stale("Rows were written while they were being locked, again and again."))


def _lock_rows(live: Connection, table: PlannedTable) -> int:
    if table.is_missing or table.keyless or not table.classes(Action.UPDATE, Action.DELETE):
        return 0
    acting = table.acting(Action.UPDATE, Action.DELETE)
    # Rows that are only updated can be referred to meanwhile.
    strength = "UPDATE" if table.classes(Action.DELETE) else "NO KEY UPDATE"
    locked = (
        f"SELECT 1 FROM {table.rows} AS r {table.live_row()} WHERE {acting} ORDER BY r.n"
        f" FOR {strength} OF l"
    )
    return int(value_of(live, f"SELECT count(*) FROM ({locked}) AS locked"))


def _classes_digest(live: Connection, table: PlannedTable) -> Sequence[object]:
    """Return what stands for the rows that are written with their classes and masks."""
    taken = [f"r.key_{at}" for at in range(len(table.classified.key))]
    row = f'(ROW({", ".join([*taken, "r.class", "r.mask"])})::text) COLLATE "C"'
    return rows_of(
        live,
        f"SELECT count(*), sum(hashtextextended({row}, 4))::text FROM {table.rows} AS r"
        f" WHERE {table.acting()}",
    )


def _write(
    live: Connection, prepared: PreparedPlan, how: MergeRun
) -> tuple[tuple[WrittenTable, ...], tuple[str, ...]]:
    images = Images(live, how.folder, prepared.family.tables)
    images.save_before()
    unpin(live)

    def verify() -> list[str]:
        pin(live)
        how.on_step(MergeStep.APPLIED)
        return verify_written(live, prepared.family.tables, images)

    tables, warnings = write_all(live, prepared.family, verify)
    how.on_step(MergeStep.VERIFIED)
    images.save_after()
    return tables, tuple(warnings)


def stale(detail: str) -> PlanStale:
    """Return the error for rows that are not what the plan saw."""
    return PlanStale(
        "the plan is stale; nothing was changed",
        detail=detail,
        hint="Run 'pitr plan' again, and look at what it shows now.",
    )


# --- COMMIT --------------------------------------------------------------------------------------


def _commit(live: Connection, transaction: Transaction, place: str, how: MergeRun) -> None:
    try:
        run(live, "COMMIT")
        return
    except psycopg.Error as error:
        if not live.broken:  # the server said no, and has rolled back
            how.discard()
            raise
        lost = error
    outcome = _outcome(transaction, place, how)
    if outcome is MergeOutcome.HAPPENED:
        return
    if outcome is MergeOutcome.DID_NOT_HAPPEN:
        how.discard()
        raise refused(
            "The connection was lost at COMMIT, and the server has rolled back."
        ) from lost
    raise SourceUnreachable(
        "it is not known whether the merge was committed",
        detail="The connection was lost at COMMIT, and the server cannot be asked about"
        f" transaction {transaction.xid}.",
        hint="The next 'pitr plan', 'merge', 'undo' or 'recoveries' asks again.",
    ) from lost


def _outcome(transaction: Transaction, place: str, how: MergeRun) -> MergeOutcome:
    deadline = time.monotonic() + _OUTCOME_SECONDS
    while time.monotonic() < deadline:
        with suppress(psycopg.Error, SourceUnreachable, SourceUnusable):
            live = how.reconnect()
            try:
                found = merge_outcome(
                    live,
                    how.folder,
                    xid=transaction.xid,
                    held=transaction.held,
                    place=place,
                )
            finally:
                live.close()
            if found is not None:
                return found
        time.sleep(_PAUSE_SECONDS * 4)
    return MergeOutcome.CANNOT_BE_TOLD
