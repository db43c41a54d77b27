"""revert: a recovery of exactly what one transaction changed, from before it to after it."""

from __future__ import annotations

from collections.abc import Callable

from pitr.config import Settings
from pitr.errors import ArchiveGap, OutsideWindow, UsageError
from pitr.operations.restore import RestoreRequest
from pitr.operations.revert import RevertOutcome, RevertRequest
from pitr.operations.sqlite.reading import Reading, open_reading
from pitr.operations.sqlite.restore import make_recovery, no_database
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord
from pitr.sqlite.rows.changes import TableDelta
from pitr.sqlite.rows.log import walk
from pitr.target_text import parse_target
from pitr.vocabulary.position import CommitNumber
from pitr.vocabulary.target import CommitTarget, ResolvedTarget

_UNKNOWN = {
    CommitKind.BASE: "It is a whole image: what led to it was not seen.",
    CommitKind.GAP: "It is a page difference after a time in which nothing was captured.",
    CommitKind.FORK: "It is a page difference: production had fallen behind the archive.",
    CommitKind.MERGED: "Compaction merged it with its neighbours.",
}


def revert(
    settings: Settings, request: RevertRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RevertOutcome:
    """Restore the tables that a transaction changed as they were before it.

    `on_target` hears the state before it. Raises UsageError for a text that names no transaction
    or a table that it did not change, ArchiveGap for one that is not known by itself, and what
    `restore` raises.
    """
    if request.load_into is not None:
        raise no_database(request.load_into)
    reading = open_reading(settings)
    number = _number(request.transaction, reading)
    record = _known_by_itself(reading, number)
    tables, warnings = _changed_tables(reading, record, request)
    before = reading.resolve(f"before:commit:{number}")
    after = reading.resolve(f"commit:{number}")
    on_target(before.target)
    restoring = RestoreRequest(
        tables=tables,
        target=f"before:commit:{number}",
        destination=request.destination,
        compare=request.compare,
        with_parents=request.with_parents,
        with_children=request.with_children,
    )
    outcome = make_recovery(settings, reading, before, after, restoring, kind="revert")
    return RevertOutcome(outcome, tuple(warnings))


def _number(text: str, reading: Reading) -> int:
    target = parse_target(text, now_us=reading.now_us)
    if not isinstance(target, CommitTarget) or target.before:
        raise UsageError(
            f"this names no transaction of a SQLite source: {text!r}",
            detail="A transaction is named by its position, as in commit:4711.",
            hint="'pitr log -t TABLE' lists the transactions with their positions.",
        )
    return target.number.value


def _known_by_itself(reading: Reading, number: int) -> CommitRecord:
    record = reading.pages.record_of(number)
    if record.kind is CommitKind.COMMIT and number > reading.pages.catalog.first_commit:
        return record
    position = CommitNumber(number)
    if record.kind is CommitKind.COMMIT:
        raise OutsideWindow(
            f"archive holds nothing before {position}",
            detail="It is the first commit that was archived.",
            hint="'pitr log -t TABLE' lists the transactions that can be reverted.",
        )
    first = record.first_covered - 1
    hint = "'pitr log -t TABLE' lists the transactions that can be reverted."
    if first >= reading.pages.catalog.first_commit:
        hint = f"Use 'pitr restore -t TABLE --at commit:{first} --until commit:{record.number}'."
    raise ArchiveGap(
        f"the transaction {position} is not known by itself",
        detail=_UNKNOWN[record.kind],
        hint=hint,
    )


def _changed_tables(
    reading: Reading, record: CommitRecord, request: RevertRequest
) -> tuple[list[str], list[str]]:
    """Return the tables to restore, by their names before the transaction, and warnings."""
    chosen = request.tables or None
    number = record.number
    commit = next(walk(reading.pages, chosen, first=number, last=number))
    tables, warnings = [], []
    for delta in commit.deltas:
        reason = _left_out(delta, is_named=bool(request.tables))
        if reason:
            warnings.append(f"{delta.pair.name}: {reason}")
        elif delta.pair.before is not None:
            tables.append(delta.pair.before.name)
    if record.wal is None:
        warnings.append(
            "the source was in rollback-journal mode, where changes are seen poll by poll: "
            "this may have been several transactions"
        )
    if not tables:
        what = ", ".join(request.tables) or "any table"
        raise UsageError(
            f"commit:{number} changed no rows of {what} that could be taken back",
            detail=" ".join(f"{warning}." for warning in warnings) or None,
            hint=f"'pitr log --since before:commit:{number} --until commit:{number}' shows what it "
            "did.",
        )
    return tables, warnings


def _left_out(delta: TableDelta, *, is_named: bool) -> str | None:
    """Return why a table that a transaction changed has nothing to be taken back."""
    change, before = delta.change, delta.pair.before
    if before is None:
        return "the transaction created it; nothing was there before"
    changes = (change.inserted, change.updated, change.deleted, change.altered, change.dropped)
    if not any(changes):
        return "its rows were stored anew, none of them changed"
    if before.module is not None and not is_named:
        return (
            "a virtual table comes back through the tables that feed it; name it with -t to have "
            "it too"
        )
    return None
