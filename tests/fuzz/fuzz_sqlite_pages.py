"""Pages of a SQLite database. The input: a database file with pages of 512 bytes."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pitr.errors import PitrError
from pitr.sqlite.file import page as pages
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.file_header import decode_file_header

PAGE_SIZE = 512
_ROWS_MAX = 200


class _Pages:
    """A PageSource of bytes; what is missing at the end is zeros."""

    page_size = PAGE_SIZE

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.page_count = -(-len(data) // PAGE_SIZE)

    def page(self, page_number: int) -> bytes:
        begin = (page_number - 1) * PAGE_SIZE
        return self._data[begin : begin + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        pass


def seeds() -> Iterator[bytes]:
    """Yield databases with rows, overflow, indexes, free pages; one with a pointer map, UTF-16."""
    for pragmas in ("", "PRAGMA auto_vacuum = FULL; PRAGMA encoding = 'UTF-16';"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "seed.db"
            connection = sqlite3.connect(path, isolation_level=None)
            connection.executescript(f"PRAGMA page_size = {PAGE_SIZE}; {pragmas}")
            connection.executescript(_SCHEMA)
            connection.close()
            yield path.read_bytes()


_SCHEMA = """
CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b REAL, c BLOB);
CREATE INDEX i ON t(a);
CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 12)
INSERT INTO t SELECT x, 'text ' || x, x / 3.0, zeroblob(x * 40) FROM n;
INSERT INTO t VALUES(100, 'long', -1e300, zeroblob(1500));
INSERT INTO w SELECT a, id * 4294967296 FROM t;
CREATE TABLE gone(x); INSERT INTO gone VALUES(zeroblob(2000)); DROP TABLE gone;
"""


def fuzz(data: bytes) -> None:
    """Walk every b-tree from every page that could be a root, and decode what is there."""
    decode_file_header(data[:100])
    snapshot = Snapshot(_Pages(data))
    try:
        assert snapshot.header.page_size == PAGE_SIZE
    except PitrError:
        return
    for root in range(1, min(snapshot.page_count, 40) + 1):
        for walk in (_rows, _ways):
            try:
                walk(snapshot, root)
            except PitrError:
                continue


def _rows(snapshot: Snapshot, root: int) -> None:
    encoding = snapshot.header.encoding
    for count, (cell, page_number) in enumerate(snapshot.cells(root)):
        if count > _ROWS_MAX:
            return
        snapshot.record_header(cell, page_number)
        pages.decode_record(snapshot.payload(cell), page_number, encoding)


def _ways(snapshot: Snapshot, root: int) -> None:
    snapshot.free_pages(range(1, snapshot.page_count + 1))
    if snapshot.header.auto_vacuum:
        snapshot.pointer(root)
    assert len(list(snapshot.leaves(root))) <= snapshot.page_count
    if not snapshot.is_index(root):
        for rowid in (1, 7, 100):
            snapshot.seek(root, rowid)
