"""One live database file: its raw descriptors and its SQLite connections.

SQLite's locks are POSIX locks of the process, and `close()` of any descriptor of the database or
of its `-shm` file drops them all. So each of the two is opened here once, by the one class that
also opens the connections, and closed after the last of them. Nobody else in a capturing process
may open them by name. `os.stat` is harmless, and so is the WAL, which carries no locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from pitr.errors import CorruptDatabase, SourceUnusable
from pitr.sqlite.file.file_header import FILE_HEADER_BYTES, FileHeader, decode_file_header
from pitr.sqlite.wal.header import WAL_HEADER_BYTES, WalHeader, decode_wal_header
from pitr.sqlite.wal.index import HEADER_COPY_BYTES, INDEX_BYTES, WalIndex, decode_index

T = TypeVar("T")

_FLOCK = struct.Struct("hhqqi")  # struct flock on 64-bit Linux
# Bytes of -shm on which SQLite's locks lie: docs/formats/sqlite-wal.md.
_WRITE_BYTE, _CHECKPOINT_BYTE, _CONNECTED_BYTE = 120, 121, 128

# How long a statement of ours waits for a lock. Long enough for a commit in progress, short
# enough that the next reading is not late.
BUSY_TIMEOUT_MILLISECONDS = 100
# How often that wait is repeated before a source counts as locked for good.
BUSY_ATTEMPTS = 100
# Inside BEGIN this starts the read transaction. Unlike a SELECT it does not parse the schema, so
# it works on schemas that this library does not understand.
_READ = "PRAGMA schema_version"


class Source:
    """The open files of one database. Use from one thread."""

    def __init__(self, path: Path) -> None:
        """Open the database file for reading, no connection yet. Raises SourceUnusable."""
        # SQLite follows symbolic links and names its other files after the real one.
        self.path = Path(os.path.realpath(path))
        self._database: int | None = _open(self.path)
        self._shared_memory: int | None = None
        self._wal: int | None = None
        self._connections: list[apsw.Connection] = []

    def close(self) -> None:
        """Close the connections, and only then the descriptors. Closing twice is no error."""
        while self._connections:
            self._connections.pop().close()
        for descriptor in (self._database, self._shared_memory, self._wal):
            if descriptor is not None:
                os.close(descriptor)
        self._database = self._shared_memory = self._wal = None

    # --- connections -------------------------------------------------------------------------

    def connect(self, *, writable: bool) -> apsw.Connection:
        """Open one more connection, which checkpoints neither by itself nor when it is closed.

        Raises SourceUnusable.
        """
        flags = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
        try:
            connection = apsw.Connection(str(self.path), flags=flags)
        except apsw.Error as error:
            raise unusable(self.path, error) from error
        self._connections.append(connection)
        # The last connection of a database checkpoints it and deletes the WAL. The WAL is where
        # capture goes on after a pause: ours must never be the one that removes it.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.wal_autocheckpoint(0)
        connection.set_busy_timeout(BUSY_TIMEOUT_MILLISECONDS)
        return connection

    def connect_to_wal(self) -> apsw.Connection:
        """Open a writable connection that has the WAL open already, and holds no transaction.

        Asked for a checkpoint before it has read anything, a connection does not know that the
        database is in WAL mode, and does nothing. Raises SourceUnusable.
        """
        connection = self.connect(writable=True)
        attempt(self.path, lambda: connection.execute(_READ).fetchall())
        return connection

    # --- raw readings ------------------------------------------------------------------------

    def is_replaced(self) -> bool:
        """Return whether another file (or none) lies under a name that was opened."""
        return not _is_same(self.path, self._database) or not _is_same(
            self._beside("-shm"), self._shared_memory
        )

    def has_others(self) -> bool:
        """Return whether another process has the database open in WAL mode.

        Every process holds a shared lock on one byte of the -shm file as long as it has it mapped.
        """
        return self._lock_holder(_CONNECTED_BYTE, fcntl.F_WRLCK) is not None

    def is_checkpointer_waiting(self) -> bool:
        """Return whether a checkpoint of another process may be waiting for a reader of ours.

        One that waits (FULL, RESTART, TRUNCATE) holds the write lock besides its own: nobody can
        write until it is through.
        """
        holder = self._lock_holder(_CHECKPOINT_BYTE, fcntl.F_RDLCK)
        return holder is not None and holder == self._lock_holder(_WRITE_BYTE, fcntl.F_RDLCK)

    def _lock_holder(self, byte: int, kind: int) -> int | None:
        """Return a process whose lock on a byte of -shm conflicts with one of `kind`. Takes none.

        Locks of this process do not count.
        """
        if self._shared_memory is None:
            return None
        asked = _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
        answer = fcntl.fcntl(self._shared_memory, fcntl.F_GETLK, asked)
        found, _whence, _begin, _length, process = _FLOCK.unpack(answer)
        return None if found == fcntl.F_UNLCK else process

    @property
    def size(self) -> int:
        """Return the size of the database file in bytes."""
        return os.fstat(self._open_database()).st_size

    def _open_database(self) -> int:
        assert self._database is not None, "the source was closed"
        return self._database

    def header(self) -> FileHeader | None:
        """Return the database header as it stands in the file; None while the file is empty.

        Raises SourceUnusable when it is no SQLite database.
        """
        data = os.pread(self._open_database(), FILE_HEADER_BYTES, 0)
        header = decode_file_header(data)
        if header is None and data:
            raise SourceUnusable(
                f"not a SQLite database: {self.path}",
                detail="The file does not begin with SQLite's header; it may be encrypted.",
                hint="Run 'pitr check' to see what can be done.",
            )
        return header

    def database_bytes(self, begin: int, length: int) -> bytes:
        """Return bytes of the database file; fewer at its end."""
        return os.pread(self._open_database(), length, begin)

    def index_bytes(self) -> bytes:
        """Return the head of the wal-index as it stands, perhaps in the middle of an update."""
        if self._shared_memory is None:
            self._shared_memory = self._open_beside("-shm")
            if self._shared_memory is None:
                return b""
        return os.pread(self._shared_memory, INDEX_BYTES, 0)

    def index(self) -> WalIndex | None:
        """Return a reading of the wal-index whose `backfilled` belongs to its header.

        None when there is no valid one: the database is not in WAL mode, or a writer died while
        it published and nobody has recovered the index since.
        """
        for _ in range(100):
            data, again = self.index_bytes(), self.index_bytes()
            # nBackfill was read between two equal readings of the header: no restart lies between.
            if data[:HEADER_COPY_BYTES] == again[:HEADER_COPY_BYTES]:
                index = decode_index(data)
                if index is not None:
                    return index
        return None

    def wal_header(self) -> WalHeader:
        """Return the header of the WAL file. Raises CorruptDatabase."""
        return decode_wal_header(self.wal_bytes(0, WAL_HEADER_BYTES))

    def wal_bytes(self, begin: int, length: int) -> bytes:
        """Return bytes of the WAL file. Raises CorruptDatabase when it is too short."""
        if self._wal is None:
            self._wal = self._open_beside("-wal")
        data = b"" if self._wal is None else os.pread(self._wal, length, begin)
        if len(data) < length:
            raise CorruptDatabase(
                "the WAL is shorter than its index says",
                detail=f"{self._beside('-wal')}: {begin + len(data)} of {begin + length} bytes.",
            )
        return data

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _open_beside(self, suffix: str) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return os.open(self._beside(suffix), os.O_RDONLY | os.O_CLOEXEC)
        return None


class ReadTransaction:
    """A read transaction that can be begun and ended again and again on one connection."""

    def __init__(self, source: Source) -> None:
        self._path = source.path
        self._connection = source.connect(writable=False)

    def begin(self) -> None:
        """Take a snapshot of the newest commit. Raises apsw.BusyError, SourceUnusable."""
        attempt(self._path, self._begin)

    def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN")
            self._connection.execute(_READ).fetchall()
        except apsw.Error:
            self.end()
            raise

    def end(self) -> None:
        """Let go of the snapshot; nothing when there is none."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def attempt(path: Path, action: Callable[[], T]) -> T:
    """Run an action of SQLite. Raises apsw.BusyError as it is, SourceUnusable for the rest."""
    try:
        return action()
    except (apsw.BusyError, apsw.LockedError):
        raise
    except apsw.Error as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: apsw.Error) -> SourceUnusable:
    """Return the error for what SQLite said when asked to open or read the source."""
    return SourceUnusable(
        f"cannot read the database: {path}",
        detail=f"SQLite says: {error}.",
        hint="Run 'pitr check' to see what has to be mended.",
    )


def locked(path: Path) -> SourceUnusable:
    """Return the error for a database that another process does not let go."""
    return SourceUnusable(
        f"the database is locked: {path}",
        detail="Another process holds it in locking_mode=EXCLUSIVE or in one long transaction.",
        hint="End that transaction, or set locking_mode=NORMAL in the application.",
    )


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceUnusable(
            f"cannot open the database: {path}",
            detail=f"{error.strerror}.",
            hint="Run 'pitr check' to see what has to be mended.",
        ) from None


def _is_same(path: Path, descriptor: int | None) -> bool:
    if descriptor is None:
        return True
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
