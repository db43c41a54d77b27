"""Reading the past in place: a few rows, one row, and all rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import median

import apsw

from bench.report import Aim, Bar, Result, Table, bytes_text, seconds_text, times
from bench.world import (
    Size,
    archive_of,
    capturing,
    folder_with_copy,
    pitr,
    say,
    seconds_of,
    write,
)
from pitr.archive.local import LocalStore
from pitr.sqlite.pagelog.history import HistoryPages, PageArchive
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.scans import announce_scans

_ROUNDS = 7
# Every column of every row; and as little as can be done with a row once its page is there.
_SCANS = {
    "every column": "SELECT count(*), sum(customer), sum(length(item)), sum(length(note)), "
    "sum(cents) FROM orders",
    "the last column": "SELECT count(*), sum(cents) FROM orders",
}
_RANGE = "SELECT * FROM orders WHERE id BETWEEN 50001 AND 50100"
_ROW = "SELECT * FROM orders WHERE id = 50001"


def run(size: Size) -> Result:
    """Measure reads of the state after the base and some seconds of live commits."""
    folder = folder_with_copy("reading", size)
    archive = archive_of(folder)
    with capturing(folder):
        write(folder / "shop.db", 4, 500)
    selective, pages = _selective(folder, archive)
    scan, ratio = _scans(folder, archive)
    aims = [
        Aim("100 rows by primary key: pages read", pages, 10),
        Aim(f"full scan of a table in {size.name}, every column: past / native", ratio, 2),
    ]
    figure = "Full scan of the table, times native"
    bars = [Bar(figure, f"through the archive, {size.name}", ratio)]
    return Result([selective, scan], aims, bars)


class _Counting:
    """The pages of a past state, and how many of them were asked for."""

    def __init__(self, source: HistoryPages) -> None:
        self._source = source
        self.pages: set[int] = set()
        self.page_size, self.page_count = source.page_size, source.page_count
        self.prefetch = source.prefetch

    def page(self, page_number: int) -> bytes:
        """Return a page."""
        self.pages.add(page_number)
        return self._source.page(page_number)


def _selective(folder: Path, archive: Path) -> tuple[Table, int]:
    rows, most = [], 0
    for name, statement in (("100 rows by primary key", _RANGE), ("one row", _ROW)):
        say(f"reads {name}")
        log = PageArchive(LocalStore(archive))
        source = _Counting(log.at(log.last_commit().number))
        with open_past(source) as past:
            past.execute(statement).fetchall()
        seconds = median(
            pitr(folder, "sql", "--at", "latest", statement)[0] for _ in range(_ROUNDS)
        )
        most = max(most, len(source.pages))
        rows.append(
            [name, f"{len(source.pages)}", bytes_text(log.bytes_read), seconds_text(seconds)]
        )
    columns = ["what", "pages read", "bytes read", "pitr sql --at"]
    note = "Bytes read include indexes and page map; seconds the start of Python."
    return Table("A few rows of the past", columns, rows, note), most


def _scans(folder: Path, archive: Path) -> tuple[Table, float]:
    rows, ratios = [], []
    for name, statement in _SCANS.items():
        say(f"full scan, {name}")
        native, past = [], []
        for _ in range(_ROUNDS):
            native.append(_native_seconds(folder / "shop.db", statement))
            past.append(_past_seconds(archive, statement))
        ratios.append(median(past) / median(native))
        seconds = [seconds_text(median(found)) for found in (native, past)]
        rows.append([name, *seconds, times(ratios[-1])])
    note = "One core reads and runs the query, a second one decompresses ahead of it."
    columns = ["what is read", "native", "past, through the archive", "to native"]
    return Table("Full scan of the table", columns, rows, note), ratios[0]


def _native_seconds(path: Path, statement: str) -> float:
    with closing(sqlite3.connect(path)) as database:
        return seconds_of(lambda: database.execute(statement).fetchall())


def _past_seconds(archive: Path, statement: str) -> float:
    log = PageArchive(LocalStore(archive))
    with open_past(log.at(log.last_commit().number)) as past:
        return seconds_of(lambda: _scan(past, statement))


def _scan(past: apsw.Connection, statement: str) -> None:
    announce_scans(past, statement)
    past.execute(statement).fetchall()
