"""Surgical replay: one table back, while the cluster and its WAL grow around it.

The same table of orders with the same changes each time; pgbench's tables and their WAL are what
grows. Three ways to the same LSN, each from its own archive of the same life: `pitr restore`,
PostgreSQL's full recovery from a compressed pg_basebackup, and pgBackRest where it is installed, of
all databases, and without the half of them that lies in another one. pitr comes between the others,
and its median counts. What a way restored is removed before the next one begins. Processor time is
that of all processes of a way; other work on the machine does not lengthen it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import psycopg

from bench.report import Aim, Bar, Result, Table, bytes_text, seconds_text, times
from bench.surgical_life import (
    DATABASE,
    ORDERS,
    OTHER,
    Life,
    new_folder,
    pgbackrest,
    push,
    record_growing,
    run_peer,
    tell,
)
from bench.world import Size, folder_bytes, pitr
from pitr.postgres.replay.server import server_account
from tools.postgres_servers import Server

_STEPS = (1, 4, 16)
_PITR, _FULL, _PEER = "pitr restore", "full recovery by PostgreSQL", "pgBackRest restore"
_PARTS = (f"--db-include={DATABASE}", f"--db-exclude={OTHER}")
_BLOCK_BYTES = 512
_WORDS = {"seconds": "time", "cpu_seconds": "CPU", "bytes_read": "bytes read"}
# At least so many times faster than pgBackRest's restore, by the size of the cluster.
_FASTER = {"4GB": 15, "16GB": 50}


@dataclass(frozen=True, slots=True)
class Way:
    """What one way took until the table could be asked."""

    seconds: float
    cpu_seconds: float
    bytes_read: float
    disk_bytes: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What all ways took back into one life."""

    life: Life
    ways: Mapping[str, Way]


def run(size: Size) -> Result:
    """Measure clusters of a sixteenth, a quarter and the whole of the size."""
    if shutil.which("lz4") is None:
        raise SystemExit("the benchmark needs the program lz4, as in 'apt-get install lz4'")
    found = [_measure(size.bytes * step // _STEPS[-1]) for step in _STEPS]
    columns = ["cluster", "its WAL", "way", "time", "to pitr", "CPU", "to pitr", "read", "on disk"]
    rows = [_row(one, name, way) for one in found for name, way in one.ways.items()]
    note = (
        f"{ORDERS} orders of 2 KB with their changes; time until the first row can be asked, the "
        "start of Python included. The page cache has what fits. CPU: all processes of a way."
    )
    figure = "Seconds until one table of 100 MB can be asked"
    bars = [
        Bar(figure, f"{name}, cluster of {bytes_text(one.life.cluster_bytes)}", way.seconds)
        for one in found
        for name, way in one.ways.items()
    ]
    title = f"One table back, clusters up to {size.name}"
    return Result([Table(title, columns, rows, note)], _aims(size, found), bars)


def _aims(size: Size, found: list[Measured]) -> list[Aim]:
    first, last = found[0].ways, found[-1].ways
    grown = ("seconds", "cpu_seconds", "bytes_read")
    aims = [
        Aim(f"one table, cluster 16 times as large: {_WORDS[name]} of pitr restore grows by",
            getattr(last[_PITR], name) / getattr(first[_PITR], name), 1.2)
        for name in grown
    ]  # fmt: skip
    if _PEER in last and size.name in _FASTER:
        aims += [
            Aim(f"{_PEER} of {size.name} / pitr, {_WORDS[name]}",
                getattr(last[_PEER], name) / getattr(last[_PITR], name), _FASTER[size.name],
                is_maximum=False)
            for name in ("seconds", "cpu_seconds")
        ]  # fmt: skip
    return aims


def _row(one: Measured, name: str, way: Way) -> list[str]:
    pitr_way = one.ways[_PITR]
    return [
        bytes_text(one.life.cluster_bytes),
        bytes_text(one.life.wal_bytes),
        name,
        seconds_text(way.seconds),
        times(way.seconds / pitr_way.seconds),
        seconds_text(way.cpu_seconds),
        times(way.cpu_seconds / pitr_way.cpu_seconds),
        bytes_text(way.bytes_read),
        bytes_text(way.disk_bytes),
    ]


def _measure(bytes_besides: int) -> Measured:
    with new_folder() as folder:
        has_peer = shutil.which("pgbackrest") is not None
        life = record_growing(folder, bytes_besides, has_peer=has_peer)
        push(life)
        return measure(life)


def measure(life: Life) -> Measured:
    """Take each way back, the own one before each of the others and at the end."""
    others: dict[str, Callable[[], tuple[int, int]]] = {_FULL: lambda: _full(life)}
    if life.has_peer:
        others[_PEER] = lambda: _peer(life)
        for part in _PARTS:
            others[f"{_PEER} {part.split('=')[0]}"] = lambda part=part: _peer(life, part)
    surgical(life)  # so that nobody pays for compiling Python
    own, ways = [], {}
    for name, way in others.items():
        own.append(_timed(life, _PITR, lambda: surgical(life)))
        ways[name] = _timed(life, name, way)
    own.append(_timed(life, _PITR, lambda: surgical(life)))
    # Of each measure the median, not those of one run: other work disturbs them differently.
    middle = Way(*(median(getattr(way, field.name) for way in own) for field in fields(Way)))
    return Measured(life, {_PITR: middle, **ways})


def _timed(life: Life, name: str, work: Callable[[], tuple[int, int]]) -> Way:
    tell(life.folder, f"{name} begins")
    before, began = os.times(), time.monotonic()
    read, disk = work()
    seconds, after = time.monotonic() - began, os.times()
    way = Way(seconds, sum(after[:4]) - sum(before[:4]), read, disk)
    took = f"{seconds_text(seconds)}, CPU {seconds_text(way.cpu_seconds)}"
    tell(life.folder, f"{name}: {took}, {bytes_text(disk)} on disk")
    return way


# --- the ways back -------------------------------------------------------------------------------


def surgical(life: Life) -> tuple[int, int]:
    """Bring the orders back with pitr; return the bytes read, and those of the sidecar."""
    sidecars = life.folder / "sidecars"
    for path in sidecars.iterdir():
        shutil.rmtree(path)
    os.environ["PITR_SIDECAR_FOLDER"] = str(sidecars)
    words = ("-t", "orders", "--at", f"lsn:{life.stop}", "--no-compare")
    _, found = pitr(life.folder, "restore", *words)
    assert found["tables"][0]["rows"] == ORDERS, found
    return found["bytes_read"], _disk_bytes(sidecars)


def _full(life: Life) -> tuple[int, int]:
    copy, wal = life.folder / "full" / "data", life.folder / "wal"
    _empty(copy)
    packed = life.folder / "base" / "base.tar.lz4"
    subprocess.run(f"lz4 -dc {packed} | tar -x -C {copy}", shell=True, check=True)
    (copy / "recovery.signal").touch()
    read = folder_bytes(life.folder / "base") + folder_bytes(wal)
    return read, _recover(life, copy, lambda _: f"lz4 -dqf {wal}/%f.lz4 %p")


def _peer(life: Life, *options: str) -> tuple[int, int]:
    place, repository = life.folder / "peer", life.folder / "repository"
    _empty(place)
    run_peer(life.folder, "restore", f"--pg1-path={place}", *options)

    def command(data: Path) -> str:
        return " ".join(pgbackrest(life.folder, f"--pg1-path={data}", "archive-get", "%f", "%p"))

    # A database that is left out is not read: its files become holes.
    out = repository.glob(f"backup/*/*/pg_data/base/{life.other}") if options else ()
    read = folder_bytes(repository) - sum(map(folder_bytes, out))
    return read, _recover(life, place, command)


def _recover(life: Life, data: Path, restore_command: Callable[[Path], str]) -> int:
    """Let PostgreSQL recover all of a data directory to the stop; return its size on disk then.

    The command gets the place to which the directory is moved. It is removed at the end.
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
                with server.connect(DATABASE) as connection:
                    found = connection.execute("SELECT count(*) FROM orders").fetchone()
            except psycopg.OperationalError:
                assert server.running, server.log_text()[-2000:]
                time.sleep(0.02)
            else:
                assert found == (ORDERS,)
                return _disk_bytes(server.data)


def _disk_bytes(folder: Path) -> int:
    """Return what the files below a folder take on disk: holes take nothing."""
    return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in folder.rglob("*"))


def _empty(folder: Path) -> None:
    """Make a folder of the servers' user that is empty: a server took the last one away."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    server_account("postgres").own(folder)
