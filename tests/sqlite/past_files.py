"""Databases written by another process, their files as past states, and what came back of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import apsw

from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import RestoredTable, restore_tables

_WRITER = """
import json, sqlite3, sys
path, statements, preparation = json.load(sys.stdin)
c = sqlite3.connect(path, isolation_level=None)
exec(preparation)
for statement in statements:
    c.execute(statement)
c.close()
"""

# What an application may have defined that nobody else knows.
APPLICATION = """
c.create_function("secret", 1, lambda x: None if x is None else str(x)[::-1], deterministic=True)
c.create_collation("backwards", lambda a, b: (a[::-1] > b[::-1]) - (a[::-1] < b[::-1]))
"""


def write_database(path: Path, statements: Sequence[str], preparation: str = "") -> Path:
    """Run the statements in a process of their own, each in a transaction of its own."""
    subprocess.run(
        [sys.executable, "-c", _WRITER],
        input=json.dumps([str(path), list(statements), preparation]),
        check=True,
        text=True,
    )
    return path


def opened(path: Path) -> closing[apsw.Connection]:
    """Open a file by SQLite's own VFS, for a `with`."""
    return closing(apsw.Connection(str(path)))


ODD_NAMES = [
    'quo"te',
    "new\nline",
    "semi;--colon",
    "Größe 表",
    "main.t",
    "[brackets]",
    "back`tick",
    "sel ect",
    "it's",
    "order",
    "a%b?c#d",
]


class FilePages:
    """The pages of a database file as a PageSource; notes what was asked of it."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        declared = int.from_bytes(self._bytes[16:18], "big")
        self.page_size = 65536 if declared == 1 else declared
        self.page_count = len(self._bytes) // self.page_size
        self.read: list[int] = []
        self.prefetched: set[int] = set()
        self.surprises: list[int] = []
        self.prefetch_calls = 0
        self.fails: dict[int, BaseException] = {}

    def page(self, page_number: int) -> bytes:
        if page_number in self.fails:
            raise self.fails[page_number]
        if page_number not in self.prefetched:
            self.surprises.append(page_number)
        self.read.append(page_number)
        return self._bytes[(page_number - 1) * self.page_size : page_number * self.page_size]

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        self.prefetch_calls += 1
        self.prefetched.update(page_numbers)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def content(
    connection: apsw.Connection, table: str, columns: Sequence[str], *, order: str = ""
) -> list[tuple[object, ...]]:
    """Return every value of a table as (storage class, its bits), rows sorted unless ordered."""
    parts = []
    for column in columns:
        name = quoted(column)
        bits = f"CASE WHEN typeof({name}) IN ('text', 'blob') THEN hex({name}) ELSE {name} END"
        parts += [f"typeof({name})", bits]
    rows = connection.execute(f"SELECT {', '.join(parts)} FROM {quoted(table)} {order}")
    found = [tuple(repr(value) for value in row) for row in rows]
    return found if order else sorted(found)


def schema_of(connection: apsw.Connection, table: str) -> list[tuple[object, ...]]:
    """Return the texts of a table and its indexes."""
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema"
        " WHERE tbl_name = ? COLLATE NOCASE AND type IN ('table', 'index') ORDER BY name",
        (table,),
    )
    return rows.fetchall()


def all_columns(connection: apsw.Connection, table: str) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid", (table,)
    )
    return [row[0] for row in rows]


def restore(
    path: Path, tables: Sequence[str], to: Path | None = None, *, where: str | None = None
) -> list[RestoredTable]:
    """Restore from a file as the past; the sidecar lies beside it unless named."""
    with open_past(FilePages(path)) as past:
        return restore_tables(past, tables, to or path.with_name("sidecar.db"), where=where)


def assert_same(path: Path, sidecar: Path, table: str, *, order: str = "") -> None:
    """Compare the texts and every value of a table with the file that the past was."""
    with opened(path) as native, opened(sidecar) as restored:
        assert schema_of(restored, table) == schema_of(native, table)
        columns = all_columns(native, table)
        expected = content(native, table, columns, order=order)
        assert content(restored, table, columns, order=order) == expected
        assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
