"""What differs between a recovery and live: 100 damaged rows of a large table, and all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw

from bench.report import Aim, Result, Table, bytes_text, seconds_text, times
from bench.world import (
    ROOT,
    Size,
    archive_of,
    capturing,
    folder_with_copy,
    median_seconds,
    pitr,
    say,
)

_ROUNDS = 5
_DAMAGED = 100
_COLUMNS = ("customer", "item", "note", "cents")
_DAMAGE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(sys.argv[2])
"""
# One `open_diff` with every row read, in a process of its own: for its time and its memory.
_ENGINE = """
import json, resource, sys, time
from pathlib import Path
from pitr.archive.local import LocalStore
from pitr.sqlite.diff.candidates import Limits
from pitr.sqlite.diff.classified import classify, let_go_of_live, stream_rows
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.diff.states import StateSources, open_states

folder, sidecar, after, whole = sys.argv[1:]
limits = Limits(sidecar_bytes_min=1 << 60) if whole == "whole" else Limits()

def compare():
    began = time.perf_counter()
    sources = StateSources(
        live=Path(folder) / "shop.db",
        sidecar=Path(sidecar),
        tables=("orders",),
        before_commit=1,
        after_commit=int(after) or None,
        archive=PageArchive(LocalStore(Path(folder) / "archive")),
    )
    with open_states(sources) as states:
        (table,) = classify(states, limits)
        let_go_of_live(states, [table])
        rows = sum(1 for _ in stream_rows(states, table))
    return time.perf_counter() - began, rows, table.narrowed

compare()
seconds, rows, narrowed = sorted(compare() for _ in range(5))[2]
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps([seconds, rows, narrowed, memory]))
"""


def run(size: Size) -> Result:
    """Measure diffs of the table `orders` beside a live capture."""
    folder = folder_with_copy("diff", size)
    archive_of(folder)
    with capturing(folder):
        _, before = pitr(folder, "restore", "-t", "orders", "--at", "latest", "--no-compare")
        sidecar = Path(before["sidecar"])
        rows = before["tables"][0]["rows"]
        step = rows // _DAMAGED
        _damage(folder, f"UPDATE orders SET cents = cents + 1 WHERE id % {step} = 3")
        after = _newest(folder)
        few = _measure(folder, sidecar, after)
        native = median_seconds(lambda: _two_way(folder / "shop.db", sidecar), _ROUNDS)
        _damage(folder, "UPDATE orders SET cents = cents + 1 WHERE id % 2")
        say("diff of half of all rows")
        many = _engine(folder, sidecar, 0, "narrow")
    table = _table(size, rows, few, native)
    aim = Aim(
        f"diff of {_DAMAGED} rows of {rows} / full two-way diff in SQL", few[0][1] / native, 0.1
    )
    memory = Table(
        f"Memory of a diff of {size.name}",
        ["rows that differ", "time", "memory"],
        [[f"{many[1]}", seconds_text(many[0]), bytes_text(many[3])]],
        "Every row is read with its images before, after and live. Python alone has 20 MB.",
    )
    return Result([table, memory], [aim])


Found = tuple[float, int, bool, int]


def _measure(folder: Path, sidecar: Path, after: int) -> list[tuple[str, float]]:
    """Return (way, seconds) of each way in which pitr compares."""
    found = []
    for name, known, way in (
        ("after unknown, by pages", 0, "narrow"),
        ("after known, by pages", after, "narrow"),
        ("after unknown, whole tables", 0, "whole"),
        ("after known, whole tables", after, "whole"),
    ):
        say(f"diff, {name}")
        seconds, rows, narrowed, _ = _engine(folder, sidecar, known, way)
        if narrowed is not (way == "narrow") or not _DAMAGED <= rows <= _DAMAGED + 1:
            raise RuntimeError(f"{name}: {rows} rows, narrowed {narrowed}")
        found.append((name, seconds))
    command = median_seconds(lambda: pitr(folder, "diff"), _ROUNDS)
    return [*found, ("the command pitr diff", command)]


def _engine(folder: Path, sidecar: Path, after: int, way: str) -> Found:
    command = [sys.executable, "-c", _ENGINE, str(folder), str(sidecar), str(after), way]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    seconds, rows, narrowed, memory = json.loads(done.stdout)
    return seconds, rows, narrowed, memory


def _damage(folder: Path, statement: str) -> None:
    subprocess.run([sys.executable, "-c", _DAMAGE, str(folder / "shop.db"), statement], check=True)
    while pitr(folder, "status")[1]["lag_seconds"]:
        pass


def _newest(folder: Path) -> int:
    _, log = pitr(folder, "log", "-t", "orders", "--limit", "1")
    return int(log["transactions"][0]["position"].partition(":")[2])


def _two_way(live: Path, sidecar: Path) -> None:
    """Find what is missing, extra and different in value or type, with two files and SQL alone."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    with closing(apsw.Connection(f"{live.as_uri()}?mode=ro", flags=flags)) as database:
        database.execute("ATTACH ? AS past", (f"{sidecar.as_uri()}?mode=ro",))
        differs = " OR ".join(
            f"p.{name} IS NOT l.{name} OR typeof(p.{name}) <> typeof(l.{name})" for name in _COLUMNS
        )
        database.execute(
            f"SELECT p.id FROM past.orders p LEFT JOIN main.orders l USING (id)"
            f" WHERE l.id IS NULL OR {differs}"
            " UNION ALL SELECT l.id FROM main.orders l LEFT JOIN past.orders p USING (id)"
            " WHERE p.id IS NULL"
        ).fetchall()


def _table(size: Size, rows: int, few: list[tuple[str, float]], native: float) -> Table:
    ways: list[tuple[str, float]] = [*few, ("full two-way diff in SQL", native)]
    lines = [[name, seconds_text(seconds), times(seconds / native)] for name, seconds in ways]
    note = (
        f"The table has {rows} rows. A capture runs; the first four rows are the engine alone, the "
        "command has the start of Python in it and prints its rows as JSON."
    )
    title = f"{_DAMAGED} damaged rows of a file of {size.name}"
    return Table(title, ["way", "time", "to SQL"], lines, note)
