"""Base backups: `pitr backup` beside pg_basebackup and, where it is installed, pgBackRest.

A cluster of which half is pgbench's tables and half is text that compresses badly. WAL is left out
everywhere. pitr also verifies every page checksum and the server's manifest in the same pass, and
stores chunks that can be read alone. Run as `python -m bench.base_backup URL ARCHIVE` it takes one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.report import Aim, Bar, Result, Table, bytes_text, seconds_text, times
from bench.world import CACHE, ROOT, Size, folder_bytes, say
from pitr.archive.archive import create_or_adopt, open_archive
from pitr.archive.local import LocalStore
from pitr.postgres.backup.run import BackupOptions, back_up
from pitr.postgres.live.connection import connect
from tools.postgres_binaries import server_user
from tools.postgres_servers import Server

_ROUNDS = 3
_SCALE_BYTES = 15 << 20  # of files for one unit of pgbench's scale
_ROW_BYTES = 130
_SETTINGS: dict[str, str | int | bool] = {
    "max_wal_size": "20GB",
    "shared_buffers": "128MB",
    "autovacuum": False,
}
_PITR, _PEER = "pitr", "pg_basebackup, zstd"
_PGBACKREST = "pgBackRest, zst"


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    cpu_seconds: float
    bytes: int


Way = Callable[[Server, Path], Sequence[str]]


def run(size: Size) -> Result:
    """Back a cluster up, in rounds that alternate the ways; then once more after a small change."""
    folder = CACHE / "base-backup"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Server(15, settings=_SETTINGS) as server:
        _fill(server, size)
        ways: dict[str, Way] = {
            "pg_basebackup, plain": _plain,
            "pg_basebackup, zstd 1": _zstd_1,
            _PEER: _zstd,
            _PITR: _pitr,
        }
        if shutil.which("pgbackrest"):
            ways[_PGBACKREST] = _pgbackrest
        runs: dict[str, list[_Run]] = {name: [] for name in ways}
        for at in range(_ROUNDS):
            for name, way in ways.items():
                say(f"{name}, round {at + 1}")
                place = server.folder / "backups" if name == _PGBACKREST else folder / name / "x"
                shutil.rmtree(place, ignore_errors=True)
                runs[name].append(_measure(way(server, place), place, server))
        # As applications mostly do: the newest rows are changed, one in a hundred.
        server.query(
            "UPDATE orders SET note = 'changed' WHERE i > (SELECT max(i) * 0.99 FROM orders)"
        )
        server.query("UPDATE pgbench_accounts SET abalance = 1 WHERE aid < 2000")
        server.query("CHECKPOINT")
        second = {
            name: _second(server, name, ways[name], folder)
            for name in (_PITR, _PGBACKREST)
            if name in ways
        }
        raw_bytes = folder_bytes(server.data) - folder_bytes(server.wal)
    return _result(runs, second, raw_bytes)


def _fill(server: Server, size: Size) -> None:
    say(f"making a cluster of {size.name}")
    server.run("pgbench", "-i", "-q", "-s", str(max(1, size.bytes // 2 // _SCALE_BYTES)))
    rows = size.bytes // 2 // _ROW_BYTES
    server.query(
        "CREATE TABLE orders AS SELECT i, (random() * 1e5)::int AS customer, "
        "md5(random()::text) AS note, repeat(md5(random()::text), (random() * 3)::int) AS text "
        f"FROM generate_series(1, {rows}) AS i"
    )
    server.query("ALTER TABLE orders ADD PRIMARY KEY (i); CREATE INDEX ON orders (customer)")
    server.query("VACUUM")
    server.query("CHECKPOINT")


def _second(server: Server, name: str, way: Way, folder: Path) -> _Run:
    say(f"{name}, after a small change")
    place = server.folder / "backups" if name == _PGBACKREST else folder / name / "x"
    before = folder_bytes(place)
    found = _measure(way(server, place), place, server)
    return _Run(found.seconds, found.cpu_seconds, found.bytes - before)


def _measure(command: Sequence[str], place: Path, server: Server) -> _Run:
    environment = {**os.environ, **server.environment()}
    before, began = os.times(), time.monotonic()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    seconds, after = time.monotonic() - began, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return _Run(seconds, cpu, folder_bytes(place))


def _plain(server: Server, place: Path) -> Sequence[str]:
    return [*_pg_basebackup(server, place)]


def _zstd(server: Server, place: Path) -> Sequence[str]:
    return [*_pg_basebackup(server, place), "-Z", "client-zstd"]


def _zstd_1(server: Server, place: Path) -> Sequence[str]:
    return [*_pg_basebackup(server, place), "-Z", "client-zstd:1"]


def _pg_basebackup(server: Server, place: Path) -> Sequence[str]:
    place.parent.mkdir(parents=True, exist_ok=True)
    options = ["-D", str(place), "-Ft", "-X", "none", "-c", "fast"]
    return [str(server.bin / "pg_basebackup"), *options]


def _pitr(server: Server, place: Path) -> Sequence[str]:
    store = LocalStore(place)
    store.make()
    system = server.value("SELECT system_identifier FROM pg_control_system()") % 2**64
    create_or_adopt(store, engine="postgres", identity={"system_identifier": str(system)})
    return [sys.executable, "-m", "bench.base_backup", server.url(), str(place)]


def _pgbackrest(server: Server, place: Path) -> Sequence[str]:
    """As the server's user, since it reads the files themselves; the second one is incremental."""
    options = [
        f"--repo1-path={place}", f"--pg1-path={server.data}", f"--pg1-socket-path={server.folder}",
        f"--pg1-port={server.port}", "--stanza=bench", f"--log-path={server.folder}",
        f"--lock-path={server.folder}/lock", "--log-level-console=warn",
    ]  # fmt: skip
    user = server_user()
    drop = ["runuser", "-u", user.pw_name, "--"] if user else []
    if not place.exists():
        create = [*drop, "pgbackrest", *options, "stanza-create"]
        subprocess.run(create, check=True, capture_output=True, cwd="/")
    more = ["--start-fast", "--no-archive-check", "--compress-type=zst", "--compress-level=3"]
    return [*drop, "pgbackrest", *options, *more, "--process-max=2", "backup"]


def _result(runs: dict[str, list[_Run]], second: dict[str, _Run], raw_bytes: int) -> Result:
    best = {name: min(of, key=lambda one: one.seconds) for name, of in runs.items()}
    middle = {name: median(one.seconds for one in of) for name, of in runs.items()}
    peer = best[_PEER]
    rows = [
        [
            name,
            seconds_text(found.seconds),
            seconds_text(middle[name]),
            times(found.seconds / peer.seconds),
            seconds_text(found.cpu_seconds),
            bytes_text(found.bytes),
        ]
        for name, found in best.items()
    ]
    rows += [
        [f"{name}, again after a small change", seconds_text(found.seconds), "",
         times(found.seconds / peer.seconds), seconds_text(found.cpu_seconds),
         bytes_text(found.bytes)]
        for name, found in second.items()
    ]  # fmt: skip
    columns = ["way", "best", "median", "of pg_basebackup, zstd", "CPU", "stored"]
    note = "CPU of the backup itself, the server's not counted. zstd is level 3 there, 1 here."
    table = Table(f"Base backup of a cluster of {bytes_text(raw_bytes)}", columns, rows, note)
    aims = [
        Aim(
            "base backup: pitr / pg_basebackup with zstd, time", middle[_PITR] / middle[_PEER], 1.5
        ),
        Aim("second backup: bytes stored / first", second[_PITR].bytes / best[_PITR].bytes, 0.1),
    ]
    figure = "Base backup, seconds"
    return Result([table], aims, [Bar(figure, name, one.seconds) for name, one in best.items()])


def main(place: str, archive: str) -> None:
    """Take one base backup with pitr."""
    store = LocalStore(archive)
    with connect(place) as connection:
        options = BackupOptions(fast=True)
        identity = open_archive(store)
        back_up(store, identity, connection, place, options, lambda _: None, slot="bench")


if __name__ == "__main__":
    main(*sys.argv[1:])
