"""A recorded life of a cluster, and two ways back to a moment of it: ours, and PostgreSQL's own.

`recorded` runs a workload, keeps a base backup from its middle and all WAL. `full_recovery` is the
oracle: PostgreSQL recovers the whole backup to a position. `replayed` is what is tested.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pitr.postgres.base.folder import BaseFolder
from pitr.postgres.replay.replay import (
    Replay,
    ReplayedTables,
    ReplaySource,
    ServerTools,
    StopPoint,
    open_source,
)
from pitr.postgres.replay.server import ServerBinaries, server_account
from pitr.postgres.selection.by_wal import WalWindow, scans
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.position import Lsn
from tests.postgres.random_workload import DATABASE, RandomWorkload
from tools.postgres_servers import Server, scratch_place

ARCHIVING = {
    "archive_mode": True,
    "max_prepared_transactions": 10,
    "max_wal_senders": 4,
    "autovacuum_naptime": "1s",
    "max_locks_per_transaction": 200,
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A base backup and the WAL after it, in a folder that servers can reach."""

    folder: Path
    major: int
    programs: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def base(self) -> Path:
        """Return the base backup, a data directory."""
        return self.folder / "base"

    @property
    def wal(self) -> Path:
        """Return the folder of WAL segments."""
        return self.folder / "wal"

    def source(self) -> ReplaySource:
        """Open base and WAL for replay."""
        return open_source(BaseFolder(self.base), WalFolder(self.wal))

    def tools(self) -> ServerTools:
        """Return what servers are run with."""
        return ServerTools(ServerBinaries(self.programs, self.major), server_account("postgres"))

    def new_folder(self) -> Path:
        """Make a folder for a recovery."""
        folder = self.folder / f"recovery-{next(self.numbers)}"
        folder.mkdir(mode=0o711)
        return folder

    def positions(self) -> list[int]:
        """Return where every record after the end of the backup begins, and where the WAL ends."""
        source = self.source()
        end = source.wal.ranges(1)[-1][1].value
        window = WalWindow(source.wal, 1, source.label.redo.value, end, 0)
        found: list[int] = []
        for scan in scans(window, is_open=True):
            found += scan.records.lsn
        consistent = source.base.info.end
        assert consistent is not None
        return [lsn for lsn in found if lsn >= consistent.value]

    def replay(self, stop: int, timeline: int = 1) -> Replay:
        """Prepare a surgical replay that stops before the record at `stop`."""
        point = StopPoint(timeline, Lsn(stop))
        return Replay(self.source(), point, self.tools(), self.new_folder())

    def replayed(
        self, stop: int, tables: Sequence[str], *, database: str = DATABASE
    ) -> ReplayedTables:
        """Recover tables."""
        replay = self.replay(stop)
        return replay.recover(replay.find_tables(database, tables), self.new_folder() / "sidecar")

    @contextlib.contextmanager
    def full_recovery(self, stop: int) -> Iterator[Server]:
        """Let PostgreSQL recover everything to the same position; yield the promoted server."""
        copy = self.folder / f"full-{next(self.numbers)}"
        shutil.copytree(self.base, copy, symlinks=True)
        (copy / "recovery.signal").touch()
        settings: Mapping[str, str | int | bool] = {
            "restore_command": f"cp {self.wal}/%f %p",
            "recovery_target_lsn": str(Lsn(stop)),
            "recovery_target_inclusive": False,
            "recovery_target_action": "promote",
            "hot_standby": False,
            "archive_mode": False,
            "autovacuum": False,
        }
        with Server(self.major, data=copy, settings=settings) as server:
            wait_until_recovered(server)
            for (name,) in server.query("SELECT gid FROM pg_prepared_xacts", DATABASE):
                server.query(f"ROLLBACK PREPARED '{name}'", DATABASE)
            yield server


def wait_until_recovered(server: Server) -> None:
    """Wait until a server without hot standby has ended its recovery. Raises when it ended."""
    while True:
        try:
            server.connect().close()
        except psycopg.OperationalError:
            assert server.running, server.log_text()[-3000:]
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def world_folder() -> Iterator[Path]:
    """Yield a new folder that every user can walk through; it is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-replay-", dir=scratch_place()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def archiving_server(folder: Path, major: int, **options: object) -> Iterator[Server]:
    """Run a server that archives its WAL into `folder`/wal."""
    wal = folder / "wal"
    wal.mkdir()
    account = server_account("postgres")
    account.own(wal)
    given = options.pop("settings", {})
    assert isinstance(given, dict)
    settings = {**ARCHIVING, "archive_command": f"cp %p {wal}/%f", **given}
    with Server(major, settings=settings, **options) as server:  # type: ignore[arg-type]
        yield server


def take_base(server: Server, folder: Path, *options: str) -> None:
    """Take a base backup into `folder`/base."""
    base = folder / "base"
    base.mkdir(mode=0o700)
    server_account("postgres").own(base)
    server.run("pg_basebackup", "-D", str(base), "-c", "fast", "-X", "none", "--no-sync", *options)


def finish_wal(server: Server) -> None:
    """Archive all WAL up to now."""
    server.query("SELECT pg_switch_wal()")
    server.query("CHECKPOINT")
    last = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn() - 1)")
    statement = f"SELECT coalesce(last_archived_wal, '') >= '{last}' FROM pg_stat_archiver"
    server.query("SELECT pg_switch_wal()")
    while not server.value(statement):
        server.query("SELECT pg_sleep(0.02)")


@contextlib.contextmanager
def recorded(
    seed: int, major: int, *, before: int = 15, after: int = 40, **options: object
) -> Iterator[Recorded]:
    """Record the random life of a seed: steps before and after the base backup."""
    with world_folder() as folder:
        with archiving_server(folder, major, **options) as server:
            workload = RandomWorkload(server, seed)
            workload.prepare()
            workload.run(before)
            take_base(server, folder)
            workload.run(after)
            workload.close()
            finish_wal(server)
            programs = server.bin
        yield Recorded(folder, major, programs)


def dump(programs: Path, environment: Mapping[str, str], tables: Sequence[str]) -> str:
    """Return what pg_dump writes of these tables, without its random keys."""
    names = [word for table in tables for word in ("-t", table)]
    done = subprocess.run(
        [programs / "pg_dump", *names],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


def some_tables(server: Server, chance: random.Random) -> list[str]:
    """Return the names of some tables that a recovered server has, or none."""
    found = server.query(
        "SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname IN ('shop', 'public') AND relkind IN ('r', 'p', 'm')"
        " AND relpersistence = 'p' ORDER BY 1",
        DATABASE,
    )
    names = [str(name) for (name,) in found]
    chosen = set(chance.sample(names, min(len(names), chance.choice((1, 1, 2, 4)))))
    # Those with every kind of column and index, most of the time.
    large = {"shop.orders", "shop.bills", "shop.extras"} & set(names)
    return sorted(chosen | large if chance.random() < 0.6 else chosen)
