"""Ask a live database where it is, without connecting to it and without taking a lock.

The wal-index header says which frame was committed last. Reading it by plain file reads is safe
in a process that has no SQLite connection to that database, and only there: closing a
descriptor drops the POSIX locks that the process holds on the file.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from pathlib import Path

from pitr.errors import SourceUnusable
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.sqlite.wal.index import INDEX_BYTES, WalIndex, decode_index

_ATTEMPTS = 20
_CHANGE_COUNTER = slice(24, 28)
_WRITE_VERSION = 18
# The clock of file systems goes in steps of up to 10 ms.
_CLOCK_US = 20_000


class Standing(enum.Enum):
    """How a live database stands to the newest archived commit."""

    CURRENT = enum.auto()  # nothing was committed since
    AHEAD = enum.auto()  # something was
    UNKNOWN = enum.auto()  # its WAL is empty, and its files have changed since


def is_current(path: Path, record: CommitRecord, *, proven_us: int = 0) -> bool:
    """Return whether nothing was committed since the archived commit `record`.

    True is proof; False only says that there is none. See `standing`.
    """
    return standing(path, record, proven_us=proven_us) is Standing.CURRENT


def standing(path: Path, record: CommitRecord, *, proven_us: int) -> Standing:
    """Return how the database stands to the newest archived commit.

    The archive is proven to hold everything up to `proven_us`. An empty WAL does not tell what was
    committed last, but a commit that is no longer in the WAL has changed the database file. Raises
    SourceUnusable when the files cannot be read.
    """
    found = _standing_by_content(path, record)
    proven_us = max(proven_us, record.time_end_us)
    if found is Standing.UNKNOWN and last_changed_us(path) < proven_us - _CLOCK_US:
        return Standing.CURRENT
    return found


def _standing_by_content(path: Path, record: CommitRecord) -> Standing:
    header = _read(path, 100)
    if len(header) < 100:
        return Standing.UNKNOWN
    if header[_WRITE_VERSION] == 1:
        counter = int.from_bytes(header[_CHANGE_COUNTER], "big")
        same = record.wal is None and counter == record.change_counter
        return Standing.CURRENT if same else Standing.AHEAD
    index = wal_position(path)
    if index is None or index.max_frame == 0:
        return Standing.UNKNOWN
    mark = record.wal
    if mark is None:
        return Standing.AHEAD
    same = (index.salt1, index.salt2, index.max_frame) == (mark.salt1, mark.salt2, mark.frame)
    same = same and (index.checksum1, index.checksum2) == (mark.checksum1, mark.checksum2)
    return Standing.CURRENT if same else Standing.AHEAD


def last_changed_us(path: Path) -> int:
    """Return when the database or its WAL was changed last, by the clock of the file system.

    Of the file's times the one that nobody can set. Raises SourceUnusable.
    """
    try:
        times_ns = [path.stat().st_ctime_ns]
        with suppress(FileNotFoundError):
            # An empty one was made by whoever connected last, and says nothing.
            status = path.with_name(f"{path.name}-wal").stat()
            times_ns += [status.st_ctime_ns] if status.st_size else []
    except OSError as error:
        raise _unreadable(path, error) from None
    return max(times_ns) // 1000


def wal_position(path: Path) -> WalIndex | None:
    """Return the wal-index header of a WAL database, None when there is none to be read."""
    for _ in range(_ATTEMPTS):
        try:
            index = decode_index(_read(Path(f"{path}-shm"), INDEX_BYTES))
        except SourceUnusable:
            return None
        if index is not None:
            return index
    return None


def _read(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> SourceUnusable:
    return SourceUnusable(
        f"cannot read {path}",
        detail=f"{error.strerror}.",
        hint="Run 'pitr check' as the user that owns the database.",
    )
