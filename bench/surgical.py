"""Surgical replay: one table back, while the cluster and its WAL grow around it.

The same table of orders with the same changes each time; pgbench's tables and their WAL are what
grows. Beside it PostgreSQL's own full recovery from the same base and WAL, to the same LSN, in two
numbers: copying the base and replaying. Both read plain files; pitr also with an index of the WAL.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.report import Aim, Bar, Result, Table, bytes_text, seconds_text
from bench.world import Size, folder_bytes, say
from pitr.archive.local import LocalStore
from pitr.postgres.base.folder import BaseFolder
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.replay.replay import Replay, ServerTools, StopPoint, open_source
from pitr.postgres.replay.server import ServerBinaries, server_account
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.position import Lsn
from tools.postgres_servers import Server

_SCALE_BYTES = 15 << 20
_STEPS = (1, 4, 16)
_ORDERS = 40_000


@dataclass(frozen=True, slots=True)
class _Measured:
    cluster_bytes: int
    wal_bytes: int
    plain_seconds: float
    indexed_seconds: float
    bytes_read: int
    sidecar_bytes: int
    full_seconds: float
    full_bytes: int


def run(size: Size) -> Result:
    """Measure clusters of a sixteenth, a quarter and the whole of the size."""
    found = [_measure(size.bytes * step // _STEPS[-1]) for step in _STEPS]
    rows = [
        [
            bytes_text(one.cluster_bytes),
            bytes_text(one.wal_bytes),
            seconds_text(one.full_seconds),
            seconds_text(one.plain_seconds),
            seconds_text(one.indexed_seconds),
            f"{one.full_seconds / one.indexed_seconds:.1f} times",
            bytes_text(one.bytes_read),
            bytes_text(one.full_bytes),
            bytes_text(one.sidecar_bytes),
        ]
        for one in found
    ]
    columns = ["cluster", "WAL", "full recovery", "pitr, no index", "pitr", "faster"]
    columns += ["pitr reads", "full recovery on disk", "sidecar on disk"]
    note = f"{_ORDERS} orders with their changes; seconds until the table can be asked."
    growth = found[-1].indexed_seconds / found[0].indexed_seconds
    return Result(
        [Table("One table back", columns, rows, note)],
        [Aim("pitr's time, when the cluster grows 16-fold, grows by", growth, 1.2)],
        [
            Bar("seconds to the table", f"{name}, {bytes_text(one.cluster_bytes)}", seconds)
            for one in found
            for name, seconds in (
                ("full recovery", one.full_seconds),
                ("pitr", one.indexed_seconds),
            )
        ],
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder that the servers' user can walk to."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _measure(noise_bytes: int) -> _Measured:
    account = server_account("postgres")
    with _folder() as folder:
        for name in ("wal", "base", "work"):
            (folder / name).mkdir(mode=0o711)
            account.own(folder / name)
        (folder / "base").chmod(0o700)
        stop, programs = _record(folder, noise_bytes)
        tools = ServerTools(ServerBinaries(programs, 15), account)
        plain, sidecar_bytes, _ = _surgical(folder, stop, tools, "plain", None)
        wal = WalFolder(folder / "wal")
        store = LocalStore(folder / "index")
        store.make()
        complete_index(store, wal)
        indexed, _, bytes_read = _surgical(folder, stop, tools, "indexed", WalIndex(store, wal))
        full, full_bytes = _full(folder, stop)
        return _Measured(
            folder_bytes(folder / "base"),
            folder_bytes(folder / "wal"),
            plain,
            indexed,
            bytes_read,
            sidecar_bytes,
            full,
            full_bytes,
        )


def _record(folder: Path, noise_bytes: int) -> tuple[Lsn, Path]:
    say(f"a cluster with {bytes_text(noise_bytes)} besides")
    settings: dict[str, str | int | bool] = {
        "archive_mode": True,
        "archive_command": f"cp %p {folder / 'wal'}/%f",
        "max_wal_size": "20GB",
        "autovacuum": False,
    }
    with Server(15, settings=settings) as server:
        scale = max(1, noise_bytes // _SCALE_BYTES)
        server.run("pgbench", "-i", "-q", "-s", str(scale))
        text = "repeat(md5(random()::text), 60)"
        rows = f"generate_series(1, {_ORDERS})"
        server.query(f"CREATE TABLE orders AS SELECT i AS id, {text} AS note FROM {rows} AS i")
        server.query("ALTER TABLE orders ADD PRIMARY KEY (id)")
        base = ["-D", str(folder / "base"), "-c", "fast", "-X", "none", "--no-sync"]
        server.run("pg_basebackup", *base)
        server.query(f"UPDATE orders SET note = {text} WHERE id % 20 = 0")
        server.run("pgbench", "-n", "-t", str(scale * 1500), "-c", "2")
        server.query("UPDATE pgbench_accounts SET abalance = abalance + 1")
        stop = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()::text"))
        server.query("DROP TABLE orders")
        server.query("SELECT pg_switch_wal()")
        server.query("CHECKPOINT")
        waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
        while server.value(waiting):
            time.sleep(0.1)
        return stop, server.bin


def _surgical(
    folder: Path, stop: Lsn, tools: ServerTools, name: str, index: WalIndex | None
) -> tuple[float, int, int]:
    say(f"surgical replay, {name}")
    work = folder / "work" / name
    work.mkdir(mode=0o711)
    began = time.monotonic()
    source = open_source(BaseFolder(folder / "base"), WalFolder(folder / "wal"))
    replay = Replay(source, StopPoint(1, stop), tools, work, index)
    found = replay.recover(replay.find_tables("postgres", ["orders"]), work / "sidecar")
    seconds = time.monotonic() - began
    assert list(found.rows.values()) == [_ORDERS]
    read = source.bytes_read + (index.bytes_read if index else 0)
    return seconds, folder_bytes(work), read


def _full(folder: Path, stop: Lsn) -> tuple[float, int]:
    say("full recovery")
    began = time.monotonic()
    copy = folder / "full"
    shutil.copytree(folder / "base", copy, symlinks=True)
    (copy / "recovery.signal").touch()
    settings: dict[str, str | int | bool] = {
        "restore_command": f"cp {folder / 'wal'}/%f %p",
        "recovery_target_lsn": str(stop),
        "recovery_target_inclusive": False,
        "recovery_target_action": "promote",
        "hot_standby": False,
        "archive_mode": False,
        "autovacuum": False,
    }
    with Server(15, data=copy, settings=settings) as server:
        while True:
            try:
                assert server.value("SELECT count(*) FROM orders") == _ORDERS
                break
            except psycopg.OperationalError:
                assert server.running, server.log_text()[-2000:]
                time.sleep(0.02)
        return time.monotonic() - began, folder_bytes(server.data)
