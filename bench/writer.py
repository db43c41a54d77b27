"""The application: commits small transactions to a database, and says how long each commit took.

    python -m bench.writer FILE SECONDS RATE [COMMITS]

RATE is in commits a second, 0 for as fast as it goes. Ends after SECONDS or COMMITS. A transaction
inserts one order and updates another one, anywhere in the table: it changes two or three pages.
Prints one JSON document.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from pathlib import Path

_BUSY_SECONDS = 30


def main(path: str, seconds: float, rate: float, commits_max: int) -> None:
    """Write for a while and print what it was like."""
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    database.execute("PRAGMA synchronous = NORMAL")
    began = time.perf_counter()
    ordered = sorted(write(database, seconds, rate, commits_max))
    took_seconds = time.perf_counter() - began
    wal_bytes = Path(f"{path}-wal").stat().st_size  # the last one who closes removes it
    database.close()
    report = {
        "commits": len(ordered),
        "commits_per_second": len(ordered) / took_seconds,
        "p50_us": ordered[len(ordered) // 2],
        "p99_us": ordered[len(ordered) * 99 // 100],
        "max_us": ordered[-1],
        "wal_bytes": wal_bytes,
    }
    print(json.dumps(report))


def write(
    database: sqlite3.Connection, seconds: float, rate: float, commits_max: int
) -> list[float]:
    """Commit until the time is over; return what each transaction took, in µs."""
    rng = random.Random(1)
    rows = database.execute("SELECT max(id) FROM orders").fetchone()[0]
    latencies_us: list[float] = []
    begin = time.perf_counter()
    while len(latencies_us) < commits_max:
        due = begin + len(latencies_us) / rate if rate else 0.0
        pause = due - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        began = time.perf_counter()
        if began - begin > seconds:
            break
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "INSERT INTO orders(customer, item, note, cents) VALUES(?, 'item', ?, ?)",
            (rng.randrange(50_000), f"written at {began:.6f}", rng.randrange(100_000)),
        )
        database.execute(
            "UPDATE orders SET cents = cents + 1 WHERE id = ?", (rng.randrange(1, rows),)
        )
        database.execute("COMMIT")
        latencies_us.append((time.perf_counter() - began) * 1e6)
    return latencies_us


if __name__ == "__main__":
    main(
        sys.argv[1],
        float(sys.argv[2]),
        float(sys.argv[3]),
        int(sys.argv[4]) if len(sys.argv) > 4 else sys.maxsize,
    )
