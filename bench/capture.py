"""What capture costs the application: the same writer without it, with it, and beside a peer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from subprocess import Popen

from bench import peer
from bench.report import Aim, Bar, Result, Table, bytes_text, times
from bench.world import (
    Size,
    archive_of,
    capturing,
    cpu_seconds,
    folder_bytes,
    folder_with_copy,
    say,
    write,
)
from pitr.archive.local import LocalStore
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord

_ROUNDS = 3
_PACED = 500  # commits a second
_SECONDS = {_PACED: 10.0, 0: 5.0}


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the writer, and what stood beside it."""

    commits: float
    per_second: float
    p50_us: float
    p99_us: float
    max_us: float
    cpu: float  # of one core, by the process beside; 0 when there is none
    wal_bytes: float  # the size to which the WAL file has grown
    stored_bytes: float  # once the process beside has ended


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to run the writer: in which folder, beside what, which stores into which folder."""

    name: str
    folder: Path
    beside: Callable[[Path], AbstractContextManager[Popen[bytes] | None]]
    store: Path | None


def run(size: Size) -> Result:
    """Measure the writer at a fixed pace and at full speed, in rounds that alternate the ways."""
    ways = _ways(size)
    found = {rate: _medians(ways, rate) for rate in (_PACED, 0)}
    singly, folded = _archived(ways[1].folder / "archive")
    paced, full = found[_PACED], found[0]
    note = (
        f"Of the commits of both tables {singly:,} can be gone back to one by one; {folded:,} came "
        "faster than one core archives them, and were folded."
    )
    tables = [
        _table(f"Writer at {_PACED} commits/s", paced, ""),
        _table("Writer at full speed", full, note),
    ]
    off, on, other = (full[way.name].per_second for way in ways)
    aims = [
        Aim(
            f"writer at {_PACED} commits/s: throughput lost to capture, %",
            max(0.0, 100 * (1 - paced["pitr"].per_second / paced["alone"].per_second)),
            3,
        ),
        Aim("writer at full speed: throughput with capture / without", on / off, 0.8, False),
    ]
    figure = "Writer at full speed, commits/s of what it does alone"
    bars = [Bar(figure, "with pitr capture", on / off), Bar(figure, "with litestream", other / off)]
    return Result(tables, aims, bars)


def _ways(size: Size) -> list[_Way]:
    folders = [folder_with_copy(f"capture-{name}", size) for name in ("alone", "pitr", "peer")]
    archive = archive_of(folders[1])
    return [
        _Way("alone", folders[0], _nothing, None),
        _Way("pitr", folders[1], capturing, archive),
        _Way("litestream", folders[2], peer.replicating, folders[2] / "replica"),
    ]


@contextmanager
def _nothing(_folder: Path) -> Iterator[None]:
    yield None


def _medians(ways: list[_Way], rate: int) -> dict[str, _Run]:
    runs: dict[str, list[_Run]] = {way.name: [] for way in ways}
    for round_ in range(_ROUNDS):
        for way in ways:
            say(f"writer at {rate or 'full'} speed, {way.name}, round {round_ + 1}")
            runs[way.name].append(_measure(way, rate))
    return {
        name: _Run(*(median(getattr(run_, field) for run_ in found) for field in _Run.__slots__))
        for name, found in runs.items()
    }


def _measure(way: _Way, rate: int) -> _Run:
    path, seconds = way.folder / "shop.db", _SECONDS[rate]
    _empty_wal(path)
    stored = folder_bytes(way.store) if way.store else 0
    with way.beside(way.folder) as process:
        used = cpu_seconds(process.pid) if process else 0.0
        report = write(path, seconds, rate)
        used = cpu_seconds(process.pid) - used if process else 0.0
    stored = folder_bytes(way.store) - stored if way.store else 0
    return _Run(
        report["commits"],
        report["commits_per_second"],
        report["p50_us"],
        report["p99_us"],
        report["max_us"],
        used / seconds,
        report["wal_bytes"],
        stored,
    )


def _empty_wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _table(title: str, runs: dict[str, _Run], note: str) -> Table:
    alone = runs["alone"]
    rows = [
        [
            name,
            f"{run_.per_second:,.0f}",
            times(run_.per_second / alone.per_second),
            f"{run_.p50_us:.0f} µs",
            times(run_.p50_us / alone.p50_us),
            f"{run_.p99_us:.0f} µs",
            f"{run_.max_us / 1000:.0f} ms",
            f"{run_.cpu:.1%}" if run_.cpu else "",
            bytes_text(run_.wal_bytes),
            f"{bytes_text(run_.stored_bytes / run_.commits)}" if run_.stored_bytes else "",
        ]
        for name, run_ in runs.items()
    ]
    columns = "beside it|commits/s|to alone|p50|to alone|p99|longest|its CPU|WAL file|stored/commit"
    return Table(title, columns.split("|"), rows, note)


def _archived(archive: Path) -> tuple[int, int]:
    """Return how many commits can be gone back to one by one, and how many were folded."""
    records = PageArchive(LocalStore(archive)).commits()
    folded = sum(record.number - record.first_covered + 1 for record in _merged(records))
    return sum(record.kind is CommitKind.COMMIT for record in records), folded


def _merged(records: list[CommitRecord]) -> list[CommitRecord]:
    return [record for record in records if record.kind is CommitKind.MERGED]
