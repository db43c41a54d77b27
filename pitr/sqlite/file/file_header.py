"""The 100 bytes at the head of a database file, as capture and `check` read them. No I/O.

Readers of archived pages use `page.decode_header`; here it is about the file: its journal mode,
who wrote it last, and whether it is SQLite's at all.

Specification: https://sqlite.org/fileformat2.html#the_database_header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pitr.sqlite.file.page import MAGIC
from pitr.sqlite.wal.header import is_page_size

FILE_HEADER_BYTES = 100
_WAL_VERSION = 2
_HEADER = struct.Struct(">16sHBBBBBBIIIIIIIIIIII20xII")
assert _HEADER.size == FILE_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What capture needs of the header.

    In rollback-journal mode `change_counter` moves with every transaction; in WAL mode now and
    then. `page_count` is 0 when an old library wrote last and left it stale.
    """

    page_size: int
    is_wal: bool
    change_counter: int
    page_count: int
    schema_cookie: int
    auto_vacuum: bool
    library_version: int


def decode_file_header(data: bytes) -> FileHeader | None:
    """Decode the first 100 bytes of a database file; None when they are not SQLite's."""
    if len(data) < FILE_HEADER_BYTES:
        return None
    (
        magic, page_size, write_version, read_version, _reserved, _max, _min, _leaf,
        change_counter, page_count, _freelist, _free_count, schema_cookie, _format, _cache,
        largest_root, _encoding, _user_version, _incremental, _application,
        valid_for, library_version,
    ) = _HEADER.unpack_from(data)  # fmt: skip
    page_size = 65536 if page_size == 1 else page_size
    if magic != MAGIC or not is_page_size(page_size):
        return None
    return FileHeader(
        page_size=page_size,
        is_wal=write_version == read_version == _WAL_VERSION,
        change_counter=change_counter,
        page_count=page_count if valid_for == change_counter else 0,
        schema_cookie=schema_cookie,
        auto_vacuum=largest_root != 0,
        library_version=library_version,
    )
