"""A store in a folder of this machine: one file an object, durable, never half-written."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pitr import durable
from pitr.archive.store import ObjectExists, ObjectInfo, check_key, prefix_folder
from pitr.errors import CorruptObject, ObjectMissing, StoreUnusable

# A read of one page asks for a few hundred bytes of one object, thousands of times: opening the
# file each time would cost ten times the read. 64 stays far below the usual limit of 1024 files.
_OPEN_FILES_MAX = 64
# Copying a gap of this size costs about as much as the system call that would skip it.
_GAP_BYTES = 4096
_SPAN_BYTES_MAX = 1 << 20

# The root folder of an ext4 file system has one; only root may look inside.
_FOREIGN_FOLDER = "lost+found/"

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_HINTS = {
    errno.ENOSPC: "Free space on the file system that holds the archive; 'pitr prune' can help.",
    errno.EDQUOT: "Free space within the quota of this user; 'pitr prune' can help.",
    errno.EACCES: "Give the user that runs pitr read and write permission on the archive.",
    errno.EPERM: "Give the user that runs pitr read and write permission on the archive, on a "
    "file system that has hard links.",
    errno.EOPNOTSUPP: "Use a file system that has hard links: the archive creates objects by them.",
    errno.EROFS: "Mount the file system that holds the archive writable.",
    errno.EIO: "The disk reports errors: look at the system log before relying on this archive.",
    errno.ENOENT: "Check the path, and that the disk that holds the archive is mounted.",
    errno.ENOTDIR: "Name a folder, not a file.",
    errno.EEXIST: "Name a folder, not a file.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
}


class LocalStore:
    """Objects as files under one folder; a key's slashes are folders.

    A file that was opened by `get_ranges` stays open for the next call, so for a while that method
    may go on reading an object which another process has meanwhile replaced or deleted: whole, as
    it was. `get` always sees the newest.
    """

    is_remote = False

    def __init__(self, folder: Path | str) -> None:
        """Name the folder; nothing is read or made before the first call."""
        # Not resolve(): the user knows the path that was typed, not where its links lead.
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100
        self._lock = threading.Lock()
        self._open_files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._ready: set[Path] = set()
        self._has_served = False

    @property
    def location(self) -> str:
        """Return the absolute path of the folder."""
        return str(self._folder)

    def make(self) -> None:
        """Make the folder and those above it, durably. Raises StoreUnusable."""
        try:
            durable.make_folder(self._folder)
        except OSError as error:
            raise self._unusable("make", error) from None

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raise ObjectExists when it does."""
        path = self._path_to_write(key)
        try:
            durable.write_new(path, data)
        except FileExistsError:
            raise ObjectExists(key) from None
        except OSError as error:
            raise self._unusable("write to", error) from None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same name whole."""
        path = self._path_to_write(key)
        try:
            durable.write_replace(path, data)
        except OSError as error:
            raise self._unusable("write to", error) from None
        self._forget(key)

    def get(self, key: str) -> bytes:
        """Return the whole object."""
        try:
            data = self._path(key).read_bytes()
        except _ABSENT:
            raise self._absent(key) from None
        except OSError as error:
            raise self._unusable("read", error) from None
        self._has_served = True
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each half-open range (begin, end), in the order asked."""
        file = self._open(key)
        try:
            if len(ranges) == 1:
                return [file.read(*ranges[0])]
            return _read_merged(file, ranges)
        except OSError as error:
            raise self._unusable("read", error) from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, in ascending key order."""
        folder = prefix_folder(prefix)
        try:
            yield from _walk(self._folder / folder, f"{folder}/" if folder else "", prefix)
        except OSError as error:
            raise self._unusable("list", error) from None
        if not self._folder.is_dir():
            raise self._folder_missing()

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there is no error."""
        try:
            durable.remove(self._path(key))
        except _ABSENT:
            pass
        except OSError as error:
            raise self._unusable("delete from", error) from None
        self._forget(key)

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _path_to_write(self, key: str) -> Path:
        path = self._path(key)
        if path.parent not in self._ready:
            try:
                self._prepare(path.parent)
            except OSError as error:
                raise self._unusable("write to", error) from None
        return path

    def _prepare(self, folder: Path) -> None:
        """Make a folder of the store, and remove what killed writers left in it.

        Done once for each folder, and not where objects were read before and nothing is now: a
        capture whose disk is unmounted fails, instead of building a second archive in the empty
        mount point, which would keep from the first what is written meanwhile.
        """
        if self._has_served and not _has_entries(self._folder):
            reason = "The folder is empty now, and held objects before"
            raise FileNotFoundError(errno.ENOENT, reason, str(self._folder))
        levels = [folder, *folder.parents]
        for level in reversed(levels[: levels.index(self._folder) + 1]):
            durable.make_folder(level)
        durable.sweep(folder)
        self._ready.add(folder)

    def _open(self, key: str) -> _OpenFile:
        with self._lock:
            file = self._open_files.get(key)
            if file is not None:
                self._open_files.move_to_end(key)
                return file
        try:
            file = _OpenFile(key, self._path(key))
        except _ABSENT:
            raise self._absent(key) from None
        except OSError as error:
            raise self._unusable("read", error) from None
        with self._lock:
            self._open_files[key] = file
            if len(self._open_files) > _OPEN_FILES_MAX:
                self._open_files.popitem(last=False)
        return file

    def _forget(self, key: str) -> None:
        with self._lock:
            self._open_files.pop(key, None)

    def _absent(self, key: str) -> ObjectMissing | StoreUnusable:
        """Tell a missing object from a missing store: the two are mended in different ways."""
        if not self._folder.is_dir():
            return self._folder_missing()
        return ObjectMissing(key, location=self.location)

    def _folder_missing(self) -> StoreUnusable:
        return StoreUnusable(
            f"no folder at {self.location}",
            detail="The archive's folder does not exist, or is a file.",
            hint=_HINTS[errno.ENOENT],
        )

    def _unusable(self, doing: str, error: OSError) -> StoreUnusable:
        where = f": {error.filename}" if error.filename else ""
        code = errno.errorcode.get(error.errno or 0, "unknown")
        return StoreUnusable(
            f"cannot {doing} the archive at {self.location}",
            detail=f"{error.strerror or error} ({code}){where}.",
            hint=_HINTS.get(error.errno or 0),
        )


class _OpenFile:
    """An object open for reading; closed when the last user lets go of it.

    No lock and no explicit close: a thread that reads keeps the descriptor alive by its reference,
    even when the store has dropped the file meanwhile.
    """

    __slots__ = ("_descriptor", "_key", "_size")

    def __init__(self, key: str, path: Path) -> None:
        self._descriptor = -1
        self._key = key
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError
        self._size = status.st_size

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes of a half-open range. Raises CorruptObject past the end, OSError."""
        if not 0 <= begin <= end:
            raise ValueError(f"not a range: {begin}..{end}")
        data = os.pread(self._descriptor, end - begin, begin)
        if len(data) != end - begin or end > self._size:
            raise CorruptObject(
                self._key, f"Bytes {begin} to {end} are asked for, but it has {self._size}."
            )
        return data


def _read_merged(file: _OpenFile, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Read ranges in any order, near ones in one system call."""
    order = sorted(range(len(ranges)), key=ranges.__getitem__)
    pieces = [b""] * len(ranges)
    first = 0
    while first < len(order):
        begin, end = ranges[order[first]]
        last = first + 1
        while last < len(order):
            next_begin, next_end = ranges[order[last]]
            if next_begin > next_end:
                raise ValueError(f"not a range: {next_begin}..{next_end}")
            if next_begin > end + _GAP_BYTES or next_end > begin + _SPAN_BYTES_MAX:
                break
            end = max(end, next_end)
            last += 1
        span = file.read(begin, end)
        for index in order[first:last]:
            piece_begin, piece_end = ranges[index]
            pieces[index] = span[piece_begin - begin : piece_end - begin]
        first = last
    return pieces


def _walk(folder: Path, base: str, prefix: str) -> Iterator[ObjectInfo]:
    """Yield the objects under a folder whose keys begin with `base`, in ascending key order.

    A folder sorts as its name with a slash: the keys in it all begin so. Names that cannot be
    keys (temporary files, other programs' files) and what vanishes meanwhile are passed over.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name + "/" * entry.is_dir(), entry) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    found.sort(key=lambda item: item[0])
    for name, entry in found:
        key = base + name
        if not key.startswith(prefix) or name == _FOREIGN_FOLDER:
            continue
        if name.endswith("/"):
            yield from _walk(folder / entry.name, key, prefix)
        elif _is_key(key):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            yield ObjectInfo(key, status.st_size, status.st_mtime_ns // 1000)


def _has_entries(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None


def _is_key(key: str) -> bool:
    try:
        check_key(key)
    except ValueError:
        return False
    return True
