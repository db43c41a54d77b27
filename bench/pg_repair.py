"""PostgreSQL: lost rows brought back, and what differs, beside what PostgreSQL does by itself.

One server holds the live database and, as a copy of it from before the damage, the sidecar. Time
passed and processor time of client and server are told; on a busy machine the second counts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from psycopg import Connection
from psycopg.rows import TupleRow

from bench.report import Aim, Result, Table, seconds_text, times
from bench.world import Size, say
from pitr.archive.local import LocalStore
from pitr.operations.postgres.merge import Run, run_plan
from pitr.postgres.diff.candidates import Limits
from pitr.postgres.diff.classified import classify
from pitr.postgres.diff.states import PastWal, States, comparing
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.live.connection import connect
from pitr.postgres.live.flushed import flushed_wal
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import PlanRequest
from pitr.postgres.tables.name import TableName
from pitr.postgres.wal_store.folder import WalFolder
from pitr.recovery.folder import RecoveredTable, Recovery, new_recovery
from pitr.vocabulary.plan import MergeOptions
from pitr.vocabulary.position import Lsn
from pitr.vocabulary.row_class import RowClass
from pitr.vocabulary.target import ResolvedTarget
from tools.postgres_servers import Server

_ROUNDS = 3
# Rows that are lost, of so many.
_MERGED = {
    "20MB": ((100_000, 120_000),),
    "200MB": ((100_000, 120_000), (1_000_000, 1_000_000), (1_000_000, 1_200_000)),
}
_COMPARED = {"20MB": (200_000,), "200MB": (1_000_000, 4_000_000), "2GB": (1_000_000, 10_000_000)}
_DAMAGED = 1000
# Finding the blocks takes some 0.3 s whatever the table has: the aim is for large ones.
_AIMED_ROWS = 10_000_000
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTINGS: dict[str, str | int | bool] = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_keep_size": "32GB",  # also what fills a table beside the one that is compared
    "wal_recycle": False,
    "autovacuum": False,
}
_TABLE = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, item text NOT NULL,"
    " cents numeric(10, 2) NOT NULL CHECK (cents > 0), note text, placed timestamptz NOT NULL)",
    "CREATE INDEX orders_by_customer ON orders (customer)",
)
_FILL = (
    "INSERT INTO orders SELECT i, i % 50000 * 7919 % 50000, 'item ' || i % 977,"
    " 1 + i % 90000 / 100.0, repeat('note ' || i % 13 || ' ', 8),"
    " timestamptz '2026-01-01' + i * interval '1 second'"
    " FROM generate_series(1, {rows}) AS i"
)
_TWO_WAY = (
    "SELECT count(*) FROM orders AS l FULL JOIN side.orders AS b USING (id)"
    " WHERE l.id IS NULL OR b.id IS NULL OR NOT pg_catalog.record_image_eq("
    "ROW(l.customer, l.item, l.cents, l.note, l.placed),"
    " ROW(b.customer, b.item, b.cents, b.note, b.placed))"
)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that passed, and seconds of processors: of the server and of this process."""

    wall: float
    processor: float


class Shop:
    """A server with a database `live`, and one `before`, which is a copy of it.

    `others` are servers whose time counts as well.
    """

    def __init__(self, server: Server, rows: int) -> None:
        self.server = server
        self.others: list[Server] = []
        server.query("CREATE DATABASE live")
        for statement in (*_TABLE, _FILL.format(rows=rows), "VACUUM ANALYZE orders"):
            server.query(statement, "live")
        server.query("CREATE DATABASE before TEMPLATE live")

    def spent(self, work: Callable[[], object]) -> Spent:
        """Run some work and return what it took."""
        self.server.query("CHECKPOINT")
        worked, began = self._processor(), time.perf_counter()
        work()
        return Spent(time.perf_counter() - began, self._processor() - worked)

    def _processor(self) -> float:
        """Return the seconds that the server's processes and this one have worked."""
        ticks, servers = 0, {server.pid for server in (self.server, *self.others)}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended; its parent counts it
            if int(stat.parent.name) in servers:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) in servers:
                ticks += sum(map(int, fields[11:13]))
        return ticks / _TICKS + time.process_time()

    @contextmanager
    def states(self) -> Iterator[States]:
        """Open live and before."""
        with ExitStack() as stack:

            def opened(name: str) -> Connection[TupleRow]:
                return stack.enter_context(connect(self.server.url(name)))

            yield States(
                live=opened("live"),
                before=opened("before"),
                tables=(TableName("public", "orders"),),
            )

    def run(self, state: Path, recovery: str) -> Run:
        """Return how a merge is run."""
        classifier = Classifier(MergeOptions())
        return Run(
            state=state,
            recovery=recovery,
            undoes=None,
            is_agreed=True,
            saved=None,
            lock_seconds=10,
            confirm=lambda _plan: None,
            on_step=lambda _step: None,
            reconnect=lambda: connect(self.server.url("live")),
            classify=classifier.classify,
            again=classifier.again,
        )


def run_merge(size: Size) -> Result:
    """Measure merges into tables that have lost all their rows, or all but a sixth."""
    rows, aims = [], []
    for lost, count in _MERGED.get(size.name, _MERGED["200MB"]):
        plain, whole, locked = _merged(lost, count)
        waited, worked = whole.wall / plain.wall, whole.processor / plain.processor
        rows.append(
            [f"{lost:,}", f"{count:,}", seconds_text(plain.wall), seconds_text(whole.wall),
             times(waited), times(worked), seconds_text(locked)]
        )  # fmt: skip
        what = f"PostgreSQL: merge of {lost:,} rows of {count:,} to COPY"
        aims.append(Aim(what, max(waited, worked), 2))
    note = (
        "COPY writes the same rows, from a file, into an empty copy of the table with the same "
        "indexes and CHECK; it is told what to write and checks nothing more. merge compares, "
        "plans, looks again, writes, reads back and stores the undo record. "
        "`processor` compares processor time of client and servers; the aim is for the worse."
    )
    columns = ["lost", "of", "COPY", "pitr merge", "times", "processor", "locked"]
    return Result([Table("Rows brought back on PostgreSQL", columns, rows, note)], aims)


def _merged(lost: int, count: int) -> tuple[Spent, Spent, float]:
    say(f"merge of {lost:,} rows of {count:,} on PostgreSQL")
    plain: list[Spent] = []
    whole: list[Spent] = []
    locked: list[float] = []
    state = Path(tempfile.mkdtemp(prefix="pitr-bench-"))
    try:
        with Server(15, settings=_SETTINGS) as server:
            shop = Shop(server, count)
            file = server.folder / "rows"
            server.query(f"COPY (SELECT * FROM orders WHERE id <= {lost}) TO '{file}'", "live")
            recovery = _recovery(state, server.url("live"))
            for _ in range(_ROUNDS):
                # Anew each time: a table that was emptied and filled again is another one.
                server.query("DROP DATABASE live")
                server.query("CREATE DATABASE live TEMPLATE before")
                _damage(server, lost)
                server.query("CREATE TABLE plain (LIKE orders INCLUDING ALL)", "live")
                plain.append(shop.spent(lambda: server.query(f"COPY plain FROM '{file}'", "live")))
                whole.append(shop.spent(lambda: locked.append(_merge(shop, state, recovery, lost))))
    finally:
        shutil.rmtree(state)
    return _median(plain), _median(whole), median(locked)


def _recovery(state: Path, place: str) -> str:
    """Make the folder of a recovery, as `restore` does; return its id."""
    with new_recovery(state, label="bench", now_us=1) as new:
        recovery = Recovery(
            id=new.id,
            engine="postgres",
            source=place,
            archive="none",
            created_us=1,
            target="then",
            resolved=ResolvedTarget(None, "lsn:0/1", None, None),
            sidecar="none",
            tables=(RecoveredTable("public.orders", 0),),
            where=None,
            seconds=0.0,
            bytes_read=0,
        )
        new.finish(recovery)
    return new.id


def _damage(server: Server, lost: int) -> None:
    server.query(f"DELETE FROM orders WHERE id <= {lost}", "live")
    server.query("VACUUM ANALYZE orders", "live")


def _merge(shop: Shop, state: Path, recovery: str, lost: int) -> float:
    """Bring the rows back; return for how long they were locked."""
    request = PlanRequest(
        recovery=recovery,
        source=shop.server.url("live"),
        target="then",
        options=MergeOptions(),
        is_described=False,
    )
    with shop.states() as states:
        found = run_plan(states, request, shop.run(state, recovery))
    if found.inserted != lost:
        raise RuntimeError(f"{found.inserted} of {lost} rows")
    return found.locked_seconds


def _median(rounds: list[Spent]) -> Spent:
    return Spent(median(r.wall for r in rounds), median(r.processor for r in rounds))


def run_diff(size: Size) -> Result:
    """Measure diffs of tables in which a thousand rows are damaged, all over the table."""
    rows, aims = [], []
    for count in _COMPARED.get(size.name, _COMPARED["200MB"]):
        joined, hashed, narrowed = _compared(count)
        for name, found in (("checksums", hashed), ("blocks by the WAL", narrowed)):
            waited, worked = found.wall / joined.wall, found.processor / joined.processor
            rows.append(
                [f"{count:,}", name, seconds_text(joined.wall), seconds_text(found.wall),
                 times(waited), times(worked)]
            )  # fmt: skip
        if count >= _AIMED_ROWS:
            what = f"PostgreSQL: diff of {count:,} rows to a full join"
            aims.append(Aim(what, max(waited, worked), 0.3))
    note = (
        f"{_DAMAGED} rows differ. The join has both tables in one database, which a recovery never "
        "has: nothing has to travel. The sidecar is a server of its own, a base backup of the live "
        "one; the WAL is indexed, as capture does, but for its last segment. `processor` compares "
        "processor time of client and servers."
    )
    columns = ["rows", "way", "full join", "pitr diff", "times", "processor"]
    return Result([Table("What differs on PostgreSQL", columns, rows, note)], aims)


def _compared(count: int) -> tuple[Spent, Spent, Spent]:
    say(f"diff of {count:,} rows on PostgreSQL")
    joined, hashed, narrowed = [], [], []
    with Server(15, settings=_SETTINGS) as server:
        shop = Shop(server, count)
        with _sidecar(server) as sidecar, tempfile.TemporaryDirectory() as folder:
            shop.others.append(sidecar)
            # Beside the live table, for the join alone.
            server.query("CREATE SCHEMA side; CREATE TABLE side.orders (LIKE orders INCLUDING ALL);"
                         "INSERT INTO side.orders SELECT * FROM orders", "live")  # fmt: skip
            step = count // _DAMAGED
            server.query(f"UPDATE orders SET cents = cents + 1 WHERE id % {step} = 1", "live")
            server.query("VACUUM ANALYZE side.orders, orders", "live")
            server.query("SELECT pg_switch_wal()")
            store = LocalStore(Path(folder))
            complete_index(store, WrittenWal(server))
            for _ in range(_ROUNDS):
                joined.append(shop.spent(lambda: _join(shop)))
                hashed.append(shop.spent(lambda: _diff(server, sidecar, None)))
                narrowed.append(shop.spent(lambda: _diff(server, sidecar, store)))
    return _median(joined), _median(hashed), _median(narrowed)


class WrittenWal(WalFolder):
    """A running server's WAL as far as it is on disk: what an archive has that never lags."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.wal)
        self._server = server

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        """Return the stretches up to where the WAL is flushed."""
        end = Lsn.parse(self._server.value("SELECT pg_current_wal_flush_lsn()::text"))
        found = super().ranges(timeline)
        return [(begin, min(upto, end)) for begin, upto in found if begin < end]


@contextmanager
def _sidecar(server: Server) -> Iterator[Server]:
    """Run a copy of a server from a base backup taken now, recovered as a sidecar is."""
    copy = server.folder / "copy"
    server.run("pg_basebackup", "-D", str(copy), "-c", "fast", "-X", "fetch", "--no-sync")
    (copy / "recovery.signal").touch()
    recovering: dict[str, str | int | bool] = {
        "restore_command": "false",
        "recovery_target": "immediate",
        "recovery_target_action": "promote",
    }
    with Server(15, data=copy, settings={**_SETTINGS, **recovering}) as sidecar:
        while sidecar.value("SELECT pg_is_in_recovery()"):
            time.sleep(0.05)
        yield sidecar


def _join(shop: Shop) -> None:
    with shop.server.connect("live") as live:
        live.execute("SET work_mem = '64MB'")
        assert live.execute(_TWO_WAY.encode()).fetchone() == (_DAMAGED,)


def _diff(server: Server, sidecar: Server, store: LocalStore | None) -> None:
    """Compare; with the WAL where there is a store with its index."""
    place = server.url("live")

    def flushed() -> tuple[int, Lsn] | None:
        server.query("SELECT pg_logical_emit_message(true, '', '')")  # as any session's commit does
        with connect(place) as connection:
            return flushed_wal(connection)

    def past() -> PastWal | None:
        wal = WrittenWal(server)
        return PastWal(wal, WalIndex(store, wal), flushed) if store else None

    with connect(place) as live, connect(sidecar.url("live")) as before:
        states = States(
            live=live, before=before, tables=(TableName("public", "orders"),), past=past
        )
        with comparing(states):
            (table,) = classify(states, Limits(narrowed_bytes=0))
            assert table.is_narrowed == (store is not None)
            assert table.counts[RowClass.DIFFERS] == _DAMAGED, table.counts
