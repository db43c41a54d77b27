"""The one place where bytes become durable: every fsync, link and rename of the program.

A file written here appears under its name at once and whole, and what has returned survives a
power loss. The steps and what breaks if one of them moves:

    1  create a temporary file in the folder of its target, O_EXCL
       (in another folder it might lie on another file system, and step 4 would copy, not rename)
    2  write all bytes
    3  fsync the file
       (after step 4 a power loss may leave the name with an empty or half-written file)
    4  link it to its name (new) or rename it over its name (replace)
       (link refuses an existing name in one atomic step; "look, then rename" would let two
       writers both win)
    5  unlink the temporary name (new only)
    6  fsync the folder
       (without it a power loss may take the name back, although the caller was told it is there)

A kill between two steps leaves the target as before or as after, and at most a temporary file,
which `is_temporary` recognises and `sweep` removes once its writer is dead.

For tests, PITR_CRASH_AT=N in the environment kills the process with SIGKILL after the Nth step.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import signal
import time
from pathlib import Path

# `~` is in no object key, so no name of a temporary file can be the name of an object.
_TEMPORARY = re.compile(r"\.pitr~(?P<pid>\d{1,9})~(?P<run>[0-9a-f]{16})~\d+")
# A process id alone is not an identity: in a container every run of the program may be number 1.
_RUN = secrets.token_hex(8)
_serial = itertools.count(1)

_crash_at = int(os.environ.get("PITR_CRASH_AT", "0"))
_steps = itertools.count(1)

SWEEP_AFTER_SECONDS = 600


def write_new(path: Path, data: bytes) -> None:
    """Create the file `path` with these bytes, mode 0600; its folder must exist.

    Raises FileExistsError when the name is taken, in which case nothing was written, and OSError.
    """
    _name_new(_write_temporary(path, data), path)


def write_replace(path: Path, data: bytes) -> None:
    """Write the file `path`, mode 0600, replacing one of the same name whole. Raises OSError."""
    temporary = _write_temporary(path, data)
    try:
        temporary.rename(path)
        _step()
    except BaseException:
        _discard(temporary)
        raise
    _sync(path.parent)


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the folder of `path`, of the kind that `sweep` removes."""
    return path.with_name(f".pitr~{os.getpid()}~{_RUN}~{next(_serial)}")


def publish_new(temporary: Path, path: Path) -> None:
    """Move a file that is complete and closed from its temporary name to `path`, durably.

    For files that another library wrote under a name from `temporary_beside`. Raises
    FileExistsError when the name is taken, and OSError; the temporary name is gone either way.
    """
    _sync(temporary)
    _name_new(temporary, path)


def private(path: str, flags: int) -> int:
    """Open a file for this user alone, mode 0600 when it is made: an opener for `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def make_folder(path: Path) -> None:
    """Create a folder, mode 0700, and the missing folders above it. Raises OSError."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    try:
        path.mkdir(mode=0o700)
        _step()
    except FileExistsError:
        if not path.is_dir():
            raise
        # Whoever made it may have died before the fsync below, so do it again; unless the folder
        # above is not ours to read, and then neither was it ours to make this one.
        if not os.access(path.parent, os.R_OK):
            return
    _sync(path.parent)


def move_scratch(path: Path, target: Path) -> None:
    """Give a file or folder a free name in the same file system. Not durable.

    For what is made anew after a power loss, such as a recovery that has not ended.
    """
    path.rename(target)


def remove(path: Path) -> None:
    """Remove a file; one that is not there is no error. Raises OSError.

    Not durable: a power loss may bring the file back. Remove only what may be there.
    """
    path.unlink(missing_ok=True)
    _step()


def is_temporary(name: str) -> bool:
    """Return whether a file name is that of a file under construction or of a leftover."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove temporary files of dead processes that are older than SWEEP_AFTER_SECONDS.

    The age matters where the folder is shared: another machine's process cannot be asked whether
    it lives, but no write takes that long. Raises OSError.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None or _is_alive(int(match["pid"]), match["run"]):
                continue
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > SWEEP_AFTER_SECONDS:
                    remove(Path(entry.path))


def _write_temporary(path: Path, data: bytes) -> Path:
    """Write and fsync a temporary file beside `path`."""
    temporary = temporary_beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _step()
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        _step()
        # An fsync that failed is never tried again: the kernel may have dropped the pages that it
        # could not write, and a second fsync would report success without them.
        os.fsync(descriptor)
        _step()
    except BaseException:
        _discard(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


def _name_new(temporary: Path, path: Path) -> None:
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS the answer to our own link may get lost; asked again, the server finds the
            # name taken, by us. Then our file has two names.
            if temporary.stat().st_nlink != 2:
                raise
        _step()
    finally:
        _discard(temporary)
    _sync(path.parent)


def _discard(temporary: Path) -> None:
    """Remove a temporary file if it can be done; a leftover costs space, not correctness."""
    with contextlib.suppress(OSError):
        temporary.unlink()
    _step()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _step()


def _is_alive(pid: int, run: str) -> bool:
    """Return whether the writer of a temporary file may still be at work on this machine."""
    if pid == os.getpid():
        return run == _RUN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _step() -> None:
    if _crash_at and next(_steps) == _crash_at:
        os.kill(os.getpid(), signal.SIGKILL)
