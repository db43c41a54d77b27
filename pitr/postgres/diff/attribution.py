"""Which transactions removed the lost rows, so that legitimate deletes do not come back unnoticed.

From the log of a table since the target, by counts: where one transaction alone removed rows, it
removed the lost ones; where several did, and they removed as many as are lost, each took what it
says. Else rows that came and went since are among them, and which took what is not known. Updates
that changed a key are not seen: a row that lost its key so counts as removed by the others. It is
done only where the state after the damage is not known. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.postgres.diff.classified import ClassifiedTable
from pitr.vocabulary.change import Transaction
from pitr.vocabulary.lost_by import LostBy
from pitr.vocabulary.row_class import RowClass

_COMMANDS_MAX = 5


@dataclass(frozen=True, slots=True)
class Removals:
    """The transactions since the target that removed rows of one table, oldest first.

    `reason` says why they may not be all of them.
    """

    transactions: tuple[Transaction, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """The transactions that removed the lost rows of one table, oldest first, and warnings."""

    lost_by: tuple[LostBy, ...] = ()
    warnings: tuple[str, ...] = ()


def removals_of(transactions: Sequence[Transaction], reason: str | None = None) -> Removals:
    """Return what removed rows among the transactions of a log about one table."""
    removing = (one for one in transactions if _removed(one) != 0)
    return Removals(tuple(removing), reason)


def attribute_lost(table: ClassifiedTable, removals: Removals) -> Attribution:
    """Return which transactions removed the lost rows of a table, as far as that is known."""
    lost = table.counts.get(RowClass.LOST, 0)
    if not lost:
        return Attribution()
    taken = _shares(removals.transactions, lost)
    found = [_lost_by(one, rows) for one, rows in taken]
    missing = lost - sum(rows for _, rows in taken)
    if missing:
        found.append(LostBy(position=None, time_us=None, kind=None, since=None, rows=missing))
    return Attribution(tuple(found), _warnings(table, removals, found, missing))


def _removed(one: Transaction) -> int | None:
    """Return how many rows a transaction removed; None: all there were."""
    if any(change.truncated or change.dropped for change in one.tables):
        return None
    return sum(change.deleted for change in one.tables)


def _shares(removing: Sequence[Transaction], lost: int) -> list[tuple[Transaction, int]]:
    counts = [_removed(one) for one in removing]
    if len(removing) == 1:
        return [(removing[0], lost if counts[0] is None else min(lost, counts[0]))]
    known = [0 if count is None else count for count in counts]
    if sum(known) == lost and None not in counts:
        return list(zip(removing, known, strict=True))
    return []


def _lost_by(one: Transaction, rows: int) -> LostBy:
    return LostBy(position=one.position, time_us=one.time_us, kind=one.kind, since=None, rows=rows)


def _warnings(
    table: ClassifiedTable, removals: Removals, found: Sequence[LostBy], missing: int
) -> tuple[str, ...]:
    said = []
    removing = removals.transactions
    if len(removing) > 1:
        name = str(table.aligned.before.name)
        commands = [
            f"'{_lost_by(one, 0).isolating_command(name)}' ({'all' if rows is None else rows})"
            for one in removing
            for rows in [_removed(one)]
        ]
        more = ", …" if len(commands) > _COMMANDS_MAX else ""
        said.append(
            f"{table.name}: rows were removed by {len(removing)} transactions since, perhaps not"
            f" all by mistake; for those of one alone: {', '.join(commands[:_COMMANDS_MAX])}{more}"
        )
    if missing:
        reason = removals.reason or (
            "rows that came and went since were removed too"
            if removing
            else "no transaction in the archive removed any; perhaps a key was changed"
        )
        said.append(
            f"{table.name}: which transaction removed {missing} rows is not known: {reason}"
        )
    elif removals.reason and found:
        said.append(f"{table.name}: others may have removed rows too: {removals.reason}")
    return tuple(said)
