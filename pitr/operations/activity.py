"""What was done to tables over time: counts by slices of time, and those that stand out."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pitr.vocabulary.change import TableChange, Transaction

# What "unusual" means: so much more than the other slices of this table hold, and so many rows.
_TIMES_USUAL = 8
_ROWS_MIN = 10
# Slices that a person can name, in seconds.
_SLICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200)
_DAY_SECONDS = 86400
KINDS = ("inserted", "updated", "deleted")

_Change = tuple[Transaction, TableChange]


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices of time, all of one length, from `begin_us` on."""

    begin_us: int
    length_us: int
    count: int

    def of(self, time_us: int) -> int:
        """Return the number of the slice that a moment is in."""
        return (time_us - self.begin_us) // self.length_us

    def begin_of(self, number: int) -> int:
        """Return when a slice begins."""
        return self.begin_us + number * self.length_us


@dataclass(frozen=True, slots=True)
class Burst:
    """A slice in which far more was done than is usual, and the transaction that did the most.

    `kind` is one of KINDS, `emptied` for a TRUNCATE or DROP, whose rows nobody counted.
    """

    slice: int
    kind: str
    rows: int
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class TableActivity:
    """The rows of one table by slice, for each of KINDS, and what stands out."""

    table: str
    rows: dict[str, list[int]]
    bursts: list[Burst]


def slices_of(transactions: Sequence[Transaction], *, count_max: int) -> Slices:
    """Return at most so many slices (2 or more) that hold all transactions, of a usual length."""
    times = [one.time_us for one in transactions]
    seconds = (max(times) - min(times)) // 1_000_000 + 1
    days = (_DAY_SECONDS * number for number in itertools.count(1))
    # One more than fits: the first and the last slice are hardly ever full.
    lengths = itertools.chain(_SLICE_SECONDS, days)
    length = next(length for length in lengths if seconds // length + 2 <= count_max)
    length_us = length * 1_000_000
    begin = min(times) // length_us * length_us
    return Slices(begin, length_us, (max(times) - begin) // length_us + 1)


def activity_of(transactions: Sequence[Transaction], slices: Slices) -> list[TableActivity]:
    """Return what was done to each table, in the order of names."""
    found: dict[str, list[_Change]] = {}
    for one in transactions:
        for change in one.tables:
            found.setdefault(change.table, []).append((one, change))
    return [_activity(table, found[table], slices) for table in sorted(found)]


def _activity(table: str, own: Sequence[_Change], slices: Slices) -> TableActivity:
    rows = {kind: [0] * slices.count for kind in KINDS}
    for one, change in own:
        for kind in KINDS:
            rows[kind][slices.of(one.time_us)] += getattr(change, kind)
    return TableActivity(table, rows, _bursts(rows, own, slices))


def _bursts(
    rows_by_kind: Mapping[str, Sequence[int]], own: Sequence[_Change], slices: Slices
) -> list[Burst]:
    """Return what stands out of one table, in the order of time."""
    bursts = [
        Burst(slices.of(one.time_us), "emptied", 0, one)
        for one, change in own
        if change.truncated or change.dropped
    ]
    for kind in KINDS:
        rows = rows_by_kind[kind]
        usual = statistics.median(rows)
        for number, count in enumerate(rows):
            if count >= max(_ROWS_MIN, _TIMES_USUAL * usual):
                biggest = _biggest(own, kind, slices, number)
                bursts.append(Burst(number, kind, count, biggest))
    return sorted(bursts, key=lambda burst: (burst.slice, burst.kind))


def _biggest(own: Sequence[_Change], kind: str, slices: Slices, number: int) -> Transaction:
    within = [item for item in own if slices.of(item[0].time_us) == number]
    return max(within, key=lambda item: int(getattr(item[1], kind)))[0]
