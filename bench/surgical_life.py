"""The life of a cluster for the benchmarks of surgical replay, archived for each way back.

What lies beside the table of orders is made once, without WAL, and its database is then copied as
files. Everything that is kept is compressed, for each way alike, since a life of 16 GB has to fit
on a small disk: the server is gone before anything is restored.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.report import bytes_text
from bench.world import pitr, say
from pitr.archive.archive import open_archive
from pitr.archive.local import LocalStore
from pitr.postgres.capture.push import push_file
from pitr.postgres.index.compaction import compact_index
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.replay.server import server_account
from pitr.postgres.wal_store.archive import WalArchive
from tools.postgres_servers import Server

ORDERS = 50_000
DATABASE, OTHER = "shop", "elsewhere"
_SCALE_BYTES = 15 << 20
_SEGMENT_BYTES = 16 << 20
_STANZA, _CONFIGURATION = "bench", "pgbackrest.conf"
_TEXT = "repeat(md5(random()::text), 60)"
_SETTINGS: dict[str, str | int | bool] = {
    "max_wal_size": "2GB",
    "autovacuum": False,
    "shared_buffers": "128MB",
    "synchronous_commit": False,
}
# Tables are filled without WAL: what is loaded before the base backups is in them.
_LOADING: dict[str, str | int | bool] = {"wal_level": "minimal", "max_wal_senders": 0}
_LIVING: dict[str, str | int | bool] = {
    "wal_level": "replica",
    "max_wal_senders": 4,
    "archive_mode": True,
}
_BEGAN = time.monotonic()


@dataclass(frozen=True, slots=True)
class Life:
    """A folder with the archives of one cluster's life; `stop` is an LSN before its DROP TABLE.

    `other` is the OID of the other database.
    """

    folder: Path
    stop: str
    has_peer: bool
    cluster_bytes: int
    wal_bytes: int
    other: int


def tell(folder: Path, text: str) -> None:
    """Tell what begins, at which minute, and how much disk is free."""
    free = bytes_text(shutil.disk_usage(folder).free)
    load = os.getloadavg()[0]
    say(f"{(time.monotonic() - _BEGAN) / 60:5.1f} min, {free} free, load {load:.1f}: {text}")


@contextmanager
def new_folder() -> Iterator[Path]:
    """Yield a folder that the servers' user can walk to."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-bench-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def record_growing(folder: Path, bytes_besides: int, *, has_peer: bool) -> Life:
    """Live a life with so many bytes of other tables, and about as much WAL of them.

    Half of them lie in another database.
    """
    scale = max(1, bytes_besides // _SCALE_BYTES // 2)

    def load(server: Server) -> None:
        initialise = ["-i", "-q", "-I", "dtgp", "-s", str(scale)]
        server.run("pgbench", *initialise, database=OTHER)

    def work(server: Server) -> None:
        for database in (DATABASE, OTHER):
            tell(folder, f"pgbench and an UPDATE of every page in {database}")
            server.run("pgbench", "-n", "-t", str(scale * 100), "-c", "2", database=database)
            update = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 60 = 0"
            server.query(update, database)

    tell(folder, f"a cluster with {bytes_text(bytes_besides)} besides")
    return record(folder, load, work, has_peer=has_peer)


def record(
    folder: Path,
    load: Callable[[Server], object],
    work: Callable[[Server], object],
    *,
    has_peer: bool,
) -> Life:
    """Live a life in a folder that exists.

    `load` fills the other database, of which the one with the orders is a copy; `work` happens
    between two changes of the orders.
    """
    _make_folders(folder)
    with Server(15, place=folder, settings={**_SETTINGS, **_LOADING}) as server:
        server.query(f"CREATE DATABASE {OTHER}")
        load(server)
        _make_orders(server)
        server.configure(_LIVING)
        _archive(folder, server, has_peer=has_peer)
        server.restart()
        if has_peer:
            run_peer(folder, "stanza-create")
        _back_up(folder, server, has_peer=has_peer)
        size = int(server.value("SELECT sum(pg_database_size(oid)) FROM pg_database"))
        server.query(f"UPDATE orders SET note = {_TEXT} WHERE id % 40 = 0", DATABASE)
        work(server)
        server.query(f"UPDATE orders SET note = {_TEXT} WHERE id % 40 = 20", DATABASE)
        stop = str(server.value("SELECT pg_current_wal_insert_lsn()::text"))
        server.query("DROP TABLE orders", DATABASE)
        server.query("SELECT pg_switch_wal()")
        server.query("CHECKPOINT")
        tell(folder, "waiting for the archiver")
        waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
        while server.value(waiting):
            time.sleep(0.1)
        other = int(server.value(f"SELECT oid FROM pg_database WHERE datname = '{OTHER}'"))
    wal_bytes = _SEGMENT_BYTES * len(list((folder / "wal").iterdir()))
    return Life(folder, stop, has_peer, size, wal_bytes, other)


def _make_folders(folder: Path) -> None:
    folder.chmod(0o711)
    for name in ("wal", "base", "repository", "sidecars", "full", "peer"):
        (folder / name).mkdir(mode=0o711)
        server_account("postgres").own(folder / name)
    for name in ("base", "peer"):
        (folder / name).chmod(0o700)


def _make_orders(server: Server) -> None:
    # As files: to write them block by block would be WAL as well.
    server.query(f"CREATE DATABASE {DATABASE} TEMPLATE {OTHER} STRATEGY FILE_COPY")
    server.query(
        f"CREATE TABLE orders AS SELECT i AS id, {_TEXT} AS note FROM generate_series(1, {ORDERS})"
        " AS i",
        DATABASE,
    )
    server.query("ALTER TABLE orders ADD PRIMARY KEY (id)", DATABASE)
    server.query("VACUUM (FREEZE) orders", DATABASE)  # else chance says which pages get hints


def _archive(folder: Path, server: Server, *, has_peer: bool) -> None:
    """Archive the WAL each way from the next start on."""
    archive = f"lz4 -qf %p {folder / 'wal'}/%f.lz4"
    if has_peer:
        _configure_peer(folder, server)
        archive += f" && {' '.join(pgbackrest(folder, 'archive-push'))} %p"
    server.configure({"archive_command": archive})


def _back_up(folder: Path, server: Server, *, has_peer: bool) -> None:
    """Take a base backup each way, one after the other."""
    tell(folder, "base backup with pg_basebackup")
    base = ["-D", str(folder / "base"), "-F", "t", "-Z", "client-lz4", "-c", "fast", "-X", "none"]
    server.run("pg_basebackup", *base, "--no-sync")
    tell(folder, "base backup with pitr")
    pitr(folder, "init", server.url(DATABASE), "--archive", "archive")
    pitr(folder, "backup", "--checkpoint", "fast")
    if has_peer:
        tell(folder, "base backup with pgBackRest")
        run_peer(folder, "backup")


def push(life: Life) -> None:
    """Bring the WAL into the archive of pitr, as a capture would have."""
    tell(life.folder, f"archiving {bytes_text(life.wal_bytes)} of WAL with pitr")
    store = LocalStore(life.folder / "archive")
    for packed in sorted((life.folder / "wal").iterdir()):
        path = life.folder / packed.stem
        subprocess.run(["lz4", "-dqf", packed, path], check=True)
        push_file(store, open_archive(store), path)
        path.unlink()
    complete_index(store, WalArchive(store))
    while compact_index(store, now_us=time.time_ns() // 1000).merges:
        pass  # a capture does one level every ten minutes


# --- pgBackRest ----------------------------------------------------------------------------------


def _configure_peer(folder: Path, server: Server) -> None:
    """Write pgBackRest's configuration, its compression the fastest that it has."""
    lines = [
        "[global]", f"repo1-path={folder / 'repository'}", f"log-path={folder / 'repository'}",
        f"lock-path={folder / 'repository' / 'lock'}", "compress-type=lz4", "process-max=2",
        "start-fast=y", "log-level-console=warn", f"[{_STANZA}]", f"pg1-path={server.data}",
        f"pg1-socket-path={server.folder}", f"pg1-port={server.port}", "",
    ]  # fmt: skip
    (folder / _CONFIGURATION).write_text("\n".join(lines))


def pgbackrest(folder: Path, *words: str) -> list[str]:
    """Return a command of pgBackRest, to be run by the servers' user."""
    return ["pgbackrest", f"--config={folder / _CONFIGURATION}", f"--stanza={_STANZA}", *words]


def run_peer(folder: Path, *words: str) -> None:
    """Run a command of pgBackRest."""
    account = server_account("postgres")
    drop = ["runuser", "-u", account.name, "--"] if os.geteuid() == 0 else []
    subprocess.run([*drop, *pgbackrest(folder, *words)], check=True, cwd="/")
