"""The tar archives that `pg_basebackup` wrote: which files are in them, and where; their bytes.

Of a plain archive the headers alone are read, and files are read where they lie. A compressed one
can only be read from front to back, so it is unpacked once to list it, when everything but the
files of tables is kept aside, and once more for each sweep over those.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pitr.errors import Corrupt, PreconditionFailed
from pitr.postgres.base.contents import BaseFile
from pitr.postgres.base.tar import Member, MemberKind, read_header
from pitr.postgres.wal.wanted import FIRST_USER_OID, LARGE_OBJECTS
from pitr.unpacked import SUFFIXES, UNPACKING_ERRORS, unpacked

_BLOCK = 512
_PART_BYTES = 4 << 20
_WAL = "pg_wal/"
_RELATION = re.compile(r"(?:base|PG_\w+)/\d+/(\d+)(?:_\w+)?(?:\.\d+)?")


class Lying(NamedTuple):
    """Where the bytes of one file lie: in which file of ours, from which offset on."""

    file: BaseFile
    path: Path
    offset: int


def find_tar(folder: Path, name: str) -> Path | None:
    """Return the archive of this name in a folder, plain or compressed; None without one."""
    places = (folder / f"{name}.tar{suffix}" for suffix in ("", *SUFFIXES))
    return next((place for place in places if place.is_file()), None)


class TarFiles:
    """Lists and reads archives. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What it holds open is closed when nobody has it any more.
        self._held = contextlib.ExitStack()
        weakref.finalize(self, self._held.close)
        self._opened: dict[Path, tuple[contextlib.ExitStack, BinaryIO]] = {}
        self._aside: BinaryIO | None = None

    def members(self, path: Path, prefix: str) -> Iterator[tuple[str, Lying]]:
        """Yield the files and folders of an archive, without those of pg_wal.

        Raises Corrupt, PreconditionFailed when there is no room to keep files aside.
        """
        is_packed = path.suffix in SUFFIXES
        end = path.stat().st_size
        with _damage_named(path), unpacked(path) as file:
            while (block := file.read(_BLOCK)) and len(block) == _BLOCK and any(block):
                member = _member(path, block)
                begin = file.tell()
                following = begin + member.size + -member.size % _BLOCK
                if not is_packed and begin + member.size > end:
                    raise cut_short(path, begin + member.size)
                is_wal = (prefix + member.path).startswith(_WAL)
                if member.path and member.kind is not MemberKind.LINK and not is_wal:
                    is_folder = member.kind is MemberKind.FOLDER
                    name, size = prefix + member.path, member.size
                    found = BaseFile(name, size, member.mode, member.modified_s, is_folder)
                    if is_packed and _is_kept_aside(member.path):
                        yield name, self._keep_aside(found, file, path)
                    else:
                        yield name, Lying(found, path, begin)
                file.seek(following - file.tell(), os.SEEK_CUR)
                if file.tell() != following:
                    raise cut_short(path, following)
            while is_packed and file.read(_PART_BYTES):
                pass  # its checksum comes last

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return bytes of what a compressed archive holds; going forward is what it is good at."""
        with self._lock, _damage_named(path):
            file = self._opened[path][1] if path in self._opened else None
            if file is None or file.tell() > offset:
                file = self._reopened(path)
            file.seek(offset - file.tell(), os.SEEK_CUR)
            data = file.read(size)
        if len(data) != size:
            raise cut_short(path, offset + size)
        return data

    def _reopened(self, path: Path) -> BinaryIO:
        if path in self._opened:
            self._opened.pop(path)[0].close()
        stack = self._held.enter_context(contextlib.ExitStack())
        file = stack.enter_context(unpacked(path))
        self._opened[path] = (stack, file)
        return file

    def _keep_aside(self, found: BaseFile, file: BinaryIO, path: Path) -> Lying:
        """Copy a file's bytes to where they can be read alone: into a file that has no name."""
        try:
            if self._aside is None:
                self._aside = self._held.enter_context(_file_without_name())
            aside = self._aside
            offset, left = aside.seek(0, os.SEEK_END), found.size
            while left and (data := file.read(min(left, _PART_BYTES))):
                aside.write(data)
                left -= len(data)
            aside.flush()
        except OSError as error:
            if isinstance(error, UNPACKING_ERRORS):
                raise
            raise PreconditionFailed(
                "there is no room to unpack the base backup's catalogs",
                detail=f"{tempfile.gettempdir()}: {error.strerror}.",
                hint="Name another folder with TMPDIR, or unpack the backup yourself.",
            ) from None
        if left:
            raise cut_short(path, file.tell() + left)
        return Lying(found, Path(f"/dev/fd/{aside.fileno()}"), offset)


@contextlib.contextmanager
def _file_without_name() -> Iterator[BinaryIO]:
    """Open a file that is gone with the process, however that ends."""
    with tempfile.TemporaryFile() as file:
        yield file


def _member(path: Path, block: bytes) -> Member:
    try:
        return read_header(block)
    except Corrupt as error:
        raise Corrupt(
            "the base backup is damaged",
            detail=f"{path}: {error.sentence}",
            hint="Use another base backup, or copy this one again.",
        ) from None


def _is_kept_aside(path: str) -> bool:
    """Return whether a file is no table's: those are many, and small."""
    match = _RELATION.fullmatch(path)
    if match is None:
        return True
    number = int(match[1])
    return number < FIRST_USER_OID and number not in LARGE_OBJECTS


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UNPACKING_ERRORS as error:
        raise Corrupt(
            "the base backup is damaged",
            detail=f"{path} does not unpack: {error}.",
            hint="Use another base backup, or copy this one again.",
        ) from None


def cut_short(path: Path, end: int) -> Corrupt:
    """Return the error for an archive or file that ends too early."""
    return Corrupt(
        "the base backup was cut short",
        detail=f"{path} ends before byte {end}.",
        hint="Use another base backup, or copy this one again.",
    )
