"""Can this file be captured? Each point with what was found and the line that mends it.

Only looks: nothing is written, no journal is rolled back, and no file is created. Not for a
process that captures the same file: opening and closing it here would drop its locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import apsw

from pitr.sqlite.file.file_header import FILE_HEADER_BYTES, FileHeader, decode_file_header
from pitr.vocabulary.finding import Finding, Level

# https://sqlite.org/wal.html, "The WAL-reset bug".
RESET_BUG_FIRST, RESET_BUG_LAST = 3_007_000, 3_051_002

_MOUNTS = Path("/proc/self/mounts")
_QUOTED = re.compile(rb"\\([0-7]{3})")
# Where locks or shared memory do not work, or not between machines.
_REMOTE_FILE_SYSTEMS = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs",
}  # fmt: skip
_BUSY_MILLISECONDS = 500
# The bytes of the file on which SQLite's SHARED and EXCLUSIVE locks lie: src/os.h.
_SHARED_FIRST = 0x40000002
_SHARED_BYTES = 510
_FLOCK = struct.Struct("hhqqi")  # struct flock on 64-bit Linux


def check_source(path: Path) -> list[Finding]:
    """Return what stands in the way of capturing a file, and what to expect of it.

    Stops at the first failure that makes the rest meaningless.
    """
    path = Path(os.path.realpath(path))
    found = _check_file(path)
    if found is not None:
        return [found]
    with path.open("rb") as file:
        data = file.read(FILE_HEADER_BYTES)
    header = decode_file_header(data)
    findings = [*_check_file_system(path)]
    if header is None:
        return [*findings, _no_header(path, data)]
    findings += [_file_ok(path, header), *_check_mode(path, header)]
    findings += _check_permissions(path, header)
    if not any(finding.level is Level.FAIL for finding in findings):
        findings.append(_check_reading(path, header))
    return [*findings, *_check_library(header)]


def version_text(number: int) -> str:
    """Return a SQLite version number as people write it: 3051002 is 3.51.2."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def has_reset_bug(header: FileHeader) -> bool:
    """Return whether the library that wrote last can corrupt a WAL database by the reset bug."""
    return header.is_wal and RESET_BUG_FIRST <= header.library_version <= RESET_BUG_LAST


def _check_file(path: Path) -> Finding | None:
    if not path.exists():
        return Finding(
            Level.FAIL,
            "file",
            f"There is no file {path}.",
            "Name the database file that the application uses, with its full path.",
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        return Finding(Level.FAIL, "file", f"{path} is {kind}.", "Name the database file itself.")
    if not os.access(path, os.R_OK):
        return Finding(
            Level.FAIL,
            "permission",
            f"{path} cannot be read by user {os.geteuid()}.",
            "Run pitr as the user that owns the database.",
        )
    return None


def _no_header(path: Path, data: bytes) -> Finding:
    if not data:
        return Finding(
            Level.WARNING,
            "file",
            f"{path} is empty: there is nothing to capture yet.",
            "Capture begins by itself when the application creates its first table.",
        )
    if _looks_encrypted(data):
        return Finding(
            Level.FAIL,
            "file",
            f"{path} is no plain SQLite database; its first bytes are random, as when encrypted.",
            "Encrypted databases (SQLCipher, SEE) cannot be captured; name an unencrypted one.",
        )
    return Finding(
        Level.FAIL,
        "file",
        f"{path} is not a SQLite database: it begins with {data[:16]!r}.",
        "Name the database file that the application uses.",
    )


def _looks_encrypted(data: bytes) -> bool:
    """Return whether 100 bytes are as different from each other as chance makes them."""
    # Of 100 random bytes about 83 are distinct; text and other formats stay far below 60.
    return len(data) == FILE_HEADER_BYTES and len(set(data)) > 70


def _file_ok(path: Path, header: FileHeader) -> Finding:
    vacuum = ", auto_vacuum" if header.auto_vacuum else ""
    return Finding(
        Level.OK,
        "file",
        f"{path}: {path.stat().st_size} bytes in pages of {header.page_size}{vacuum}.",
    )


def _check_mode(path: Path, header: FileHeader) -> Iterator[Finding]:
    if header.is_wal:
        yield Finding(
            Level.OK,
            "journal mode",
            "WAL: every commit is captured by itself. While capture runs, the application cannot "
            "leave WAL mode; its writers need a busy timeout (PRAGMA busy_timeout), since capture "
            "takes the write lock for milliseconds when the WAL is long.",
        )
        return
    yield Finding(
        Level.WARNING,
        "journal mode",
        "Rollback journal: commits that fall between two polls are captured as one, and each "
        "time the whole file is read under a SHARED lock.",
        "For single commits: PRAGMA journal_mode=WAL, once, in the application's database.",
    )
    journal = path.with_name(path.name + "-journal")
    with contextlib.suppress(OSError):
        if journal.stat().st_size:
            yield Finding(
                Level.OK, "journal", f"{journal.name} is there: a transaction, or its remains."
            )


def _check_permissions(path: Path, header: FileHeader) -> Iterator[Finding]:
    if not header.is_wal:
        return
    # Even to read a WAL database its shared memory has to be written, and perhaps to be created.
    for needed in (path, path.with_name(path.name + "-shm"), path.with_name(path.name + "-wal")):
        if needed.exists() and not os.access(needed, os.W_OK):
            yield _not_writable(needed)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        yield _not_writable(path.parent)


def _not_writable(path: Path) -> Finding:
    return Finding(
        Level.FAIL,
        "permission",
        f"{path} cannot be written by user {os.geteuid()}. To read a database in WAL mode SQLite "
        f"writes its read marks into the -shm file.",
        "Run pitr as the user that owns the database. It writes nothing into your tables.",
    )


def _check_file_system(path: Path) -> Iterator[Finding]:
    kind = _file_system(path)
    if kind in _REMOTE_FILE_SYSTEMS or kind.startswith("fuse"):
        yield Finding(
            Level.FAIL,
            "file system",
            f"{path} lies on {kind}: its locks and its shared memory cannot be relied on.",
            "Run pitr on the machine that has the disk, beside the application.",
        )


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds a path; empty when it cannot be told."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_bytes().splitlines():
            _device, quoted, found, *_ = line.split(b" ")
            point = os.fsdecode(_QUOTED.sub(lambda match: bytes([int(match[1], 8)]), quoted))
            inside = path == Path(point) or Path(point) in path.parents
            # Of two mounts at one point the later one covers the earlier.
            if inside and len(point) >= len(best):
                best, kind = point, os.fsdecode(found)
    return kind


def _check_reading(path: Path, header: FileHeader) -> Finding:
    """Begin one read transaction as capture would, if that leaves no file behind."""
    if header.is_wal and not path.with_name(path.name + "-shm").exists():
        if (holder := _exclusive_holder(path)) is not None:
            return _locked(f"Process {holder} holds the database in locking_mode=EXCLUSIVE.")
        return Finding(Level.OK, "lock", "No process has the database open at the moment.")
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.set_busy_timeout(_BUSY_MILLISECONDS)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        finally:
            connection.close()
    except (apsw.BusyError, apsw.LockedError):
        return _locked(
            "Another process holds the database in locking_mode=EXCLUSIVE, or writes to it in one "
            "long transaction."
        )
    except (apsw.NotADBError, apsw.CorruptError):
        return Finding(
            Level.FAIL,
            "file",
            "SQLite does not recognise what follows the header: the file is encrypted or damaged.",
            "Name an unencrypted database; a damaged one is for 'sqlite3 FILE .recover'.",
        )
    except apsw.Error as error:
        return Finding(
            Level.FAIL,
            "reading",
            f"SQLite says: {error}.",
            "Open the database once with the application or with sqlite3, which also rolls back "
            "what a crash left; then run 'pitr check' again.",
        )
    return Finding(Level.OK, "lock", "The database can be read beside the application.")


def _locked(detail: str) -> Finding:
    return Finding(
        Level.FAIL,
        "lock",
        detail,
        "Set PRAGMA locking_mode=NORMAL in the application and let it open the file again.",
    )


def _exclusive_holder(path: Path) -> int | None:
    """Return the process that holds SQLite's EXCLUSIVE lock on the file, without asking for one.

    In WAL mode with locking_mode=EXCLUSIVE there is no -shm file, as when nobody is connected.
    """
    asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_BYTES, 0)
    with path.open("rb") as file:
        answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
    kind, _whence, _begin, _length, process = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else process


def _check_library(header: FileHeader) -> Iterator[Finding]:
    if has_reset_bug(header):
        yield Finding(
            Level.WARNING,
            "SQLite library",
            f"The database was last written by SQLite {version_text(header.library_version)}. "
            f"Versions 3.7.0 to 3.51.2 have the WAL-reset bug: a checkpoint in one process while "
            f"another one writes can, very rarely, corrupt the database. Capture checkpoints too.",
            "Update the application's SQLite to 3.51.3 or later.",
        )
