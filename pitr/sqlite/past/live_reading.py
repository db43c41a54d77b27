"""Read a live database without leaving a trace in it and without getting in its way.

| the file                          | opened as   | why                                            |
| --------------------------------- | ----------- | ---------------------------------------------- |
| WAL, `-wal` and `-shm` are there  | read-only   | a reader never blocks a writer                 |
| WAL, nothing in `-wal`            | immutable   | read-only would create both files, and leave   |
|                                   |             | them; the file is looked at again afterwards   |
| WAL, rows in `-wal`, no `-shm`    | not at all  | read-only would create `-shm`, and leave it    |
| rollback journal                  | read-only   | a reader blocks commits: only for a moment     |

Not for the process that captures: opening and closing the file drops its locks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import apsw

from pitr.sqlite.file.file_header import FILE_HEADER_BYTES, decode_file_header
from pitr.sqlite.past.replay import attach, connect
from pitr.sqlite.statement.faults import sqlite_says

LOCK_SECONDS_MAX = 0.05
_BUSY_MS = 500
_STEPS_BETWEEN_LOOKS = 1000  # of SQLite's virtual machine; well under a millisecond
_ATTEMPTS = 3

T = TypeVar("T")


class LiveUnreadable(Exception):
    """Say why the live database was not read, as a full sentence."""


@dataclass(frozen=True, slots=True)
class LiveAccess:
    """How to open a live database: parameters of its URI, and what to heed."""

    parameters: str
    is_bounded: bool = False
    unchanged: object = None  # what the files must still look like when reading is done

    def is_valid(self, path: Path) -> bool:
        """Return whether what was read is one state: to be asked when reading is done."""
        return self.unchanged is None or self.unchanged == _files(path)


def ask_live(path: Path, attached: Path, ask: Callable[[apsw.Connection], T]) -> T:
    """Return what `ask` finds out, in one read transaction, with another file attached as `past`.

    The database itself is `main`. Both are read-only. Raises LiveUnreadable, and what `ask` raises
    that is no error of SQLite's.
    """
    for _ in range(_ATTEMPTS):
        access = live_access(path)
        try:
            answer = _ask(path, attached, access, ask)
        except apsw.Error as error:
            if access.is_valid(path):
                raise LiveUnreadable(_reason(access, error)) from error
            continue
        if access.is_valid(path):
            return answer
    raise LiveUnreadable("It kept changing while it was read.")


def live_access(path: Path) -> LiveAccess:
    """Return how to open a live database. Raises LiveUnreadable."""
    try:
        with path.open("rb") as file:
            header = decode_file_header(file.read(FILE_HEADER_BYTES))
    except OSError as error:
        raise LiveUnreadable(f"It cannot be opened: {error.strerror}.") from None
    if header is None:
        raise LiveUnreadable("It is no SQLite database, or it is encrypted.")
    if not header.is_wal:
        return LiveAccess("mode=ro", is_bounded=True)
    wal_bytes = _size(path, "-wal")
    if wal_bytes is not None and _size(path, "-shm") is not None:
        return LiveAccess("mode=ro")
    if wal_bytes:
        raise LiveUnreadable(
            "Its -wal file holds rows and there is no -shm file: a process died, or one holds the"
            " database for itself. Open it once with the application."
        )
    return LiveAccess("mode=ro&immutable=1", unchanged=_files(path))


def _files(path: Path) -> tuple[int | None, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, _size(path, "-wal") or 0


def _size(path: Path, suffix: str) -> int | None:
    try:
        return path.with_name(path.name + suffix).stat().st_size
    except OSError:
        return None


def _ask(path: Path, attached: Path, access: LiveAccess, ask: Callable[[apsw.Connection], T]) -> T:
    connection = connect(f"{path.absolute().as_uri()}?{access.parameters}", writable_others=False)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        attach(connection, attached, "past", writable=False)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM main.sqlite_schema").fetchall()
        if access.is_bounded:
            deadline = time.monotonic() + LOCK_SECONDS_MAX
            connection.set_progress_handler(
                lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS
            )
        return ask(connection)
    finally:
        connection.close(True)


def _reason(access: LiveAccess, error: apsw.Error) -> str:
    if access.is_bounded and isinstance(error, apsw.InterruptError):
        return (
            "It is in rollback-journal mode, where reading holds up writers, and "
            f"{LOCK_SECONDS_MAX * 1000:.0f} ms were not enough; compare with the archive instead."
        )
    return sqlite_says(error)
