"""The life of row versions: which transaction added each, which ended it, and what followed.

A version never changes what it holds. So whatever is asked of it can be asked at any moment of its
life: after the commit that added it, before the commit that ended it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pitr.postgres.index.ends import TransactionEnd, ends_of
from pitr.postgres.index.file import WantedFiles, file_of
from pitr.postgres.index.rows import RowKind
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.wal.heap import (
    TupleId,
    VersionChange,
    is_version_change,
    version_changes,
)
from pitr.postgres.wal.record import Fork, Record, RelationFile
from pitr.vocabulary.position import Lsn

_NAMES = ("lsn", "length", "kind", "rmgr", "info", "xid", "fork", "block")
ReadRecord = Callable[[int, int], Record]


@dataclass(slots=True, eq=False)
class RowVersion:
    """One version of a row at its place, which it has from position `since` to position `until`.

    `born` is None when it was there before the WAL that was read, `died` while nobody ended it: its
    place may end all the same, with the file. `previous` and `next` are the versions of the same
    row that an update in this WAL leads from and to; `keeps_key`: its key is surely that of the
    previous one.
    """

    place: TupleId
    since: int
    until: int
    born: TransactionEnd | None = None
    died: TransactionEnd | None = None
    is_moved: bool = False
    keeps_key: bool = False
    previous: RowVersion | None = None
    next: RowVersion | None = None

    @property
    def was_seen(self) -> bool:
        """Return whether it outlived the transaction that added it."""
        return self.since <= self.until

    @property
    def is_deleted(self) -> bool:
        """Return whether the row ended with it, also when its deleter had updated it before."""
        last = self
        while last.next is not None and last.next.died is self.died:
            last = last.next
        return last.died is not None and last.next is None and not last.is_moved

    def line(self, *, same_key: bool = False) -> tuple[RowVersion, ...]:
        """Return the versions of its row up to itself, with `same_key` those surely of one key."""
        found = [self]
        while (before := found[-1].previous) and (found[-1].keeps_key or not same_key):
            found.append(before)
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class VersionWish:
    """Of which files and in which WAL.

    `floor` is the earliest position that can be replayed to. With `narrowing`, which says it of
    a record's resource manager and info, only blocks with such records count.
    """

    files: WantedFiles
    timeline: int
    begin: Lsn
    end: Lsn
    floor: Lsn
    narrowing: Callable[[int, int], bool] | None = None


@dataclass(slots=True)
class _Lives:
    """Versions by place: those that live, and all that were found."""

    asked: VersionWish
    spans: Mapping[RelationFile, tuple[int, int]]
    living: dict[TupleId, RowVersion] = field(default_factory=dict)
    found: list[RowVersion] = field(default_factory=list)

    def apply(self, change: VersionChange, end: TransactionEnd) -> None:
        """Take in one change that was committed at `end`."""
        ended = self._ended(change.ended) if change.ended else None
        if ended is not None:
            ended.died, ended.until, ended.is_moved = end, end.lsn, change.is_move
            del self.living[ended.place]
        if change.added is not None:
            added = self._version(change.added, end.end)
            added.born, added.previous, added.keeps_key = end, ended, change.keeps_key
            if ended is not None:
                ended.next = added

    def _ended(self, place: TupleId) -> RowVersion:
        return self.living.get(place) or self._version(place, 0)

    def _version(self, place: TupleId, since: int) -> RowVersion:
        # A file that a rewrite made has rows that no record of their own added.
        made, dropped = self.spans.get(place.file, (0, self.asked.end.value))
        version = RowVersion(place, max(since, made, self.asked.floor.value), dropped)
        self.living[place] = version
        self.found.append(version)
        return version


def committed_ends(
    index: WalIndex, timeline: int, begin: Lsn, end: Lsn
) -> dict[int, TransactionEnd]:
    """Return the commits of a stretch by every xid that they committed.

    Not for stretches in which numbers come round again (2^31 transactions).
    """
    found = {}
    for part in index.parts(timeline, begin.value, end.value):
        for one in ends_of(index, part):
            if one.is_commit:
                found.update(dict.fromkeys((one.xid, *one.subxids), one))
    return found


def row_versions(
    index: WalIndex,
    read_record: ReadRecord,
    ends: Mapping[int, TransactionEnd],
    asked: VersionWish,
) -> list[RowVersion]:
    """Return the versions that committed transactions added or ended, in the order of the WAL.

    Versions that nobody outside their transaction ever saw, and those that ended before `floor`,
    are left out. Raises ArchiveGap, CorruptObject, CorruptWal.
    """
    files = _narrowed(index, ends, asked, asked.narrowing) if asked.narrowing else asked.files
    lives = _Lives(asked, file_spans(index, ends, asked))
    for lsn, length, xid in sorted(set(_records(index, ends, asked, files))):
        for change in version_changes(read_record(lsn, length)):
            lives.apply(change, ends[xid])
    return [one for one in lives.found if one.was_seen and one.until >= asked.floor.value]


def _narrowed(
    index: WalIndex,
    ends: Mapping[int, TransactionEnd],
    asked: VersionWish,
    narrowing: Callable[[int, int], bool],
) -> WantedFiles:
    """Return the blocks of the files that committed records of a kind touch."""
    blocks: dict[RelationFile, set[int]] = {}
    for file, row in _heap_rows(index, asked, asked.files):
        _, _, _, rmgr, info, xid, _, block = row
        if narrowing(rmgr, info) and xid in ends:
            blocks.setdefault(file, set()).add(block)
    return {file: _ranges(found) for file, found in blocks.items()}


def _ranges(blocks: set[int]) -> list[tuple[int, int]]:
    """Return blocks as half-open ranges."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and found[-1][1] == block:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found


def _records(
    index: WalIndex,
    ends: Mapping[int, TransactionEnd],
    asked: VersionWish,
    files: WantedFiles,
) -> Iterator[tuple[int, int, int]]:
    """Yield (LSN, length, xid) of the committed records that add or end versions."""
    wanted = {
        file: None if ranges is None else {b for low, high in ranges for b in range(low, high)}
        for file, ranges in files.items()
    }
    for file, (lsn, length, _, rmgr, info, xid, _, block) in _heap_rows(index, asked, files):
        blocks = wanted[file]
        if xid in ends and is_version_change(rmgr, info) and (blocks is None or block in blocks):
            yield lsn, length, xid


def _heap_rows(
    index: WalIndex, asked: VersionWish, files: WantedFiles
) -> Iterator[tuple[RelationFile, tuple[int, ...]]]:
    for rows in index.relation_rows(asked.timeline, asked.begin, asked.end, files, _NAMES):
        file = file_of(rows)
        for row in rows.select(*_NAMES):
            if row[2] == RowKind.BLOCK and row[6] == Fork.MAIN:
                yield file, row


def file_spans(
    index: WalIndex, ends: Mapping[int, TransactionEnd], asked: VersionWish
) -> dict[RelationFile, tuple[int, int]]:
    """Return from which position to which each file was a table's, of those that came or went."""
    begins: dict[RelationFile, int] = {}
    limits: dict[RelationFile, int] = {}
    for part in index.parts(asked.timeline, asked.begin.value, asked.end.value):
        for event in index.file_events_of(part):
            if event.file in asked.files and event.is_drop:
                limits[event.file] = event.lsn
            elif event.file in asked.files and event.xid in ends:
                begins[event.file] = ends[event.xid].end
    return {
        file: (begins.get(file, 0), limits.get(file, asked.end.value))
        for file in begins.keys() | limits.keys()
    }
