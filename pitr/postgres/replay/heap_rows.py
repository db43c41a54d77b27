"""Rows of a catalog at rest, read from its pages without a server. No I/O: bytes in, values out.

Only the columns in front are read, which have fixed widths and are never NULL. The pages must be
those of a cluster that has come to rest, so that a transaction that is not committed never will be.
Formats: PostgreSQL's bufpage.h, htup_details.h, clog.c; the same in majors 13 to 18.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PAGE_BYTES = 8192
PG_CLASS, PG_DATABASE, PG_AUTHID = 1259, 1262, 1260
BOOTSTRAP_SUPERUSER = 10
_LINE_POINTERS_AT = 24
_NORMAL = 1
_TUPLE = struct.Struct("<II10xHHB")  # xmin, xmax, infomask2, infomask, header length
_XMIN_COMMITTED, _XMIN_INVALID = 0x0100, 0x0200
_XMAX_COMMITTED, _XMAX_INVALID = 0x0400, 0x0800
_XMAX_LOCK_ONLY, _XMAX_IS_MULTI = 0x0080, 0x1000
_XIDS_A_FILE = 32 * PAGE_BYTES * 4
_COMMITTED = 1
_NAME_BYTES = 64
_FROZEN_XID = 2


@dataclass(frozen=True, slots=True)
class HeapRow:
    """One row version: what its header says, and its bytes behind the header."""

    xmin: int
    xmax: int
    mask: int
    data: bytes

    @property
    def oid(self) -> int:
        """Return the OID, the first column of the catalogs read here."""
        return int.from_bytes(self.data[:4], "little")

    @property
    def name(self) -> str:
        """Return the name, their second column."""
        return self.data[4 : 4 + _NAME_BYTES].split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def file_number(self) -> int:
        """Return relfilenode of a row of pg_class: 0 for a mapped relation or one without files."""
        return int.from_bytes(self.data[88:92], "little")


def heap_rows(data: bytes) -> Iterator[HeapRow]:
    """Yield every row version of a relation's pages, dead or alive."""
    for begin in range(0, len(data) - PAGE_BYTES + 1, PAGE_BYTES):
        page = data[begin : begin + PAGE_BYTES]
        lower = int.from_bytes(page[12:14], "little")
        end = min(max(lower, _LINE_POINTERS_AT), PAGE_BYTES) & -4
        for (pointer,) in struct.iter_unpack("<I", page[_LINE_POINTERS_AT:end]):
            offset, flags, length = pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17
            if flags != _NORMAL or length < _TUPLE.size or offset + length > PAGE_BYTES:
                continue
            xmin, xmax, _, mask, header = _TUPLE.unpack_from(page, offset)
            yield HeapRow(xmin, xmax, mask, page[offset + header : offset + length])


def visible_rows(data: bytes, is_committed: Callable[[int], bool]) -> Iterator[HeapRow]:
    """Yield the rows that a transaction beginning now would see.

    A row whose xmax is a multixact counts as visible when that only locks it, else as gone.
    """
    for row in heap_rows(data):
        is_known = bool(row.mask & _XMIN_COMMITTED)
        if not is_known and (row.mask & _XMIN_INVALID or not is_committed(row.xmin)):
            continue
        if row.xmax == 0 or row.mask & (_XMAX_INVALID | _XMAX_LOCK_ONLY):
            yield row
        elif row.mask & (_XMAX_COMMITTED | _XMAX_IS_MULTI):
            continue
        elif not is_committed(row.xmax):
            yield row


def commit_lookup(read: Callable[[str], bytes | None]) -> Callable[[int], bool]:
    """Return the function that says whether an xid committed; `read` returns a file of pg_xact."""
    files: dict[int, bytes] = {}

    def is_committed(xid: int) -> bool:
        if xid <= _FROZEN_XID:
            return True
        number, at = divmod(xid, _XIDS_A_FILE)
        if number not in files:
            files[number] = read(f"pg_xact/{number:04X}") or b""
        byte = files[number][at // 4 : at // 4 + 1]
        return bool(byte) and byte[0] >> at % 4 * 2 & 3 == _COMMITTED

    return is_committed
