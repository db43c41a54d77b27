"""Find the commit in which a row vanished or changed.

Which versions of rows began and ended when is read from the WAL. What they held is asked of
replayed states of the table: one state answers for all versions that live at its moment, so as few
states are made as there must be to meet every version in question in its life, and none for what
ended before the newest answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pitr.postgres.index.ends import TransactionEnd
from pitr.postgres.rows.asking import ConditionUnknown, PastTable, Place
from pitr.postgres.rows.versions import RowVersion
from pitr.vocabulary.diff_row import Value

# A change of the key is looked for in so many states at most.
_STATES_MAX = 50

# How the table is opened as of a position; None when there was no such table then.
OpenTable = Callable[[int], AbstractContextManager[PastTable | None]]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What a transaction did, if the condition is true for what it did it to.

    The condition can be asked from the position `since` to `until`: of the one of `versions` that
    lives then, or without versions of every row in `files`, which the transaction emptied.
    """

    event: TransactionEnd
    since: int
    until: int
    versions: tuple[RowVersion, ...] = ()
    files: frozenset[int] = frozenset()

    def version_at(self, position: int) -> RowVersion | None:
        """Return the version that lives at a position."""
        found = (one for one in self.versions if one.since <= position <= one.until)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Found:
    """What was done to a row that the condition is true for; `version` as the row was asked."""

    candidate: Candidate
    version: RowVersion | None
    row: dict[str, Value]


def deletions(versions: Iterable[RowVersion], *, by_line: bool) -> Iterator[Candidate]:
    """Yield what deleted rows. `by_line`: all versions with the same key answer alike."""
    for one in versions:
        if one.is_deleted and one.died is not None:
            line = one.line(same_key=True) if by_line else (one,)
            yield Candidate(one.died, line[0].since, one.until, line)


def changes(versions: Iterable[RowVersion], *, by_line: bool) -> Iterator[Candidate]:
    """Yield what inserted, updated or deleted rows.

    `by_line`: only the newest of each row, as if no update changed a key.
    """
    for one in versions:
        event = one.died or one.born
        is_newest = one.next is None or not one.next.was_seen
        if event is not None and (is_newest or not by_line):
            line = one.line() if by_line else (one,)
            yield Candidate(event, line[0].since, one.until, line)


class WhenSearch:
    """One condition, and the states that it is asked of."""

    def __init__(
        self, open_table: OpenTable, condition: str, on_state: Callable[[int, int], None]
    ) -> None:
        """`on_state` hears which state is asked, counted from 1, and how much is in question."""
        self._open_table = open_table
        self._condition = condition
        self._on_state = on_state
        self._states = 0
        self._is_understood = False
        self._refusal: ConditionUnknown | None = None

    @property
    def refusal(self) -> ConditionUnknown | None:
        """Return why no state understood the condition; None when one did, or none was asked."""
        return None if self._is_understood else self._refusal

    def newest(self, candidates: Iterable[Candidate], *, states: int | None = None) -> Found | None:
        """Return the newest of what was done to a row that the condition is true for.

        With `states` no more than so many are asked; then what is left is not known.
        """
        best: Found | None = None
        pending = list(candidates)
        while pending and (states is None or states > 0):
            states = None if states is None else states - 1
            stop = max(one.since for one in pending)
            here = [one for one in pending if one.until >= stop]
            found = self._newest_at(stop, here, len(pending))
            if found is not None and _rank(found.candidate) > _rank_of(best):
                best = found
            pending = [one for one in pending if one.until < stop and _rank(one) > _rank_of(best)]
        return best

    def newest_of_changed_key(self, versions: Iterable[RowVersion]) -> Found | None:
        """Return the newest update after which the condition, about the key, was true no more.

        Some states only are asked: a row that is updated often has a life for each.
        """
        pairs = {one: after for one in versions if (after := _version_after(one)) is not None}
        matched = self._matching({*pairs, *pairs.values()})
        ended = [one for one, after in pairs.items() if one in matched and after not in matched]
        if not ended:
            return None
        last = max(ended, key=lambda one: one.until)
        assert last.died is not None
        candidate = Candidate(last.died, last.since, last.until, (last,))
        return Found(candidate, None, {})

    def look(self, position: int) -> tuple[tuple[str, ...] | None, bool]:
        """Return the table's key columns, and whether the condition is true for any row.

        The columns are None when there is no such table at the position.
        """
        with self._opened(position, 0) as table:
            if table is None:
                return None, False
            try:
                is_there = table.has_match(self._condition)
                self._is_understood = True
            except ConditionUnknown as error:
                is_there, self._refusal = False, error
            return table.key_columns(), is_there

    def row_before(self, found: Found) -> dict[str, Value] | None:
        """Return the row as it was just before; the row that was inserted when there was none."""
        event, versions = found.candidate.event, found.candidate.versions
        if not versions:
            return found.row
        before = (one for one in reversed(versions[-1].line()) if one.died is event)
        wanted = next((one for one in before if one.was_seen), versions[-1])
        if wanted is found.version:
            return found.row
        with self._opened(wanted.since, 1) as table:
            return table.row_at(_place(wanted)) if table is not None else None

    def _matching(self, versions: Iterable[RowVersion]) -> set[RowVersion]:
        """Return the versions that the condition is true for, newest ones first."""
        pending = [one for one in versions if one.was_seen]
        found: set[RowVersion] = set()
        for _ in range(_STATES_MAX):
            if not pending:
                break
            stop = max(one.since for one in pending)
            here = {_place(one): one for one in pending if one.until >= stop}
            with self._opened(stop, len(pending)) as table:
                found.update(here[place] for place in self._matches(table, here) if place in here)
            pending = [one for one in pending if one.until < stop]
        return found

    def _newest_at(
        self, stop: int, candidates: Sequence[Candidate], open_count: int
    ) -> Found | None:
        by_place = {
            _place(version): one
            for one in candidates
            if (version := one.version_at(stop)) is not None
        }
        by_file = {file: one for one in candidates for file in one.files}
        best: tuple[Candidate, Place] | None = None
        with self._opened(stop, open_count) as table:
            for place in self._matches(table, None if by_file else by_place):
                for match in (by_place.get(place), by_file.get(place.file)):
                    if match is not None and (best is None or _rank(match) > _rank(best[0])):
                        best = match, place
            if table is None or best is None:
                return None
            return Found(best[0], best[0].version_at(stop), table.row_at(best[1]))

    def _opened(self, stop: int, open_count: int) -> AbstractContextManager[PastTable | None]:
        self._states += 1
        self._on_state(self._states, open_count)
        return self._open_table(stop)

    def _matches(self, table: PastTable | None, places: Iterable[Place] | None) -> Iterator[Place]:
        """Yield where the rows are; none where the table lacks what the condition names."""
        if table is None:
            return
        try:
            yield from table.matches(self._condition, places)
            self._is_understood = True
        except ConditionUnknown as error:
            self._refusal = error


def _rank(one: Candidate) -> tuple[int, bool]:
    """Return what makes one newer; of one transaction, what it ended is before what it added."""
    ended = not one.versions or one.versions[-1].died is not None
    return one.event.lsn, ended


def _rank_of(found: Found | None) -> tuple[int, bool]:
    return _rank(found.candidate) if found is not None else (-1, False)


def _version_after(version: RowVersion) -> RowVersion | None:
    """Return the version that the transaction which ended a version left of its row."""
    after = version.next
    while after is not None and not after.was_seen:
        after = after.next
    return after


def _place(version: RowVersion) -> Place:
    place = version.place
    return Place(place.file.number, place.block, place.offset)
