"""The legitimate writers: threads that change rows of `ledger`, and note what they committed."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psycopg

from tests.soak.ledger import Ledger, Row

MAKE = "CREATE TABLE ledger (id INTEGER PRIMARY KEY, text TEXT NOT NULL, version INTEGER NOT NULL)"
READ = "SELECT id, text, version FROM ledger"
WRITERS = 2
_ROWS_MAX = 1500


class Connection(Protocol):
    """What is needed of a connection with autocommit, of either engine."""

    def execute(self, statement: Any, values: Any = ..., /) -> Any: ...

    def close(self) -> None: ...


class Writers:
    """Threads on one database. `connect` is asked again whenever a connection is lost."""

    def __init__(
        self, ledger: Ledger, connect: Callable[[], Connection], mark: str, pause: float, seed: int
    ) -> None:
        self._ledger = ledger
        self._connect = connect
        self._mark = mark
        self._pause = pause
        self._stop = threading.Event()
        self._next = {writer: WRITERS + writer for writer in range(WRITERS)}
        # While an accident is being repaired nobody deletes: what is gone is gone by accident.
        self.may_delete = threading.Event()
        self.may_delete.set()
        self.faults: list[str] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(writer, random.Random(seed + writer)), daemon=True
            )
            for writer in range(WRITERS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what is unsure has been asked about."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _run(self, writer: int, chance: random.Random) -> None:
        connection: Connection | None = None
        while not self._stop.wait(chance.uniform(0, 2 * self._pause)) or self._ledger.unsure(
            writer, WRITERS
        ):
            try:
                if connection is None:
                    connection = self._connect()
                    self._settle(connection, writer)
                else:
                    self._write(connection, writer, chance)
            except (psycopg.OperationalError, sqlite3.OperationalError) as error:
                self.faults.append(str(error).splitlines()[0])
                if connection is not None:
                    connection.close()
                connection = None
                self._stop.wait(0.2)
        if connection is not None:
            connection.close()

    def _settle(self, connection: Connection, writer: int) -> None:
        """Ask what became of commits whose answer was lost."""
        for key, (before, after) in self._ledger.unsure(writer, WRITERS).items():
            found = self._one(connection, key)
            assert found in (before, after), (key, found, before, after)
            self._ledger.note(key, found)

    def _one(self, connection: Connection, key: int) -> Row | None:
        row = connection.execute(f"{READ} WHERE id = {self._mark}", (key,)).fetchone()
        return None if row is None else (row[1], row[2])

    def _write(self, connection: Connection, writer: int, chance: random.Random) -> None:
        keys = self._ledger.keys(writer, WRITERS)
        kind = chance.random()
        mark = self._mark
        if not keys or (kind < 0.5 and len(keys) < _ROWS_MAX):
            key = self._next[writer]
            self._next[writer] += WRITERS
            row = (f"row {key} {chance.randrange(10**9)}", 1)
            statement = f"INSERT INTO ledger VALUES ({mark}, {mark}, {mark})"
            self._commit(connection, key, row, statement, (key, *row))
        elif kind < 0.9 or not self.may_delete.is_set():
            key = chance.choice(keys)
            before = self._ledger.get(key)
            assert before is not None
            row = (f"row {key} {chance.randrange(10**9)}", before[1] + 1)
            statement = f"UPDATE ledger SET text = {mark}, version = {mark} WHERE id = {mark}"
            self._commit(connection, key, row, statement, (*row, key))
        else:
            key = chance.choice(keys)
            self._commit(connection, key, None, f"DELETE FROM ledger WHERE id = {mark}", (key,))

    def _commit(
        self,
        connection: Connection,
        key: int,
        row: Row | None,
        statement: str,
        values: tuple[object, ...],
    ) -> None:
        self._ledger.doubt(key, self._ledger.get(key), row)
        cursor = connection.execute(statement, values)
        # A row that an accident took away cannot be written: then nothing has happened.
        self._ledger.note(key, row if cursor.rowcount else self._ledger.get(key))


def open_sqlite(path: Path) -> sqlite3.Connection:
    """Return a connection of a writer."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection
