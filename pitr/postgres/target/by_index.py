"""Find the position in the WAL that a target means, and what lies just before and after it.

A state is everything that was committed up to a position: the commits whose record ends at or
before it. "At T" is the state before the first commit record, in the order of the WAL, that is
later than T: commit times are not in order, and only a stop between two records can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never

from pitr.archive.archive import Mark
from pitr.errors import ArchiveLacks, OutsideWindow, UsageError
from pitr.postgres.index.ends import TransactionEnd, ends_of, last_commit
from pitr.postgres.index.wal_index import WalIndex
from pitr.target_text import format_time
from pitr.vocabulary.position import Lsn
from pitr.vocabulary.target import (
    CommitTarget,
    LatestTarget,
    LsnTarget,
    NameTarget,
    RelativeTarget,
    ResolvedTarget,
    Target,
    TimeTarget,
    TransactionAt,
    XidTarget,
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The WAL in which targets are looked for: archived without a gap from `begin` to `end`."""

    timeline: int
    begin: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True)
class ResolvedLsn:
    """A target and the position it came to: the state has what was committed up to `stop`.

    `transaction` is the one that an xid target names, or whose end is at an LSN target.
    """

    target: ResolvedTarget
    timeline: int
    stop: Lsn
    transaction: TransactionEnd | None


class Resolver:
    """Resolve targets in one stretch of WAL, by its index."""

    def __init__(
        self,
        index: WalIndex,
        stretch: Stretch,
        *,
        window_to_us: int,
        now_us: int,
        find_mark: Callable[[str], Mark],
    ) -> None:
        """`window_to_us` is the moment up to which the archive is proven current."""
        self._index = index
        self._stretch = stretch
        self._window_to_us = window_to_us
        self._now_us = now_us
        self._find_mark = find_mark

    def resolve(self, target: Target) -> ResolvedLsn:
        """Return the position a target means.

        Raises OutsideWindow, UsageError for a target of the other engine or an aborted transaction,
        what `find_mark` raises for an unknown mark, and what the index raises.
        """
        match target:
            case LatestTarget():
                return self._found(self._stretch.end, None)
            case LsnTarget(lsn):
                return self._at_lsn(lsn)
            case TimeTarget(time_us):
                return self._at_time(time_us)
            case RelativeTarget():
                return self._at_time(target.time_us(self._now_us))
            case XidTarget(xid, before):
                return self._at_xid(xid, before=before)
            case NameTarget(name):
                return self._at_lsn(_mark_lsn(self._find_mark(name)))
            case CommitTarget():
                raise UsageError(
                    "this target is not for a PostgreSQL source",
                    detail="Commit numbers belong to SQLite; PostgreSQL has LSNs and xids.",
                    hint="Use 'lsn:…', 'xid:…' or 'before:xid:…'; 'pitr log' lists them.",
                )
            case _:
                assert_never(target)

    def ends_from(self, begin: Lsn) -> Iterator[TransactionEnd]:
        """Yield the commits whose record ends after a position, oldest first."""
        stretch = self._stretch
        for part in self._index.parts(stretch.timeline, begin.value, stretch.end.value):
            if part.times != (0, 0):
                yield from (end for end in ends_of(self._index, part) if end.is_commit)

    def last_commit(self, stop: Lsn) -> TransactionEnd | None:
        """Return the last commit whose record ends at or before a position."""
        stretch = self._stretch
        return last_commit(self._index, stretch.timeline, stretch.begin.value, stop.value)

    def _at_lsn(self, lsn: Lsn) -> ResolvedLsn:
        if not self._stretch.begin <= lsn <= self._stretch.end:
            raise self._outside(f"lsn:{lsn}", early=lsn < self._stretch.begin)
        return self._found(lsn, None)

    def _at_time(self, time_us: int) -> ResolvedLsn:
        text = format_time(time_us)
        stretch = self._stretch
        for part in self._index.parts(stretch.timeline, stretch.begin.value, stretch.end.value):
            if part.times is not None and part.times[1] <= time_us:
                continue
            for end in ends_of(self._index, part):
                if end.is_commit and end.time_us > time_us:
                    found = self._found(Lsn(end.lsn), time_us)
                    if found.target.last_included is None:
                        raise self._outside(text, early=True)
                    return found
        last = self.last_commit(stretch.end)
        if time_us > max(self._window_to_us, last.time_us if last else 0):
            raise self._outside(text, early=False)
        return self._found(stretch.end, time_us)

    def _at_xid(self, xid: int, *, before: bool) -> ResolvedLsn:
        end = self.find_xid(xid)
        if end is None:
            raise ArchiveLacks(
                f"transaction {xid} is not in the archive",
                detail=f"Searched is the WAL from {self._stretch.begin} to {self._stretch.end}; a "
                "transaction that wrote nothing has no xid, and one that still runs no end.",
                hint="'pitr log' lists the transactions of the archive.",
            )
        if not end.is_commit:
            raise UsageError(
                f"transaction {xid} was rolled back",
                detail=f"It ended at lsn:{Lsn(end.end)} and changed nothing that anybody saw.",
                hint=f"For the state at that moment use 'lsn:{Lsn(end.end)}'.",
            )
        found = self._found(Lsn(end.lsn if before else end.end), None)
        return ResolvedLsn(found.target, found.timeline, found.stop, end)

    def find_xid(self, xid: int) -> TransactionEnd | None:
        """Return the end of the newest transaction of this number, or None.

        Of a number of 64 bits, with an epoch, the lower 32 count. A sub-transaction leads to the
        transaction that it belongs to.
        """
        xid &= 0xFFFFFFFF
        stretch = self._stretch
        parts = self._index.parts(stretch.timeline, stretch.begin.value, stretch.end.value)
        for part in reversed(list(parts)):
            for end in reversed(ends_of(self._index, part)):
                if xid == end.xid or xid in end.subxids:
                    return end
        return None

    def _found(self, stop: Lsn, time_us: int | None) -> ResolvedLsn:
        last = self.last_commit(stop)
        following = next(self.ends_from(stop), None)
        target = ResolvedTarget(
            time_us,
            f"lsn:{stop}",
            transaction_at(last) if last else None,
            transaction_at(following) if following else None,
        )
        here = last if last is not None and last.end == stop.value else None
        return ResolvedLsn(target, self._stretch.timeline, stop, here)

    def _outside(self, text: str, *, early: bool) -> OutsideWindow:
        stretch = self._stretch
        first = next(self.ends_from(stretch.begin), None)
        begins = f"{stretch.begin}{f', {format_time(first.time_us)}' if first else ''}"
        to_text = format_time(self._window_to_us)
        where = "before the archive begins" if early else "after the archive's proven end"
        return OutsideWindow(
            f"target {text} lies {where}",
            detail=f"The archive has WAL from {begins} to {stretch.end}, window.to is {to_text}.",
            hint="Use a later target."
            if early
            else f"Use a target up to window.to, {to_text}, or 'latest'.",
        )


def transaction_at(end: TransactionEnd) -> TransactionAt:
    """Return a commit as the echo of a target shows it."""
    return TransactionAt(f"lsn:{Lsn(end.end)}", end.time_us)


def _mark_lsn(mark: Mark) -> Lsn:
    try:
        return Lsn.of_position(mark.position)
    except ValueError:
        raise UsageError(
            f"mark {mark.name!r} is of another kind of source",
            detail=f"Its position is {mark.position}.",
            hint="Use a mark that was set for this PostgreSQL source.",
        ) from None
