"""Ask a live database where it is, without connecting to it and without taking a lock.

The wal-index header says which frame was committed last. Reading it by plain file reads is safe
in a process that has no SQLite connection to that database, and only there: closing a
descriptor drops the POSIX locks that the process holds on the file.
"""

from __future__ import annotations

from pathlib import Path

from pitr.errors import SourceUnusable
from pitr.sqlite.segment import CommitRecord
from pitr.sqlite.wal.index import INDEX_BYTES, WalIndex, decode_index

_ATTEMPTS = 20
_CHANGE_COUNTER = slice(24, 28)
_WRITE_VERSION = 18


def is_current(path: Path, record: CommitRecord) -> bool:
    """Return whether nothing was committed since the archived commit `record`.

    True is proof; False only says that there is none. Raises SourceUnusable when the files
    cannot be read.
    """
    header = _read(path, 100)
    if len(header) < 100:
        return False
    if header[_WRITE_VERSION] == 1:
        counter = int.from_bytes(header[_CHANGE_COUNTER], "big")
        return record.wal is None and counter == record.change_counter
    index = wal_position(path)
    mark = record.wal
    if index is None or mark is None:
        return False
    same = (index.salt1, index.salt2, index.max_frame) == (mark.salt1, mark.salt2, mark.frame)
    return same and (index.checksum1, index.checksum2) == (mark.checksum1, mark.checksum2)


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
        raise SourceUnusable(
            f"cannot read {path}",
            detail=f"{error.strerror}.",
            hint="Run 'pitr check' as the user that owns the database.",
        ) from None
