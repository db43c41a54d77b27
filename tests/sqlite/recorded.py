"""Histories of real databases: every commit archived, and kept whole as the reference.

A writer of Python's own SQLite commits; after each commit the new frames of its WAL (or, in
rollback-journal mode, the pages that differ) become a commit of an archive in memory. The reference
for what a commit did is SQL over the whole database before it and after it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import (
    FIRST_CHAIN,
    CommitKind,
    SegmentWriter,
    WalMark,
    page_digest,
)
from pitr.vocabulary.change import TableChange
from tests.memory_store import MemoryStore

START_US = 1_700_000_000_000_000
_WAL_HEADER, _FRAME_HEADER = 32, 24


class Recorder:
    """One writer and the archive of all its commits. `states[n]` is the file after commit n."""

    def __init__(
        self,
        path: Path,
        *,
        page_size: int = 4096,
        auto_vacuum: int = 0,
        encoding: str = "UTF-8",
        wal: bool = True,
        secure_delete: bool = False,
        store: MemoryStore | None = None,
    ) -> None:
        self.path = path
        self.page_size = page_size
        self.store = MemoryStore() if store is None else store
        self._chain = FIRST_CHAIN
        self._begin_segment()
        self.is_wal = wal
        self._wal_bytes = _WAL_HEADER
        self.states: list[bytes] = [b""]
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute(f"PRAGMA page_size = {page_size}")
        self.connection.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
        self.connection.execute(f"PRAGMA encoding = '{encoding}'")
        self.connection.execute(f"PRAGMA secure_delete = {int(secure_delete)}")
        self.connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        self.connection.execute("PRAGMA wal_autocheckpoint = 0")
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.execute("PRAGMA user_version = 1")
        self._take(CommitKind.BASE)

    @property
    def number(self) -> int:
        """Return the number of the newest commit."""
        return len(self.states) - 1

    def run(self, *statements: str, kind: CommitKind = CommitKind.COMMIT) -> int:
        """Run statements, each a transaction of its own unless they say otherwise."""
        for statement in statements:
            self.connection.execute(statement)
            self.take(kind)
        return self.number

    def transaction(self, *statements: str) -> int:
        """Run statements as one transaction."""
        self.connection.execute("BEGIN")
        for statement in statements:
            self.connection.execute(statement)
        self.connection.execute("COMMIT")
        return self.take()

    def take(self, kind: CommitKind = CommitKind.COMMIT) -> int:
        """Archive what was committed since the last time, if anything was."""
        if not self.connection.in_transaction:
            self._take(kind)
        return self.number

    def _begin_segment(self) -> None:
        self._writer = SegmentWriter(
            self.store.put_new, page_size=self.page_size, lease=1, chain=self._chain
        )

    def lay_out_anew(self, page_size: int) -> int:
        """Change the page size, which takes a VACUUM outside of WAL mode; archive a new base."""
        self._writer.flush()
        self.connection.execute("PRAGMA journal_mode = DELETE")
        self.connection.execute(f"PRAGMA page_size = {page_size}")
        self.connection.execute("VACUUM")
        self.page_size, self.is_wal = page_size, False
        self._begin_segment()
        self.states.append(self.path.read_bytes())
        pages = dict(_differing(b"", self.states[-1], page_size))
        self._write(pages, len(pages), CommitKind.BASE, self.number)
        return self.number

    def _take(self, kind: CommitKind) -> None:
        before = self.states[-1]
        pages, page_count = self._from_wal() if self.is_wal else self._from_file(before)
        if not page_count:
            return
        size = self.page_size
        state = bytearray(before[: page_count * size].ljust(page_count * size, b"\0"))
        for page, image in pages.items():
            state[(page - 1) * size : page * size] = image
        if kind is CommitKind.GAP:
            pages = dict(_differing(before, bytes(state), size))
        self.states.append(bytes(state))
        self._write(pages, page_count, kind, self.number)

    def _write(
        self, pages: dict[int, bytes], page_count: int, kind: CommitKind, number: int
    ) -> None:
        at_us = START_US + number * 1_000_000
        self._writer.begin(
            number=number,
            kind=kind,
            fork=0,
            time_begin_us=at_us - 250_000,
            time_end_us=at_us,
            page_count=page_count,
            wal=WalMark(1, 1, number, 0, 0) if self.is_wal else None,
        )
        for page, image in sorted(pages.items()):
            if page <= page_count:
                self._writer.page(page, image, page_digest(image))
        self._chain = self._writer.end().chain

    def append(self, state: bytes, pages: Iterable[int], kind: CommitKind) -> int:
        """Archive a state that SQLite did not write, by these of its pages."""
        size = self.page_size
        images = {page: state[(page - 1) * size : page * size] for page in pages}
        self.states.append(state)
        self._write(images, len(state) // size, kind, self.number)
        return self.number

    def _from_wal(self) -> tuple[dict[int, bytes], int]:
        """Return the pages of the new frames up to the last commit, and the size after it.

        What lies behind is left from a transaction that was rolled back, and will be overwritten.
        """
        data = Path(f"{self.path}-wal").read_bytes()
        pages, page_count = {}, 0
        uncommitted = {}
        step = _FRAME_HEADER + self.page_size
        for at in range(self._wal_bytes, len(data), step):
            page, commit = struct.unpack_from(">II", data, at)
            uncommitted[page] = data[at + _FRAME_HEADER : at + step]
            if commit:
                pages |= uncommitted
                uncommitted = {}
                page_count, self._wal_bytes = commit, at + step
        return pages, page_count

    def _from_file(self, before: bytes) -> tuple[dict[int, bytes], int]:
        after = self.path.read_bytes()
        pages = dict(_differing(before, after, self.page_size))
        return pages, len(after) // self.page_size if pages else 0

    def archive(self) -> PageArchive:
        """Return the archive of everything so far."""
        self._writer.flush()
        return PageArchive(self.store)

    def close(self) -> None:
        """Close the writer."""
        self.connection.close()


def _differing(before: bytes, after: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    for begin in range(0, len(after), size):
        image = after[begin : begin + size]
        if before[begin : begin + size] != image:
            yield begin // size + 1, image


# --- the reference -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """A table as the reference sees it: its key for a comparison, the columns to compare."""

    key: tuple[str, ...]
    columns: tuple[str, ...]
    sql: str


def reference(before: bytes, after: bytes) -> dict[str, TableChange]:
    """Return what changed between two whole databases, by SQL over all their rows.

    Tables without any difference are absent. Knows nothing of renames and virtual tables.
    """
    with closing(both(before, after)) as connection:
        old, new = _tables(connection, "old"), _tables(connection, "new")
        found = {}
        for name in old.keys() | new.keys():
            change = _reference_of(connection, name, old.get(name), new.get(name))
            if change is not None:
                found[name] = change
        return found


def both(before: bytes, after: bytes) -> apsw.Connection:
    """Return a connection with the two states attached as `old` and `new`."""
    connection = apsw.Connection(":memory:")
    encoding = {2: "UTF-16le", 3: "UTF-16be"}.get(int.from_bytes(after[56:60], "big"), "UTF-8")
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    for name, data in (("old", before), ("new", after)):
        connection.execute(f"ATTACH ':memory:' AS {name}")
        if data:
            # Without the mark of WAL mode, which a database in memory cannot have.
            connection.deserialize(name, data[:18] + b"\1\1" + data[20:])
    return connection


def _tables(connection: apsw.Connection, schema: str) -> dict[str, _Known]:
    found = {}
    rows = connection.execute(
        f"SELECT l.name, l.wr, s.sql FROM pragma_table_list l JOIN {schema}.sqlite_schema s"
        " ON s.name = l.name"
        " WHERE l.schema = ? AND l.type = 'table' AND l.name NOT LIKE 'sqlite_%'",
        (schema,),
    ).fetchall()
    for name, without_rowid, sql in rows:
        columns = connection.execute(
            "SELECT name, pk FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1", (name, schema)
        ).fetchall()
        key = [column for column, position in columns if position]
        names = tuple(column for column, _ in columns)
        found[name] = _Known(tuple(key) if without_rowid else ("_rowid_",), names, sql)
    return found


def _reference_of(
    connection: apsw.Connection, name: str, old: _Known | None, new: _Known | None
) -> TableChange | None:
    def count(sql: str) -> int:
        return int(str(connection.execute(sql).get))

    if old is None or new is None:
        rows = count(f'SELECT count(*) FROM {"old" if old else "new"}."{name}"')
        return TableChange(
            table=name,
            inserted=rows if new else 0,
            deleted=rows if old else 0,
            created=old is None,
            dropped=new is None,
        )
    joined = " AND ".join(f'o."{c}" = n."{c}"' for c in old.key)
    common = [c for c in old.columns if c in new.columns]
    same = " AND ".join(
        f'o."{c}" IS n."{c}" COLLATE BINARY AND typeof(o."{c}") = typeof(n."{c}")' for c in common
    )
    o, n = f'old."{name}" o', f'new."{name}" n'
    total = count(f"SELECT count(*) FROM {o}"), count(f"SELECT count(*) FROM {n}")
    matched = count(f"SELECT count(*) FROM {o} JOIN {n} ON {joined}")
    updated = count(f"SELECT count(*) FROM {o} JOIN {n} ON {joined} WHERE NOT ({same})")
    inserted, deleted = total[1] - matched, total[0] - matched
    altered = old.sql != new.sql
    if not (inserted or updated or deleted or altered):
        return None
    truncated = bool(deleted and not total[1])
    return TableChange(
        table=name,
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        truncated=truncated,
        altered=altered,
    )
