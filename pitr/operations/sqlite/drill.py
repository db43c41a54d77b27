"""verify --drill on SQLite: sidecars against the whole database then, and against live."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pitr.config import Settings
from pitr.errors import ArchiveLacks, Corrupt, UsageError
from pitr.operations.drill import (
    SAMPLE_TABLES,
    DrilledTable,
    DrillOutcome,
    DrillWish,
    rotated,
)
from pitr.operations.restore import RestoreRequest
from pitr.operations.sqlite.reading import Reading, open_reading
from pitr.operations.sqlite.restore import make_recovery
from pitr.recovery.folder import Recovery, drop_recovery
from pitr.sqlite.capture.live import is_current
from pitr.sqlite.diff.compare import Comparison, compare_with_live, compare_with_past
from pitr.sqlite.file.pages import PageSource
from pitr.sqlite.past.replay import connect, open_past
from pitr.sqlite.past.sidecar import open_sidecar
from pitr.sqlite.past.tables import find_tables
from pitr.sqlite.past.target import ResolvedCommit
from pitr.sqlite.statement.faults import sqlite_faults
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import CommitNumber

# A verdict on a table; anything else keeps from trying at all.
_VERDICTS = (Corrupt, ArchiveLacks)
_ATTEMPTS = 20
_LIVE_ATTEMPTS = 3
_FAULTS_SHOWN = 3


def drill(settings: Settings, wish: DrillWish, on_event: OnEvent) -> DrillOutcome:
    """Restore tables into sidecars of their own, compare them, and remove the sidecars."""
    reading = open_reading(settings)
    found = _moment(reading, random.Random(wish.seed))
    position = found.target.position
    on_event(Event(Level.INFO, f"drill: target {position}, seed {wish.seed}"))
    private = replace(settings, state=settings.state / "drill")
    names = list(wish.tables)
    if not names:
        names = rotated(_tables(reading.pages.at(found.record.number)), wish.after)[:SAMPLE_TABLES]
    verdicts: list[DrilledTable] = []
    source = reading.pages.at(found.record.number)
    with _whole(private, source, wish, on_event) as (whole, fault):
        for name in names:
            verdict = _against_whole(private, reading, found, name, source, whole)
            if fault is not None and verdict.equal:
                verdict = replace(verdict, equal=False, detail=fault)
            verdicts.append(verdict)
    for name in names:
        verdicts += _against_live(private, settings, name, on_event)
    return DrillOutcome(wish.seed, tuple(verdicts))


def _moment(reading: Reading, chance: random.Random) -> ResolvedCommit:
    """Choose a commit that is a target. Raises OutsideWindow when nothing is archived."""
    reading.pages.last_commit()
    catalog = reading.pages.catalog
    for _ in range(_ATTEMPTS):
        number = chance.randint(catalog.first_commit, catalog.last_commit)
        with suppress(ArchiveLacks):  # inside a gap, or folded into a later one
            return reading.resolve(str(CommitNumber(number)))
    return reading.resolve("latest")


def _tables(source: PageSource) -> list[str]:
    """Return the tables of a past state that can be restored by themselves."""
    names = []
    with open_past(source) as past:
        listed = past.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%'"
            " ESCAPE '\\'"
        ).fetchall()
        for name in (str(row[0]) for row in listed):
            with suppress(UsageError):
                find_tables(past, [name], explain_absence=lambda _: None)
                names.append(name)
    return names


def _against_whole(
    private: Settings,
    reading: Reading,
    found: ResolvedCommit,
    name: str,
    source: PageSource,
    whole: Path | None,
) -> DrilledTable:
    """Restore a table, and compare it with the whole database of the same commit."""

    def compare(sidecar: Path, table: str) -> Comparison:
        if whole is not None:
            return compare_with_live(whole, sidecar, table)
        with open_past(source) as past:
            return compare_with_past(past, sidecar, table)

    method = "past" if whole is None else "whole"
    with _restored(private, reading, found, name, method) as (recovery, verdict):
        if recovery is None:
            return verdict
        [table] = recovery.tables
        return _judged(verdict, compare(Path(recovery.sidecar), table.table))


def _against_live(
    private: Settings, settings: Settings, name: str, on_event: OnEvent
) -> Iterator[DrilledTable]:
    """Restore a table as of the last commit, and compare it with live, if that is there still."""
    for _ in range(_LIVE_ATTEMPTS):
        reading = open_reading(settings)
        if reading.live is None or not reading.is_current():
            continue
        found = reading.resolve("latest")
        proven_us = reading.lease.current_until_us if reading.lease else 0
        try:
            with _restored(private, reading, found, name, "live") as (recovery, verdict):
                if recovery is None:
                    yield verdict
                    return
                [table] = recovery.tables
                compared = compare_with_live(reading.live, Path(recovery.sidecar), table.table)
        except UsageError:
            return  # the table is no more
        # Commits never come back: what is current before and after was so in between.
        if compared.differs is not None and is_current(
            reading.live, found.record, proven_us=proven_us
        ):
            yield _judged(verdict, compared)
            return
    on_event(
        Event(Level.INFO, f"{name}: not compared with live, which is not as archived right now")
    )


@contextmanager
def _restored(
    private: Settings, reading: Reading, found: ResolvedCommit, name: str, method: str
) -> Iterator[tuple[Recovery | None, DrilledTable]]:
    """Restore a table for the block; without a recovery the verdict says what kept it from it."""
    began = time.monotonic()
    request = RestoreRequest(tables=[name], target=found.target.position, compare=False)
    blank = DrilledTable(
        table=name,
        target=found.target.position,
        rows=None,
        seconds=None,
        equal=False,
        method=method,
    )
    try:
        recovery = make_recovery(private, reading, found, None, request, kind="drill").recovery
    except _VERDICTS as error:
        yield None, replace(blank, detail=error.sentence)
        return
    try:
        [table] = recovery.tables
        with closing(open_sidecar(Path(recovery.sidecar))) as sidecar:
            sidecar.execute(f"SELECT * FROM {quoted(table.table)} LIMIT 1").fetchall()
        seconds = round(time.monotonic() - began, 3)
        yield recovery, replace(blank, table=table.table, rows=table.rows, seconds=seconds)
    finally:
        drop_recovery(private.state, recovery.id)


def _judged(verdict: DrilledTable, compared: Comparison) -> DrilledTable:
    counts = (compared.missing_in_live, compared.differs, compared.extra_in_live)
    if None in counts:
        return replace(verdict, detail="; ".join(compared.warnings) or "It was not compared.")
    if any(counts):
        missing, differs, extra = counts
        detail = f"it differs: {missing} rows too many, {differs} with other values, {extra} lack"
        return replace(verdict, detail=detail)
    return replace(verdict, equal=True)


@contextmanager
def _whole(
    private: Settings, source: PageSource, wish: DrillWish, on_event: OnEvent
) -> Iterator[tuple[Path | None, str | None]]:
    """Write all pages of a commit into a file for the block; yield it, and what SQLite says of it.

    Yields no file where it would not fit: then the past itself is compared with.
    """
    size = source.page_size * source.page_count
    private.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    limit = wish.whole_bytes_max
    if (limit is not None and size > limit) or size > shutil.disk_usage(private.state).free * 0.9:
        on_event(Event(Level.INFO, f"drill: the whole database does not fit, {size} bytes"))
        yield None, None
        return
    path = private.state / "whole.db"
    try:
        with path.open("wb") as file:
            for number in range(1, source.page_count + 1):
                file.write(source.page(number))
        yield path, _integrity_fault(path)
    except _VERDICTS as error:
        yield None, f"the whole database cannot be read: {error.sentence}"
    finally:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _integrity_fault(path: Path) -> str | None:
    """Return what SQLite's own check says is wrong, None when nothing is."""
    with sqlite_faults("the whole database cannot be checked"):
        database = connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", writable_others=False)
        try:
            lines = [str(row[0]) for row in database.execute("PRAGMA integrity_check")]
        except UsageError:  # an index is ordered by a collation that only the application knows
            lines = [str(row[0]) for row in database.execute("PRAGMA quick_check")]
        finally:
            database.close(True)
    shown = "; ".join(lines[:_FAULTS_SHOWN])
    return None if lines == ["ok"] else f"SQLite's integrity check of the whole database: {shown}"
