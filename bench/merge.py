"""Lost rows brought back by `pitr merge`, beside the statement a person would write for it."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.report import Aim, Result, Table, seconds_text, times
from bench.world import CACHE, Size, archive_of, pitr, say

_ROUNDS = 3
_ROWS = {"20MB": (1, 1_000, 100_000), "200MB": (1, 1_000, 100_000, 1_000_000)}
_TIMES_MAX = 3.0
_ROWS_OF_AIM = 100_000
_SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    customer INTEGER NOT NULL REFERENCES customers (id),
    item TEXT NOT NULL,
    cents INTEGER NOT NULL CHECK (cents > 0),
    status TEXT NOT NULL DEFAULT 'open'
);
CREATE INDEX orders_by_customer ON orders (customer);
"""
_FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO orders
SELECT i, 1 + i * 7919 % 500, 'item ' || i % 977, 1 + i * 31 % 90000, 'open' FROM n
"""
_PLAIN = "INSERT INTO main.orders SELECT * FROM side.orders WHERE id <= ?"


def run(size: Size) -> Result:
    """Measure merges of several sizes; each table has a fifth more rows, which stay."""
    rows, aims = [], []
    for lost in _ROWS.get(size.name, _ROWS["200MB"]):
        plain, whole, locked = _measure(lost)
        waited, worked = whole.wall / plain.wall, whole.processor / plain.processor
        rows.append(
            [f"{lost:,}", seconds_text(plain.wall), seconds_text(whole.wall), times(waited),
             times(worked), seconds_text(locked)]
        )  # fmt: skip
        if lost >= _ROWS_OF_AIM:
            what = f"merge of {lost:,} rows to plain INSERT … SELECT"
            aims.append(Aim(what, max(waited, worked), _TIMES_MAX))
    note = (
        "Both write the same rows into the same table, with an index, a CHECK and a foreign key, "
        "under synchronous = FULL. The plain statement is told which rows are missing; merge finds "
        "out, plans, looks again under the lock, checks keys, reads back what it wrote and stores "
        "the undo record. Its seconds are those of the command less the start of Python; "
        "`processor` compares the seconds of processor time, which other work on the machine does "
        "not lengthen, and the aim is for the worse of the two. `locked` is for how long other "
        "writers wait."
    )
    columns = ["rows", "plain INSERT … SELECT", "pitr merge", "times", "processor", "locked"]
    return Result([Table("Rows brought back", columns, rows, note)], aims)


@dataclass(frozen=True, slots=True, order=True)
class Spent:
    """Seconds that passed, and seconds that a processor worked."""

    wall: float
    processor: float

    @classmethod
    def median(cls, rounds: Sequence[Spent]) -> Spent:
        """Return the medians of several rounds."""
        return cls(median(r.wall for r in rounds), median(r.processor for r in rounds))

    def less(self, start: Spent) -> Spent:
        """Return what is left beyond the start of a command."""
        return Spent(self.wall - start.wall, self.processor - start.processor)


def _measure(lost: int) -> tuple[Spent, Spent, float]:
    """Return the medians of the plain statement, of a merge, and of the seconds of its lock."""
    folder = CACHE / "merge"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    live = folder / "shop.db"
    _make(live, lost + max(1000, lost // 5))
    archive_of(folder)
    pitr(folder, "restore", "-t", "orders", "--at", "latest", "--to", "side.db", "--no-compare")
    with closing(sqlite3.connect(live)) as database, database:
        database.execute("DELETE FROM orders WHERE id <= ?", (lost,))
    start = Spent.median([_command(folder, "recoveries")[0] for _ in range(_ROUNDS)])
    plain: list[Spent] = []
    whole: list[Spent] = []
    locked: list[float] = []
    for round_number in range(_ROUNDS):
        say(f"merge of {lost:,} rows, round {round_number + 1}")
        plain.append(_plain(folder, lost))
        spent, outcome = _command(folder, "merge", "--yes")
        assert outcome["inserted"] == lost, outcome
        whole.append(spent.less(start))
        locked.append(outcome["locked_seconds"])
        pitr(folder, "undo", str(outcome["merge"]), "--yes")
    return Spent.median(plain), Spent.median(whole), median(locked)


def _command(folder: Path, *words: str) -> tuple[Spent, dict[str, Any]]:
    began = _children_seconds()
    wall, outcome = pitr(folder, *words)
    return Spent(wall, _children_seconds() - began), outcome


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _make(path: Path, rows: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SCHEMA)
        names = ((f"Customer {number}",) for number in range(500))
        database.executemany("INSERT INTO customers (name) VALUES (?)", names)
        database.execute(_FILL, (rows,))
        database.commit()


def _plain(folder: Path, lost: int) -> Spent:
    """Time the plain statement on a copy of the database."""
    copy = folder / "plain.db"
    for suffix in ("", "-wal"):
        if Path(f"{folder / 'shop.db'}{suffix}").exists():
            shutil.copyfile(f"{folder / 'shop.db'}{suffix}", f"{copy}{suffix}")
    with closing(sqlite3.connect(copy)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("ATTACH ? AS side", (str(folder / "side.db"),))
        began, worked = time.perf_counter(), time.process_time()
        database.execute(_PLAIN, (lost,))
        database.commit()
        return Spent(time.perf_counter() - began, time.process_time() - worked)
