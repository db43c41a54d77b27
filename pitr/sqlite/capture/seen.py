"""What a follower of the source hands on: a commit, and the time in which it must have happened.

Nothing in a database says when a transaction was committed. What is known is when the state was
looked at: a commit that one reading shows and the reading before did not show happened between
the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pitr.clock import now_us
from pitr.sqlite.pagelog.segment import WalMark


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time, the begin excluded and the end included."""

    begin_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class SeenCommit:
    """One new state of the source: a commit, or what differs from the state before.

    `pages` is ascending and to be read once, before the next state is asked for. `wal` is None and
    `change_counter` not 0 in rollback-journal mode; `wal` is None also when the WAL is empty. Of
    more than one of `commits` only the state after the last is known.
    """

    interval: Interval
    page_count: int
    pages: Iterable[tuple[int, bytes]]
    wal: WalMark | None = None
    change_counter: int = 0
    commits: int = 1


Sink = Callable[[SeenCommit], None]


class Discontinuity(Exception):
    """Say that the source can no longer be followed commit by commit from where it was left.

    The state is found again by a page difference. `is_coarse` is true when nothing is missing that
    could have been seen: the source went on in rollback-journal mode, or came from there.
    """

    def __init__(self, reason: str, *, is_coarse: bool = False) -> None:
        self.reason = reason
        self.is_coarse = is_coarse
        super().__init__(reason)


class PollClock:
    """Turn the times of readings into intervals whose ends never run backwards."""

    def __init__(self, begin_us: int, end_us: int) -> None:
        """Begin at the time up to which every commit is known; no interval ends before `end_us`."""
        self._begin_us = begin_us
        self._end_us = end_us

    @property
    def complete_until_us(self) -> int:
        """Return the time up to which every commit has been seen for certain."""
        return self._begin_us

    def interval(self, before_us: int, after_us: int | None = None) -> Interval:
        """Return the interval of the commits that a reading shows for the first time.

        The reading lay between `before_us` and `after_us`, by default now. What it does not show
        was committed after `before_us`: there the next interval begins.
        """
        self._end_us = max(now_us() if after_us is None else after_us, self._end_us)
        found = Interval(min(self._begin_us, self._end_us), self._end_us)
        self._begin_us = before_us
        return found
