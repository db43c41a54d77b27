"""verify --drill on PostgreSQL: surgical replay against a full recovery by PostgreSQL itself."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pitr.config import Settings
from pitr.errors import (
    ArchiveLacks,
    Corrupt,
    OutsideWindow,
    SidecarFailed,
    TableUnknown,
)
from pitr.operations.drill import (
    SAMPLE_TABLES,
    DrilledTable,
    DrillOutcome,
    DrillWish,
    rotated,
)
from pitr.operations.postgres.bases import earliest_state, nearest_base
from pitr.operations.postgres.export import ExportWish, export
from pitr.operations.postgres.reading import Reading, open_reading
from pitr.operations.postgres.restore import make_recovery
from pitr.operations.postgres.sidecar import kept_server, new_sidecar
from pitr.operations.restore import RestoreRequest
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.replay.replay import StopPoint
from pitr.postgres.replay.server import (
    RunningServer,
    ServerFolder,
    find_binaries,
    running,
    server_account,
)
from pitr.postgres.replay.whole import Digest, digest_of, faults_of, first_row, recovered_whole
from pitr.postgres.statement.pattern import is_own_schema
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.reading import table_names
from pitr.recovery.folder import drop_recovery, new_recovery
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import Lsn

# A verdict on a table; anything else keeps from trying at all.
_VERDICTS = (Corrupt, ArchiveLacks, SidecarFailed)
_TEMPLATES = ("template0", "template1")
_SPARE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class _Moment:
    """The target: a position right after a commit, and the base that leads to it."""

    base: BaseInfo
    stop: StopPoint

    @property
    def text(self) -> str:
        return f"lsn:{self.stop.lsn}"


@dataclass(frozen=True, slots=True)
class _Restored:
    """What surgical replay brought back of one table, or what kept it from that."""

    table: str
    database: str = ""
    sql: str = ""
    seconds: float | None = None
    digest: Digest | None = None
    faults: tuple[str, ...] = ()
    fault: str | None = None


def drill(settings: Settings, wish: DrillWish, on_event: OnEvent) -> DrillOutcome:
    """Restore tables into sidecars of their own, compare them, and remove the sidecars."""
    reading = open_reading(settings)
    moment = _moment(reading, random.Random(wish.seed))
    on_event(Event(Level.INFO, f"drill: target {moment.text}, seed {wish.seed}"))
    private = replace(settings, state=settings.state / "drill")
    is_whole = _fits(settings, reading, moment, wish)
    wanted = list(wish.tables) or rotated(_tables(reading, moment), wish.after)
    found: list[_Restored] = []
    for name in wanted:
        if not wish.tables and len(found) == SAMPLE_TABLES:
            break
        try:
            found.append(_restored(private, name, moment, with_faults=not is_whole))
        except TableUnknown:
            if wish.tables:
                raise
            continue  # the map does not know the moment: it was born later, or is gone
    verdicts = _whole(private, moment, found, on_event) if is_whole else map(_checked, found)
    return DrillOutcome(
        wish.seed, tuple(replace(verdict, target=moment.text) for verdict in verdicts)
    )


def _moment(reading: Reading, chance: random.Random) -> _Moment:
    """Choose a commit to which a base leads. Raises OutsideWindow when there is none."""
    bases = BaseArchive(reading.store)
    begins = ((stretch, earliest_state(reading, bases, stretch)) for stretch in reading.stretches)
    found = next(((stretch, begin) for stretch, begin in begins if begin is not None), None)
    if found is None:
        raise OutsideWindow(
            "no base backup leads to any target",
            hint="Run 'pitr backup', and 'pitr capture' for the WAL that follows it.",
        )
    stretch, begin = found
    at = Lsn(chance.randint(begin.value, stretch.end.value))
    last = reading.resolver(stretch).last_commit(at)
    lsn = max(begin, Lsn(last.end)) if last is not None else begin
    stop = StopPoint(reading.timeline, lsn)
    return _Moment(nearest_base(reading, bases, stop), stop)


def _tables(reading: Reading, moment: _Moment) -> list[str]:
    """Return the tables of all databases around the moment, by names that a user could type."""
    position = moment.stop.lsn.value
    names = []
    for database in reading.catalog.databases(position):
        if database.name in _TEMPLATES:
            continue
        for item in reading.catalog.relations_at(database.oid, position):
            is_table = item.kind in ("r", "p") and item.persistence == "p"
            if is_table and not item.parent and not is_own_schema(item.schema):
                names.append(".".join(map(quoted, (database.name, item.schema, item.name))))
    return names


def _restored(private: Settings, name: str, moment: _Moment, *, with_faults: bool) -> _Restored:
    """Restore one table, start its sidecar, read it, and remove it again."""
    began = time.monotonic()
    request = RestoreRequest(tables=[name], target=moment.text, compare=False)
    try:
        recovery = make_recovery(private, request, on_target=lambda _: None, kind="drill").recovery
    except _VERDICTS as error:
        return _Restored(name, fault=error.sentence)
    try:
        kept = kept_server(private, recovery)
        [table] = recovery.tables
        with running(kept.server, keep_changes=False) as started:
            sql = _sql_name(started, kept.database, table.table)
            first_row(started, kept.database, sql)
            seconds = round(time.monotonic() - began, 3)
            digest = digest_of(started, kept.database, sql)
            faults = faults_of(started, kept.database, sql) if with_faults else []
        label = f"{kept.database}.{table.table}"
        return _Restored(label, kept.database, sql, seconds, digest, tuple(faults))
    except _VERDICTS as error:
        return _Restored(name, fault=error.sentence)
    finally:
        drop_recovery(private.state, recovery.id)


def _sql_name(started: RunningServer, database: str, full_name: str) -> str:
    with closing(started.connect(database, read_only=True)) as connection:
        found = table_names(connection).get(full_name)
    if found is None:
        raise SidecarFailed(f"the sidecar has no table {full_name}", hint="Report this.")
    return found.sql


def _checked(found: _Restored) -> DrilledTable:
    """Judge a table by itself: amcheck, and each row found by the indexes too."""
    detail = found.fault or "; ".join(found.faults) or None
    return _verdict(found, "amcheck", detail)


def _verdict(found: _Restored, method: str, detail: str | None) -> DrilledTable:
    return DrilledTable(
        table=found.table,
        target="",
        rows=found.digest.rows if found.digest else None,
        seconds=found.seconds,
        equal=detail is None,
        method=method,
        detail=detail,
    )


def _fits(settings: Settings, reading: Reading, moment: _Moment, wish: DrillWish) -> bool:
    """Return whether there is space for the whole cluster, and the user lets it be used."""
    wal_bytes = moment.stop.lsn.value - moment.base.start.value + 2 * reading.wal.segment_bytes
    needed = int((moment.base.raw_bytes + wal_bytes) * (1 + _SPARE_SHARE))
    if wish.whole_bytes_max is not None and needed > wish.whole_bytes_max:
        return False
    place = settings.sidecar_folder or settings.state
    while not place.exists():
        place = place.parent
    return needed < shutil.disk_usage(place).free


def _whole(
    private: Settings, moment: _Moment, restored: list[_Restored], on_event: OnEvent
) -> Iterator[DrilledTable]:
    """Compare the tables with the same cluster, recovered by PostgreSQL itself."""
    wanted = [found for found in restored if found.digest is not None]
    if not wanted:
        yield from (_verdict(found, "whole", found.fault) for found in restored)
        return
    digests: dict[str, Digest] = {}
    fault = None
    try:
        with _recovered(private, moment, wanted[0].database, on_event) as started:
            for found in wanted:
                digests[found.table] = digest_of(started, found.database, found.sql)
    except _VERDICTS as error:
        fault = f"the full recovery to compare with failed: {error.sentence}"
    for found in restored:
        detail = found.fault
        expected = digests.get(found.table)
        if detail is None and expected is None:
            detail = fault
        elif detail is None and expected != found.digest and expected and found.digest:
            detail = f"it differs: {found.digest.rows} rows, and {expected.rows} in a full recovery"
        yield _verdict(found, "whole", detail)


@contextmanager
def _recovered(
    private: Settings, moment: _Moment, database: str, on_event: OnEvent
) -> Iterator[RunningServer]:
    account = server_account(private.sidecar_user)
    binaries = find_binaries(moment.base.major, chosen=private.pg_bindir)
    now = moment.base.time_us
    with new_recovery(private.state, label="whole", now_us=now) as new:
        folder: Path = new_sidecar(private, new, account)
        server = ServerFolder(folder, binaries, account, moment.base.superuser or "postgres")
        wish = ExportWish(
            server.data,
            folder / "tablespaces",
            moment.base.id,
            moment.stop.lsn,
            moment.stop.timeline,
        )
        export(private, wish, on_event)
        with recovered_whole(server, moment.stop.timeline, database) as started:
            yield started
