"""Surgical replay: one table back, while the cluster and its WAL grow around it.

The same table of orders with the same changes each time; pgbench's tables and their WAL are what
grows. Three ways to the same LSN, each from its own archive of the same life: `pitr restore`,
PostgreSQL's full recovery from a copy of a plain base backup, and pgBackRest where it is installed,
of all databases and of the one alone. pitr comes between the others, and its median counts.
Processor time is that of all processes of a way; other work on the machine does not lengthen it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import psycopg

from bench.report import Aim, Bar, Result, Table, bytes_text, seconds_text, times
from bench.world import Size, folder_bytes, pitr, say
from pitr.archive.archive import open_archive
from pitr.archive.local import LocalStore
from pitr.postgres.capture.push import push_file
from pitr.postgres.index.compaction import compact_index
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.replay.server import server_account
from pitr.postgres.wal_store.archive import WalArchive
from tools.postgres_servers import Server

_SCALE_BYTES = 15 << 20
_STEPS = (1, 4, 16)
_ORDERS = 50_000
_STANZA, _CONFIGURATION = "bench", "pgbackrest.conf"
_PITR, _FULL, _PEER = "pitr restore", "full recovery by PostgreSQL", "pgBackRest restore"
_PEER_PART = "pgBackRest restore --db-exclude"


@dataclass(frozen=True, slots=True)
class Way:
    """What one way took until the table could be asked."""

    seconds: float
    cpu_seconds: float
    bytes_read: float
    disk_bytes: float


@dataclass(frozen=True, slots=True)
class Measured:
    cluster_bytes: int
    wal_bytes: int
    ways: Mapping[str, Way]


def run(size: Size) -> Result:
    """Measure clusters of a sixteenth, a quarter and the whole of the size."""
    found = [_measure(size.bytes * step // _STEPS[-1]) for step in _STEPS]
    columns = ["cluster", "its WAL", "way", "time", "to pitr", "CPU", "to pitr", "read", "on disk"]
    rows = [_row(one, name, way) for one in found for name, way in one.ways.items()]
    note = (
        f"{_ORDERS} orders of 2 KB with their changes; time until the first row can be asked, the "
        "start of Python included. Everything is in the page cache. CPU: all processes of a way."
    )
    last, first = found[-1].ways, found[0].ways
    growth = last[_PITR].cpu_seconds / first[_PITR].cpu_seconds
    aims = [
        Aim("one table, cluster 16 times as large: CPU of pitr restore grows by", growth, 1.2),
        Aim(
            "one table, cluster 16 times as large: bytes read grow by",
            last[_PITR].bytes_read / first[_PITR].bytes_read,
            1.2,
        ),
    ]
    if _PEER in last:
        faster = last[_PEER].cpu_seconds / last[_PITR].cpu_seconds
        aims.append(Aim(f"{_PEER} of {size.name} / pitr, CPU", faster, 15, is_maximum=False))
    figure = "Seconds until one table of 100 MB can be asked"
    bars = [
        Bar(figure, f"{name}, cluster of {bytes_text(one.cluster_bytes)}", way.seconds)
        for one in found
        for name, way in one.ways.items()
    ]
    title = f"One table back, clusters up to {size.name}"
    return Result([Table(title, columns, rows, note)], aims, bars)


def _row(one: Measured, name: str, way: Way) -> list[str]:
    pitr_way = one.ways[_PITR]
    return [
        bytes_text(one.cluster_bytes),
        bytes_text(one.wal_bytes),
        name,
        seconds_text(way.seconds),
        times(way.seconds / pitr_way.seconds),
        seconds_text(way.cpu_seconds),
        times(way.cpu_seconds / pitr_way.cpu_seconds),
        bytes_text(way.bytes_read),
        bytes_text(way.disk_bytes),
    ]


# --- a life --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Life:
    """A folder with the archives of one cluster's life; `stop` is an LSN before its DROP TABLE."""

    folder: Path
    stop: str
    has_peer: bool


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder that the servers' user can walk to."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-bench-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _measure(bytes_besides: int) -> Measured:
    with _folder() as folder:
        life = record(folder, bytes_besides)
        push(life)
        return measure(life)


def measure(life: Life) -> Measured:
    """Take each way back, the own one before each of the others and at the end."""
    others: dict[str, Callable[[], tuple[int, int]]] = {_FULL: lambda: _full(life)}
    if life.has_peer:
        others[_PEER] = lambda: _peer(life)
        others[_PEER_PART] = lambda: _peer(life, f"--db-exclude={_OTHER}")
    _surgical(life)  # so that nobody pays for compiling Python
    own, ways = [], {}
    for name, way in others.items():
        own.append(_timed(_PITR, lambda: _surgical(life)))
        ways[name] = _timed(name, way)
    own.append(_timed(_PITR, lambda: _surgical(life)))
    # Of each measure the median, not those of one run: other work disturbs them differently.
    middle = Way(*(median(getattr(way, field.name) for way in own) for field in fields(Way)))
    sizes = (folder_bytes(life.folder / name) for name in ("base", "wal"))
    return Measured(*sizes, {_PITR: middle, **ways})


def _timed(name: str, work: Callable[[], tuple[int, int]]) -> Way:
    before, began = os.times(), time.monotonic()
    read, disk = work()
    seconds, after = time.monotonic() - began, os.times()
    way = Way(seconds, sum(after[:4]) - sum(before[:4]), read, disk)
    load = os.getloadavg()[0]
    say(f"{name}: {seconds_text(seconds)}, CPU {seconds_text(way.cpu_seconds)}, load {load:.1f}")
    return way


def record(folder: Path, bytes_besides: int) -> Life:
    """Live a life in a folder that exists: half of what is besides lies in another database."""
    say(f"a cluster with {bytes_text(bytes_besides)} besides")
    folder.chmod(0o711)
    for name in ("wal", "base", "repository", "sidecars", "full", "peer"):
        (folder / name).mkdir(mode=0o711)
        server_account("postgres").own(folder / name)
    for name in ("base", "peer"):
        (folder / name).chmod(0o700)
    has_peer = shutil.which("pgbackrest") is not None
    scale = max(1, bytes_besides // _SCALE_BYTES // 2)
    # What is loaded before the base backups is in them: its WAL is not archived.
    settings = {"archive_mode": True, "archive_command": "true", **_SETTINGS}
    with Server(15, place=folder, settings=settings) as server:
        server.query(f"CREATE DATABASE {_OTHER}")
        for database in _DATABASES:
            initialise = ["-i", "-q", "-I", "dtgp", "-s", str(scale)]
            server.run("pgbench", *initialise, database=database)
        server.query(
            f"CREATE TABLE orders AS SELECT i AS id, {_TEXT} AS note FROM generate_series(1, "
            f"{_ORDERS}) AS i"
        )
        server.query("ALTER TABLE orders ADD PRIMARY KEY (id)")
        server.query("VACUUM (FREEZE) orders")  # else chance says which pages get hints, and WAL
        _archive(folder, server, has_peer=has_peer)
        _back_up(folder, server, has_peer=has_peer)
        server.query(f"UPDATE orders SET note = {_TEXT} WHERE id % 40 = 0")
        for database in _DATABASES:
            _work(server, database, scale)
        server.query(f"UPDATE orders SET note = {_TEXT} WHERE id % 40 = 20")
        stop = str(server.value("SELECT pg_current_wal_insert_lsn()::text"))
        server.query("DROP TABLE orders")
        server.query("SELECT pg_switch_wal()")
        server.query("CHECKPOINT")
        waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
        while server.value(waiting):
            time.sleep(0.1)
    return Life(folder, stop, has_peer)


_TEXT = "repeat(md5(random()::text), 60)"
_OTHER = "elsewhere"
_DATABASES = ("postgres", _OTHER)
_SETTINGS: dict[str, str | int | bool] = {
    "max_wal_size": "2GB",
    "autovacuum": False,
    "max_wal_senders": 4,
    "shared_buffers": "128MB",
    "synchronous_commit": False,
}


def _archive(folder: Path, server: Server, *, has_peer: bool) -> None:
    """Begin to archive the WAL each way."""
    archive = f"cp %p {folder / 'wal'}/%f"
    if has_peer:
        _configure_peer(folder, server)
        _run_peer(folder, "stanza-create")
        archive += f" && {' '.join(_pgbackrest(folder, 'archive-push'))} %p"
    server.configure({"archive_command": archive})
    server.reload()


def _work(server: Server, database: str, scale: int) -> None:
    """Change rows in all places of other tables: about as much WAL as they have bytes."""
    server.run("pgbench", "-n", "-t", str(scale * 100), "-c", "2", database=database)
    server.query("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 60 = 0", database)


def _back_up(folder: Path, server: Server, *, has_peer: bool) -> None:
    """Take a base backup each way, one after the other."""
    say("base backups")
    base = ["-D", str(folder / "base"), "-c", "fast", "-X", "none", "--no-sync"]
    server.run("pg_basebackup", *base)
    pitr(folder, "init", server.url(), "--archive", "archive")
    pitr(folder, "backup", "--checkpoint", "fast")
    if has_peer:
        _run_peer(folder, "backup")


def push(life: Life) -> None:
    """Bring the WAL into the archive of pitr, as a capture would have."""
    say("archiving the WAL")
    store = LocalStore(life.folder / "archive")
    for path in sorted((life.folder / "wal").iterdir()):
        push_file(store, open_archive(store), path)
    complete_index(store, WalArchive(store))
    while compact_index(store, now_us=time.time_ns() // 1000).merges:
        pass  # a capture does one level every ten minutes


# --- the ways back -------------------------------------------------------------------------------


def _surgical(life: Life) -> tuple[int, int]:
    sidecars = life.folder / "sidecars"
    for path in sidecars.iterdir():
        shutil.rmtree(path)
    os.environ["PITR_SIDECAR_FOLDER"] = str(sidecars)
    words = ("-t", "orders", "--at", f"lsn:{life.stop}", "--no-compare")
    _, found = pitr(life.folder, "restore", *words)
    assert found["tables"][0]["rows"] == _ORDERS, found
    return found["bytes_read"], folder_bytes(sidecars)


def _full(life: Life) -> tuple[int, int]:
    copy = life.folder / "full" / "data"
    shutil.copytree(life.folder / "base", copy, symlinks=True)
    (copy / "recovery.signal").touch()
    read = folder_bytes(life.folder / "base") + folder_bytes(life.folder / "wal")
    return read, _recover(life, copy, lambda _: f"cp {life.folder / 'wal'}/%f %p")


def _peer(life: Life, *options: str) -> tuple[int, int]:
    place = life.folder / "peer"
    _empty(place)
    _run_peer(life.folder, "restore", f"--pg1-path={place}", *options)

    def command(data: Path) -> str:
        return " ".join(_pgbackrest(life.folder, f"--pg1-path={data}", "archive-get", "%f", "%p"))

    return folder_bytes(life.folder / "repository"), _recover(life, place, command)


def _recover(life: Life, data: Path, restore_command: Callable[[Path], str]) -> int:
    """Let PostgreSQL recover all of a data directory to the stop; return its size then.

    The command gets the place to which the directory is moved.
    """
    target: dict[str, str | int | bool] = {
        "recovery_target_lsn": life.stop,
        "recovery_target_inclusive": False,
        "recovery_target_action": "promote",
        "hot_standby": False,
        "archive_mode": False,
        "archive_command": "",
        "autovacuum": False,
    }
    server = Server(15, place=life.folder, data=data, settings=target)
    (server.data / "postgresql.auto.conf").write_text(
        f"restore_command = '{restore_command(server.data)}'\n"
    )
    with server:
        while True:
            try:
                assert server.value("SELECT count(*) FROM orders") == _ORDERS
            except psycopg.OperationalError:
                assert server.running, server.log_text()[-2000:]
                time.sleep(0.02)
            else:
                return folder_bytes(server.data)


def _empty(folder: Path) -> None:
    """Make a folder of the servers' user that is empty: a server took the last one away."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    server_account("postgres").own(folder)


def _configure_peer(folder: Path, server: Server) -> None:
    """Write pgBackRest's configuration, its compression the fastest that it has."""
    lines = [
        "[global]", f"repo1-path={folder / 'repository'}", f"log-path={folder / 'repository'}",
        f"lock-path={folder / 'repository' / 'lock'}", "compress-type=lz4", "process-max=2",
        "start-fast=y", "log-level-console=warn", f"[{_STANZA}]", f"pg1-path={server.data}",
        f"pg1-socket-path={server.folder}", f"pg1-port={server.port}", "",
    ]  # fmt: skip
    (folder / _CONFIGURATION).write_text("\n".join(lines))


def _pgbackrest(folder: Path, *words: str) -> list[str]:
    """Return a command of pgBackRest, to be run by the servers' user."""
    return ["pgbackrest", f"--config={folder / _CONFIGURATION}", f"--stanza={_STANZA}", *words]


def _run_peer(folder: Path, *words: str) -> None:
    account = server_account("postgres")
    drop = ["runuser", "-u", account.name, "--"] if os.geteuid() == 0 else []
    subprocess.run([*drop, *_pgbackrest(folder, *words)], check=True, cwd="/")
