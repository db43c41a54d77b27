"""Random lives of databases: a trace of statements by a random generator, each commit recorded."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.sqlite.recorded import Recorder

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_TABLES = (
    "CREATE TABLE {}(id INTEGER PRIMARY KEY, a, b TEXT, c BLOB)",
    "CREATE TABLE {}(id INTEGER PRIMARY KEY AUTOINCREMENT, a REAL, b, c)",
    "CREATE TABLE {}(id, a, b, c)",
    "CREATE TABLE {}(id TEXT PRIMARY KEY, a, b, c)",
    "CREATE TABLE {}(id INT PRIMARY KEY, a ANY, b TEXT, c ANY) STRICT",
    "CREATE TABLE {}(id INTEGER PRIMARY KEY, a, b, c, d AS (a || 'x'), e AS (b) STORED)",
    "CREATE TABLE {}(id PRIMARY KEY, a, b, c) WITHOUT ROWID",
    "CREATE TABLE {}(a, id TEXT COLLATE NOCASE, b COLLATE RTRIM, c, PRIMARY KEY(b, id))"
    " WITHOUT ROWID",
)
_TOGETHER = (
    ("insert",) * 5 + ("update",) * 4 + ("patch", "blob") * 3 + ("delete",) * 3
    + ("rekey", "replace", "create", "index", "drop", "clear")
)  # fmt: skip
_ALONE = ("vacuum", "rename", "add", "drop_column", "reindex", "squeeze", "rename_column")


class Life:
    """One database and the statements that happen to it; every choice follows from the seed."""

    def __init__(
        self,
        seed: int,
        path: Path,
        tables: Sequence[str] = _TABLES,
        alone: Sequence[str] = _ALONE,
    ) -> None:
        self.rng = random.Random(seed)
        self.page_size = PAGE_SIZES[seed % len(PAGE_SIZES)]
        self.recorder = Recorder(
            path,
            page_size=self.page_size,
            auto_vacuum=self.rng.choice([0, 0, 1, 2]),
            encoding=self.rng.choice(["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]),
            wal=self.rng.random() < 0.8,
            secure_delete=self.rng.random() < 0.2,
        )
        self.tables = tables
        self.alone = alone
        self.made = 0
        self.vacuums: set[int] = set()
        self.renames: set[int] = set()

    def live(self, steps: int) -> None:
        """Take steps, each of them one commit or none."""
        for _ in range(steps):
            if self.rng.random() < 0.2:
                self._alone()
            else:
                self._transaction()

    def _transaction(self) -> None:
        execute = self.recorder.connection.execute
        execute("BEGIN")
        for _ in range(self.rng.choice([1, 1, 1, 2, 5])):
            execute("SAVEPOINT s")
            self._do(self.rng.choice(_TOGETHER))
            if self.rng.random() < 0.15:
                execute("ROLLBACK TO s")
            execute("RELEASE s")
        execute("ROLLBACK" if self.rng.random() < 0.05 else "COMMIT")
        self.recorder.take()

    def _alone(self) -> None:
        before = self.recorder.number
        action = self._do(self.rng.choice(self.alone))
        after = self.recorder.take()
        if after > before and action == "vacuum":
            self.vacuums.add(after)
        if after > before and action == "rename":
            self.renames.add(after)

    def _do(self, action: str) -> str:
        """Do one thing to one table and return what; what a constraint refuses does not happen."""
        tables = self._names("SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE TABLE%'")
        tables = [name for name in tables if not name.startswith("sqlite_")]
        self.table = self.rng.choice(tables) if tables else ""
        with suppress(sqlite3.Error):
            if not tables:
                action = "create"
            getattr(self, f"_{action}")()
        return action

    def _names(self, sql: str) -> list[str]:
        return [row[0] for row in self.recorder.connection.execute(sql)]

    def _run(self, sql: str, *values: object) -> None:
        self.recorder.connection.execute(sql, values)

    # --- values ----------------------------------------------------------------------------------

    def _value(self) -> object:
        kind = self.rng.randrange(8)
        if kind == 0:
            return self.rng.choice([None, 0, 1, -1, 2**40, -(2**62), 1.0, 2.5, 1e300])
        if kind < 4:
            return self.rng.randrange(1000)
        size = self.rng.choice([1, 3, 20, 20, 20, 200, self.page_size, 3 * self.page_size])
        return self.rng.choice(["a", "B ", "é"]) * size if kind < 7 else self.rng.randbytes(size)

    def _where(self) -> str:
        low = self.rng.randrange(3000)
        return self.rng.choice(
            [
                f"a BETWEEN {low} AND {low + 300}",
                "length(c) > 600",
                "b LIKE 'a%'",
                f"id BETWEEN {low} AND {low + 100}",
                f"id % 17 = {low % 17}",
            ]
        )

    # --- changes of rows -------------------------------------------------------------------------

    def _insert(self) -> None:
        for _ in range(self.rng.choice([1, 1, 3, 30, 200 if self.page_size < 8192 else 20])):
            row = self.rng.randrange(3000), self._value(), str(self._value())[:900], self._value()
            self._run(f"INSERT OR IGNORE INTO {self.table}(id, a, b, c) VALUES (?, ?, ?, ?)", *row)

    def _update(self) -> None:
        column = self.rng.choice("abc")
        sql = f"UPDATE OR IGNORE {self.table} SET {column} = ? WHERE {self._where()}"
        self._run(sql, self._value())

    def _patch(self) -> None:
        """Change the last byte of long values, which leaves the row in its place."""
        tail = f"substr(c, 1, length(c) - 1) || '{self.rng.choice('pqr')}'"
        self._run(
            f"UPDATE OR IGNORE {self.table} SET c = CAST({tail} AS BLOB)"
            f" WHERE typeof(c) = 'blob' AND length(c) > {self.rng.choice([10, 300])}"
        )

    def _blob(self) -> None:
        """Write into a value through a handle."""
        long = f"SELECT rowid, length(c) FROM {self.table} WHERE typeof(c) = 'blob'"
        rowid, length = self.rng.choice(
            self.recorder.connection.execute(long).fetchall() or [(0, 9)]
        )
        with self.recorder.connection.blobopen(self.table, "c", rowid) as blob:
            blob.seek(self.rng.randrange(length))
            blob.write(self.rng.randbytes(1))

    def _delete(self) -> None:
        self._run(f"DELETE FROM {self.table} WHERE {self._where()}")

    def _clear(self) -> None:
        self._run(f"DELETE FROM {self.table}")

    def _rekey(self) -> None:
        step = self.rng.choice([1, 5000])
        self._run(f"UPDATE OR IGNORE {self.table} SET id = id + {step} WHERE {self._where()}")

    def _replace(self) -> None:
        row = self.rng.randrange(3000), self._value(), "replaced", self._value()
        self._run(f"INSERT OR REPLACE INTO {self.table}(id, a, b, c) VALUES (?, ?, ?, ?)", *row)

    # --- changes of the schema -------------------------------------------------------------------

    def _create(self) -> None:
        self.made += 1
        self._run(self.rng.choice(self.tables).format(f"t{self.made}"))

    def _drop(self) -> None:
        # From pages alone an empty table that is dropped and made anew looks like a renamed one,
        # unless the pages come from a WAL, which has the root page once more.
        rows = self.recorder.connection.execute(f"SELECT count(*) FROM {self.table}").fetchone()[0]
        if rows or self.recorder.is_wal:
            self._run(f"DROP TABLE {self.table}")

    def _index(self) -> None:
        column = self.rng.choice("abc")
        self._run(f"CREATE INDEX {self.table}_{column} ON {self.table}({column})")

    def _vacuum(self) -> None:
        self._run("VACUUM")

    def _rename(self) -> None:
        self.made += 1
        self._run(f"ALTER TABLE {self.table} RENAME TO t{self.made}")

    def _add(self) -> None:
        self.made += 1
        default = self.rng.choice(["", " DEFAULT 7", " TEXT DEFAULT 7 COLLATE NOCASE"])
        self._run(f"ALTER TABLE {self.table} ADD COLUMN n{self.made}{default}")

    def _drop_column(self) -> None:
        columns = [
            row[1] for row in self.recorder.connection.execute(f"PRAGMA table_info({self.table})")
        ]
        self._run(f"ALTER TABLE {self.table} DROP COLUMN {self.rng.choice(columns)}")

    def _rename_column(self) -> None:
        self._run(f"ALTER TABLE {self.table} RENAME COLUMN c TO x")
        self._run(f"ALTER TABLE {self.table} RENAME COLUMN x TO c")

    def _reindex(self) -> None:
        self._run("REINDEX")

    def _squeeze(self) -> None:
        self.recorder.connection.execute("PRAGMA incremental_vacuum(5)").fetchall()
