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
from pitr.sqlite.history import HistoryPages, PageArchive
from pitr.sqlite.replay import open_past
from pitr.sqlite.scans import announce_scans

_ROUNDS = 7
_SCAN = "SELECT count(*), sum(length(note)) FROM orders"
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
        Aim(f"full scan of the table in {size.name}: past / native", ratio, 2),
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
    say("full scans")
    native, past = [], []
    for _ in range(_ROUNDS):
        native.append(_native_seconds(folder / "shop.db"))
        past.append(_past_seconds(archive))
    ratio = median(past) / median(native)
    rows = [
        ["native", seconds_text(median(native)), times(1)],
        ["past, through the archive", seconds_text(median(past)), times(ratio)],
    ]
    return Table("Full scan of the table", ["how", "time", "to native"], rows), ratio


def _native_seconds(path: Path) -> float:
    with closing(sqlite3.connect(path)) as database:
        return seconds_of(lambda: database.execute(_SCAN).fetchall())


def _past_seconds(archive: Path) -> float:
    log = PageArchive(LocalStore(archive))
    with open_past(log.at(log.last_commit().number)) as past:
        return seconds_of(lambda: _scan(past))


def _scan(past: apsw.Connection) -> None:
    announce_scans(past, _SCAN)
    past.execute(_SCAN).fetchall()
