"""Collect what each transaction of a stretch did to relation files, newest first.

The records of a transaction lie before its end, perhaps long before. So parts of the WAL are read
from the newest to the oldest, and a transaction is complete when the parts read reach back to a
checkpoint that did not know its number yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pitr.postgres.index.ends import Checkpoint, TransactionEnd, checkpoints_in, ends_in, is_older
from pitr.postgres.index.file import FileSet, WantedFiles, file_of
from pitr.postgres.index.rows import RowKind, Rows
from pitr.postgres.index.wal_index import Part, WalIndex
from pitr.postgres.wal.record import Fork, RelationFile
from pitr.postgres.wal.scan import RowChange

_SYSTEM = ("lsn", "kind", "rmgr", "info", "xid", "distance", "related_xid", "time")
_RELATION = ("lsn", "kind", "xid", "change", "rows", "fork", "block")


@dataclass(slots=True)
class FileChanges:
    """What one transaction did to one relation file.

    `inserts` and `moves` (out, by an update to another partition) are (LSN, rows); `created`,
    `dropped` and `truncated` the LSNs of the records that did it, 0 for none.
    """

    inserts: list[tuple[int, int]] = field(default_factory=list)
    updated: int = 0
    deleted: int = 0
    moved: int = 0
    created: int = 0
    dropped: int = 0
    truncated: int = 0
    changes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_change(self) -> bool:
        """Return whether there is anything that a log shows."""
        counts = self.updated or self.deleted or self.moved or self.inserts
        return bool(counts or self.created or self.dropped)


@dataclass(slots=True)
class Collected:
    """One transaction and what it did to the files that were asked for."""

    end: TransactionEnd
    files: dict[RelationFile, FileChanges] = field(default_factory=dict)

    def of(self, file: RelationFile) -> FileChanges:
        """Return the changes of a file, new ones when there were none."""
        return self.files.setdefault(file, FileChanges())


class Collector:
    """Reads a stretch from its end and yields transactions as soon as they are complete."""

    def __init__(
        self,
        index: WalIndex,
        files: WantedFiles | None,
        traced: frozenset[RelationFile],
        *,
        with_aborted: bool,
    ) -> None:
        """`files` None: of all files. Of those `traced` each change is kept with its LSN."""
        self._index = index
        self._files = None if files is None else FileSet(files)
        self._traced = traced
        self._with_aborted = with_aborted
        self._open: dict[int, Collected] = {}  # by every xid of an incomplete transaction
        self._order: deque[Collected] = deque()  # incomplete, newest first
        self._checkpoints: list[Checkpoint] = []

    def collect(self, timeline: int, first: int, begin: int, end: int) -> Iterator[Collected]:
        """Yield the transactions that end in (begin, end], newest first.

        `first` is where the archived WAL begins that leads to `begin` without a gap: what a
        transaction did before it is not known and not counted.
        """
        for part in reversed(list(self._index.parts(timeline, begin, end))):
            self._read(part, is_asked=True)
            yield from self._complete(part.begin)
        if self._order:
            for part in reversed(list(self._index.parts(timeline, first, begin))):
                self._read(part, is_asked=False)
                yield from self._complete(part.begin)
                if not self._order:
                    return
        yield from self._order

    def _read(self, part: Part, *, is_asked: bool) -> None:
        system = self._index.system_rows_of(part, _SYSTEM)
        self._checkpoints += checkpoints_in(system)
        if is_asked:
            for end in reversed(list(ends_in(system))):
                self._add(end)
        if self._open:
            for rows in self._index.relation_rows_of(part, self._files, _RELATION):
                self._count(file_of(rows), rows)

    def _add(self, end: TransactionEnd) -> None:
        if not end.is_commit and not self._with_aborted:
            return
        collected = Collected(end)
        self._order.append(collected)
        for xid in (end.xid, *end.subxids):
            # The newest transaction of a number is in the way of an older one until it is complete.
            self._open.setdefault(xid, collected)

    def _count(self, file: RelationFile, rows: Rows) -> None:
        is_traced = file in self._traced
        for lsn, kind, xid, change, count, fork, block in rows.select(*_RELATION):
            if kind == RowKind.BLOCK and not change:
                continue
            collected = self._open.get(xid)
            if collected is None or (kind != RowKind.BLOCK and fork != Fork.MAIN):
                continue
            found = collected.of(file)
            if kind == RowKind.BLOCK:
                _count_rows(found, lsn, change, count)
                if is_traced:
                    found.changes.append((lsn, change))
            elif kind == RowKind.CREATED:
                found.created = lsn
            elif kind == RowKind.DROPPED:
                found.dropped = lsn
            elif kind == RowKind.TRUNCATED and block == 0:
                found.truncated = lsn

    def _complete(self, position: int) -> Iterator[Collected]:
        """Yield the transactions all of whose records begin after a position."""
        reached = [item.next_xid for item in self._checkpoints if item.redo >= position]
        if not reached:
            return
        self._checkpoints = [item for item in self._checkpoints if item.redo < position]
        bound = reached[0]
        for xid in reached:
            bound = xid if is_older(xid, bound) else bound
        # In order: one that is not complete holds back older ones.
        while self._order and not any(is_older(xid, bound) for xid in _xids(self._order[0])):
            collected = self._order.popleft()
            for xid in _xids(collected):
                if self._open.get(xid) is collected:
                    del self._open[xid]
            yield collected


def _xids(collected: Collected) -> tuple[int, ...]:
    return (collected.end.xid, *collected.end.subxids)


def _count_rows(found: FileChanges, lsn: int, change: int, count: int) -> None:
    if change == RowChange.INSERT:
        found.inserts.append((lsn, count))
    elif change == RowChange.UPDATE:
        found.updated += count
    elif change == RowChange.DELETE:
        found.deleted += count
    elif change == RowChange.MOVE:
        found.moved += count
