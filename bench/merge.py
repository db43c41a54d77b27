"""Lost rows brought back by `pitr merge`, beside the statement a person would write for it."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from statistics import median

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
        rows.append(
            [f"{lost:,}", seconds_text(plain), seconds_text(whole), times(whole / plain),
             seconds_text(locked)]
        )  # fmt: skip
        if lost >= _ROWS_OF_AIM:
            what = f"merge of {lost:,} rows to plain INSERT … SELECT"
            aims.append(Aim(what, whole / plain, _TIMES_MAX))
    note = (
        "Both write the same rows into the same table, with an index, a CHECK and a foreign key, "
        "under synchronous = FULL. The plain statement is told which rows are missing; merge finds "
        "out, plans, looks again under the lock, checks keys, reads back what it wrote and stores "
        "the undo record. Its seconds are those of the command less the start of Python; `locked` "
        "is for how long other writers wait."
    )
    columns = ["rows", "plain INSERT … SELECT", "pitr merge", "times", "locked"]
    return Result([Table("Rows brought back", columns, rows, note)], aims)


def _measure(lost: int) -> tuple[float, float, float]:
    """Return the median seconds of the plain statement, of a merge, and of its lock."""
    folder = CACHE / "merge"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    live = folder / "shop.db"
    _make(live, lost + max(1000, lost // 5))
    archive_of(folder)
    pitr(folder, "restore", "-t", "orders", "--at", "latest", "--to", "side.db", "--no-compare")
    with closing(sqlite3.connect(live)) as database, database:
        database.execute("DELETE FROM orders WHERE id <= ?", (lost,))
    start, _ = pitr(folder, "recoveries")
    plain, whole, locked = [], [], []
    for round_number in range(_ROUNDS):
        say(f"merge of {lost:,} rows, round {round_number + 1}")
        plain.append(_plain(folder, lost))
        seconds, outcome = pitr(folder, "merge", "--yes")
        assert outcome["inserted"] == lost, outcome
        whole.append(seconds - start)
        locked.append(outcome["locked_seconds"])
        pitr(folder, "undo", str(outcome["merge"]), "--yes")
    return median(plain), median(whole), median(locked)


def _make(path: Path, rows: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SCHEMA)
        names = ((f"Customer {number}",) for number in range(500))
        database.executemany("INSERT INTO customers (name) VALUES (?)", names)
        database.execute(_FILL, (rows,))
        database.commit()


def _plain(folder: Path, lost: int) -> float:
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
        began = time.perf_counter()
        database.execute(_PLAIN, (lost,))
        database.commit()
        return time.perf_counter() - began
