"""Read the tar archives that PostgreSQL sends, as a stream: bytes in, members out. No I/O.

PostgreSQL writes plain ustar: names below 100 bytes, numbers in octal or, when large, in base 256;
members are files, folders and symbolic links (src/port/tar.c). Up to version 14 the two blocks of
zeros at the end are missing.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from typing import NamedTuple

from pitr.errors import Corrupt

_BLOCK = 512
_NAME = slice(0, 100)
_MODE = slice(100, 108)
_SIZE = slice(124, 136)
_MODIFIED = slice(136, 148)
_CHECKSUM = slice(148, 156)
_TYPE = 156
_LINK = slice(157, 257)
_MAGIC = slice(257, 262)
_PREFIX = slice(345, 500)
_ZEROS = bytes(_BLOCK)
# The largest file offset, and more than any size or time.
_NUMBER_MAX = (1 << 63) - 1


class MemberKind(enum.Enum):
    """What a member of a tar archive is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


class Member(NamedTuple):
    """The header of one member; `link` is where a symbolic link leads."""

    path: str
    kind: MemberKind
    size: int
    mode: int
    modified_s: int
    link: str


class TarStream:
    """Cut the bytes of one archive into members and their contents."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0  # bytes of the member's content still to come
        self._padding = 0
        self._is_ended = False

    def feed(self, data: bytes | memoryview) -> Iterator[Member | memoryview]:
        """Yield what these bytes complete: a member's header, then its content piece by piece.

        A piece is a view of `data`. Raises Corrupt for what is no tar archive.
        """
        view = memoryview(data)
        at = 0
        while at < len(view):
            if self._left:
                piece = view[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                yield piece
            elif self._padding:
                skipped = min(self._padding, len(view) - at)
                self._padding -= skipped
                at += skipped
            else:
                part = view[at : at + _BLOCK - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) == _BLOCK:
                    block = bytes(self._header)
                    self._header.clear()
                    if block == _ZEROS:
                        self._is_ended = True
                    else:
                        yield self._begin(block)

    def end(self) -> None:
        """Say that no bytes follow. Raises Corrupt in the middle of a member."""
        if self._left or self._padding or self._header:
            raise Corrupt(
                "the tar archive ends in the middle of a member",
                detail=f"{self._left + self._padding} bytes are missing.",
            )

    def _begin(self, block: bytes) -> Member:
        if self._is_ended:
            raise Corrupt("the tar archive goes on after its end mark")
        member = read_header(block)
        self._left = member.size
        self._padding = -member.size % _BLOCK
        return member


def read_header(block: bytes) -> Member:
    """Return the member that a header of 512 bytes describes. Raises Corrupt."""
    plain = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    kind = _KINDS.get(block[_TYPE : _TYPE + 1])
    try:
        if block[_MAGIC] != b"ustar" or kind is None or _number(block[_CHECKSUM]) != sum(plain):
            raise ValueError("no header")
        # Only files have content; for other members the size field says nothing.
        size = _number(block[_SIZE]) if kind is MemberKind.FILE else 0
        mode, modified_s = _number(block[_MODE]) & 0o7777, _number(block[_MODIFIED])
    except ValueError:
        raise Corrupt(
            "bytes where the header of a tar member belongs are none",
            detail=f"They begin with {block[:32]!r}.",
        ) from None
    name = _text(block[_NAME])
    prefix = _text(block[_PREFIX])
    path = f"{prefix}/{name}" if prefix else name
    path = path.removeprefix("./").rstrip("/")
    if path.startswith("/") or ".." in path.split("/"):
        raise Corrupt("a tar member would lead out of its folder", detail=f"Its path is {path!r}.")
    return Member(path, kind, size, mode, modified_s, _text(block[_LINK]))


_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"5": MemberKind.FOLDER,
    b"2": MemberKind.LINK,
}


def _number(field: bytes) -> int:
    """Read a number: octal digits, or base 256 when the first bit is set. Raises ValueError."""
    if field[0] & 0x80:
        number = int.from_bytes(field[1:])
        if number > _NUMBER_MAX:
            raise ValueError("a number that PostgreSQL never writes")
        return number
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit():  # int() would take signs and underscores too
        raise ValueError("no octal number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])
