"""log and when over ten thousand commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from bench.report import Result, Table, seconds_text
from bench.world import (
    Size,
    archive_of,
    capturing,
    folder_bytes,
    folder_with_copy,
    pitr,
    say,
    write,
)

_COMMITS = 10_000
_PACE = 2_000  # commits a second: so that each is archived by itself
_ROUNDS = 3


def run(size: Size) -> Result:
    """Measure questions to a history in whose middle one row was deleted."""
    folder = folder_with_copy("history", size)
    path = folder / "shop.db"
    archive = archive_of(folder)
    before = folder_bytes(archive)
    with capturing(folder):
        write(path, 600, _PACE, _COMMITS // 2)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("DELETE FROM orders WHERE id = 42")
        write(path, 600, _PACE, _COMMITS // 2 - 1)
    grown = folder_bytes(archive) - before
    questions = [
        ("log, every transaction", ("log",)),
        ("log -t orders --limit 20", ("log", "-t", "orders", "--limit", "20")),
        ("when -t orders --gone 'id = 42'", ("when", "-t", "orders", "--gone", "id = 42")),
    ]
    rows = [_row(folder, name, arguments) for name, arguments in questions]
    note = (
        f"{_COMMITS:,} commits of two or three pages each took {grown / _COMMITS:,.0f} bytes a "
        f"commit in the archive; a row was deleted in the middle of them. Database of {size.name}."
    )
    title = f"Asking {_COMMITS:,} commits"
    return Result([Table(title, ["question", "transactions shown", "time"], rows, note)])


def _row(folder: Path, name: str, arguments: Sequence[str]) -> list[str]:
    say(name)
    answers = [pitr(folder, *arguments) for _ in range(_ROUNDS)]
    found = answers[0][1]
    shown = (
        len(found["transactions"]) if "transactions" in found else int(bool(found["transaction"]))
    )
    return [name, f"{shown:,}", seconds_text(median(seconds for seconds, _ in answers))]
