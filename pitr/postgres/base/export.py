"""Write a base backup, and WAL, back in PostgreSQL's own layout: a folder that a server starts on.

The result is what `pg_basebackup` would have written: `pg_verifybackup` accepts it. pg_control is
written last, so that no server starts on half of it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pitr import durable
from pitr.errors import PreconditionFailed
from pitr.postgres.base.contents import Base, BaseFile, Span
from pitr.postgres.wal.history import HistoryEntry, format_history
from pitr.postgres.wal.segment_name import SegmentName, history_name
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import Lsn

CONTROL_PATH = "global/pg_control"
_TABLESPACES = "pg_tblspc"
_WAL = "pg_wal"
_SETTINGS = "postgresql.auto.conf"
_SIGNAL = "recovery.signal"
_OPEN_FILES_MAX = 64
_PROGRESS_BYTES = 16 << 20


class Wal(Protocol):
    """What of the WAL archive an export needs."""

    @property
    def segment_bytes(self) -> int:
        """Return the size of a segment."""

    def history(self, timeline: int) -> tuple[HistoryEntry, ...]:
        """Return the ancestors of a timeline, oldest first."""

    def read(self, timeline: int, begin: Lsn, end: Lsn) -> bytes:
        """Return the bytes of a stretch."""


def export_base(base: Base, folder: Path, tablespaces: Path, on_event: OnEvent) -> int:
    """Write the files of a base into `folder`, returning their bytes.

    Tablespaces go to `tablespaces`/<oid>, with links to them in pg_tblspc; those that were inside
    the data directory stay there. Both folders must be absent or empty. Not durable: a power loss
    soon after may take some of it. Raises PreconditionFailed, CorruptObject, ObjectMissing,
    StoreUnusable, OSError.
    """
    links = [item.oid for item in base.info.tablespaces if Path(item.location).is_absolute()]
    _make_empty(folder)
    (folder / _TABLESPACES).mkdir(mode=0o700)
    if links:
        _make_empty(tablespaces)
    for oid in links:
        target = tablespaces.absolute() / str(oid)
        target.mkdir(mode=0o700)
        (folder / _TABLESPACES / str(oid)).symlink_to(target)
    files = base.files().values()
    for item in files:
        if item.is_folder:
            path = folder / item.path
            path.mkdir(mode=item.mode or 0o700, parents=True, exist_ok=True)
    contents = [item for item in files if not item.is_folder and item.path != CONTROL_PATH]
    _write(base, folder, contents, on_event)
    _write(base, folder, [item for item in files if item.path == CONTROL_PATH], on_event)
    return sum(item.size for item in files)


def export_wal(
    wal: Wal, folder: Path, timeline: int, begin: Lsn, end: Lsn, *, base_timeline: int | None = None
) -> int:
    """Write the WAL segments of [begin, end) into the data directory `folder`; return how many.

    A segment that is archived whole is written whole, byte for byte; of the last one of a timeline
    the rest is zeros, where recovery finds its end. When the base is of an ancestor of `timeline`,
    `base_timeline`, the segments of all timelines from that one on are written under their own
    names, with the `.history` files, and the server is told to recover to `timeline`. Raises
    ArchiveGap, CorruptObject, ObjectMissing, StoreUnusable, OSError.
    """
    ways = _ways(wal, base_timeline or timeline, timeline, begin, end)
    count = sum(_export_way(wal, folder, timeline, way) for way in ways)
    if base_timeline not in (None, timeline):
        _follow(wal, folder, timeline)
    return count


def _ways(wal: Wal, first: int, last: int, begin: Lsn, end: Lsn) -> list[tuple[int, Lsn, Lsn]]:
    """Return each timeline from `first` to `last` with the stretch of WAL that is its own."""
    ways = []
    for entry in wal.history(last):
        if entry.timeline >= first and begin < end:
            ways.append((entry.timeline, begin, min(entry.switch, end)))
            begin = entry.switch
    return [*ways, (last, begin, end)] if begin < end or not ways else ways


def _export_way(wal: Wal, folder: Path, timeline: int, way: tuple[int, Lsn, Lsn]) -> int:
    """Write the segments of one stretch. A timeline begins with a copy of what it goes on from."""
    named, begin, end = way
    size = wal.segment_bytes
    segment = SegmentName.at(named, begin.value, size)
    count = 0
    while segment.begin < end.value:
        data = wal.read(timeline, Lsn(segment.begin), Lsn(min(segment.end, end.value)))
        durable.write_new(folder / _WAL / str(segment), data + bytes(size - len(data)))
        segment = segment.next
        count += 1
    return count


def _follow(wal: Wal, folder: Path, timeline: int) -> None:
    """Have the server recover to a timeline that is not the base's.

    That takes archive recovery, which asks for a restore_command although all WAL is in pg_wal.
    pg_verifybackup passes over both files.
    """
    for known in (*(entry.timeline for entry in wal.history(timeline)), timeline):
        if wal.history(known):
            text = format_history(wal.history(known))
            durable.write_new(folder / _WAL / history_name(known), text)
    with (folder / _SETTINGS).open("a") as settings:
        settings.write(f"restore_command = 'false'\nrecovery_target_timeline = '{timeline}'\n")
    (folder / _SIGNAL).touch(mode=0o600)


def _make_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PreconditionFailed(
            f"{folder} is not an empty folder",
            hint="Name a folder that does not exist yet: nothing is ever overwritten.",
        )
    durable.make_folder(folder)


def _write(base: Base, folder: Path, files: Iterable[BaseFile], on_event: OnEvent) -> None:
    """Write whole files, the parts that were never written as holes."""
    wanted = list(files)
    total = sum(file.size for file in wanted)
    done = told = 0
    with _Descriptors(folder) as descriptors:
        for file in wanted:
            descriptors.create(file)
        for path, offset, data in base.read_pieces(_spans(wanted)):
            if data.count(0) != len(data):
                os.pwrite(descriptors.get(path), data, offset)
            done += len(data)
            if done - told >= _PROGRESS_BYTES:
                told = done
                on_event(Event(Level.PROGRESS, "export", done=done, total=total, unit="bytes"))


def _spans(files: Iterable[BaseFile]) -> Iterator[Span]:
    return (Span(file.path, 0, file.size) for file in files)


class _Descriptors:
    """Open files of one folder, the least used ones closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close()

    def create(self, file: BaseFile) -> None:
        """Make a file of its full size, all holes."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._folder / file.path, flags, file.mode & 0o777 or 0o600)
        self._add(file.path, descriptor)
        os.ftruncate(descriptor, file.size)

    def get(self, path: str) -> int:
        """Return a descriptor for writing."""
        found = self._open.get(path)
        if found is None:
            found = os.open(self._folder / path, os.O_RDWR | os.O_CLOEXEC)
            self._add(path, found)
        self._open.move_to_end(path)
        return found

    def _add(self, path: str, descriptor: int) -> None:
        self._open[path] = descriptor
        if len(self._open) > _OPEN_FILES_MAX:
            self._close()

    def _close(self) -> None:
        _, descriptor = self._open.popitem(last=False)
        os.close(descriptor)
