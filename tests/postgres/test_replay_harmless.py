"""A sidecar on the source's own host can do it no harm, and nothing of it outlives its command."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.errors import PreconditionFailed
from pitr.postgres.replay.replay import ReplayedTables
from pitr.postgres.replay.server import running, server_account
from tests.cli.commands import PITR, environment, succeed
from tests.postgres.replay_world import (
    Recorded,
    archiving_server,
    finish_wal,
    take_base,
    world_folder,
)
from tests.processes import beside
from tools.postgres_servers import Server

GONE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Production:
    """A live server that subscribes to another one and has a tablespace, and its backup and WAL."""

    server: Server
    publisher: Server
    recorded: Recorded
    tablespace: Path
    stop: int


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    """Set everything up that a careless sidecar would reach for."""
    with ExitStack() as stack:
        folder = stack.enter_context(world_folder())
        tablespace, copy, other = (folder / name for name in ("space", "copy", "other"))
        for place in (tablespace, copy, other):
            place.mkdir(mode=0o700)
            server_account("postgres").own(place)
        publisher = stack.enter_context(Server(15, settings={"wal_level": "logical"}))
        publisher.query("CREATE TABLE news (i int PRIMARY KEY)")
        publisher.query("CREATE PUBLICATION all_news FOR TABLE news")
        server = stack.enter_context(archiving_server(folder, 15, segment_megabytes=1))
        prepare(server, publisher, tablespace)
        take_base(server, folder, f"--tablespace-mapping={tablespace}={copy}")
        server.query("INSERT INTO orders SELECT i, 'later' FROM generate_series(101, 150) AS i")
        server.query(f"CREATE TABLESPACE second LOCATION '{other}'")
        server.query("CREATE TABLE moved TABLESPACE second AS SELECT 1 AS i")
        server.query("CREATE TABLE here AS SELECT 2 AS i")
        server.query("INSERT INTO kept VALUES (0)", "spaced")
        server.query("CREATE DATABASE later TABLESPACE second")
        server.query("CREATE TABLE kept AS SELECT generate_series(1, 7) AS i", "later")
        _quiet(server)
        stop = server.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        finish_wal(server)
        yield Production(server, publisher, Recorded(folder, 15, server.bin), tablespace, int(stop))


def _quiet(server: Server) -> None:
    """Let the server change no file by itself any more: what is written then, others wrote."""
    server.query("ALTER SYSTEM SET autovacuum = off")
    server.query("SELECT pg_reload_conf()")
    busy = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'"
    deadline = time.monotonic() + 60
    while server.value(busy):
        assert time.monotonic() < deadline, "autovacuum does not end"
        time.sleep(0.05)
    server.query("CHECKPOINT")


def prepare(server: Server, publisher: Server, tablespace: Path) -> None:
    """Give production a tablespace, a subscription, and settings that would load code."""
    server.query(f"CREATE TABLESPACE space LOCATION '{tablespace}'")
    server.query("CREATE DATABASE spaced TABLESPACE space")
    server.query("CREATE TABLE kept AS SELECT generate_series(1, 30) AS i", "spaced")
    server.query("CREATE TABLE orders (id int PRIMARY KEY USING INDEX TABLESPACE space, item text)"
                 " TABLESPACE space")  # fmt: skip
    server.query("INSERT INTO orders SELECT i, 'item' FROM generate_series(1, 100) AS i")
    server.query("CREATE TABLE news (i int PRIMARY KEY)")
    server.query(
        f"CREATE SUBSCRIPTION mine CONNECTION '{publisher.conninfo()}' PUBLICATION all_news"
    )
    server.query("ALTER DATABASE postgres SET session_preload_libraries = 'auto_explain'")
    server.query("ALTER ROLE postgres SET DateStyle = 'German'")
    server.query("ALTER SYSTEM SET archive_cleanup_command = 'touch /nonexistent/place'")


def recover(production: Production, *tables: str) -> ReplayedTables:
    """Recover tables at the stop."""
    return production.recorded.replayed(production.stop, tables, database="postgres")


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file in a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_tables_of_tablespaces_are_recovered_inside_the_sidecar(production: Production) -> None:
    """Those of the source are not written to, also one that was made after the backup."""
    before = seen(production.tablespace), seen(production.recorded.folder / "other")
    replayed = recover(production, "orders", "moved", "here")
    with running(replayed.server) as sidecar, sidecar.connect("postgres") as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM public.orders), (SELECT i FROM public.moved),"
            " (SELECT i FROM public.here)"
        ).fetchone()
        connection.execute("INSERT INTO public.orders VALUES (0, 'only here')")

    assert counts == (150, 1, 2)
    assert before == (seen(production.tablespace), seen(production.recorded.folder / "other"))
    links = [link.readlink() for link in (replayed.server.data / "pg_tblspc").iterdir()]
    assert links
    assert not [link for link in links if link.is_absolute()]


@pytest.mark.parametrize(("database", "rows"), [("spaced", 31), ("later", 7)])
def test_databases_of_tablespaces_are_recovered_inside_the_sidecar(
    production: Production, database: str, rows: int
) -> None:
    """Their catalogs lie there too, also where database and tablespace were made in the window."""
    before = seen(production.tablespace), seen(production.recorded.folder / "other")
    replayed = production.recorded.replayed(production.stop, ["kept"], database=database)
    with running(replayed.server) as sidecar, sidecar.connect(database) as connection:
        counted = connection.execute("SELECT count(*) FROM public.kept").fetchone()

    assert counted == (rows,)
    assert before == (seen(production.tablespace), seen(production.recorded.folder / "other"))


def test_subscription_of_the_source_stays_with_the_source(production: Production) -> None:
    """The sidecar has it in its catalog and starts no worker; the slot's reader is the same."""
    reader = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'mine'"
    before = production.publisher.value(reader)
    replayed = recover(production, "orders")
    with running(replayed.server) as sidecar, sidecar.connect("postgres") as connection:
        time.sleep(1)
        known = connection.execute("SELECT subname, subenabled FROM pg_subscription").fetchall()
        kinds = connection.execute("SELECT backend_type FROM pg_stat_activity").fetchall()
        production.publisher.query("INSERT INTO news SELECT coalesce(max(i), 0) + 1 FROM news")

    assert known == [("mine", True)]
    assert not [kind for (kind,) in kinds if "logical" in kind or "autovacuum" in kind]
    assert before is not None
    assert production.publisher.value(reader) == before


def test_sidecar_listens_on_one_private_socket_and_loads_nothing(production: Production) -> None:
    """No TCP, a socket in a folder of its own, no archiving, no library that the catalog names."""
    replayed = recover(production, "here")
    with running(replayed.server) as sidecar, sidecar.connect("postgres") as connection:
        names = (
            "listen_addresses", "archive_mode", "autovacuum", "shared_preload_libraries",
            "session_preload_libraries",
        )  # fmt: skip
        settings = [connection.execute(f"SHOW {name}").fetchone() for name in names]
        path = connection.execute("SHOW search_path").fetchone()
        assert sidecar.socket.stat().st_mode & 0o777 == 0o700
        assert len(str(sidecar.socket)) < 60
        psql = [replayed.server.binaries.path("psql"), "-Atc", "SELECT i FROM public.here"]
        shown = subprocess.run(
            psql, env=sidecar.environment("postgres"), capture_output=True, text=True, check=True
        )

    assert settings == [("",), ("off",), ("off",), ("",), ("",)]
    assert path == ("pg_catalog",)
    assert shown.stdout == "2\n"
    assert not sidecar.socket.exists()
    assert not (replayed.server.data / "postgresql.auto.conf").exists()


def test_server_of_a_sidecar_runs_for_one_command_at_a_time(production: Production) -> None:
    """A second command is refused, and the first one's server goes on."""
    replayed = recover(production, "here")
    with running(replayed.server) as sidecar, sidecar.connect("postgres") as connection:
        with pytest.raises(PreconditionFailed, match="in use"), running(replayed.server):
            pass
        assert connection.execute("SELECT i FROM public.here").fetchone() == (2,)


def postmasters(folder: Path) -> list[int]:
    """Return the processes that work in a folder or below."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "cwd").readlink().is_relative_to(folder):
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def restore_words(production: Production) -> list[str]:
    """Return the words of a restore."""
    recorded = production.recorded
    return [
        "restore", "--from-backup", str(recorded.base), "--from-wal", str(recorded.wal),
        "-t", "orders", "--at", "latest",
    ]  # fmt: skip


def status_of(folder: Path, server: str) -> str:
    """Return what a server of a recovery says of itself in its pid file; empty without one."""
    try:
        [file] = folder.glob(f"*/{server}/data/postmaster.pid")
        return file.read_text().splitlines()[7].strip()
    except (OSError, ValueError, IndexError):
        return ""


def is_settled(folder: Path) -> bool:
    """Return whether the sidecar has the settings with which it stays."""
    texts = [path.read_text() for path in folder.glob("*/sidecar/data/postgresql.conf")]
    return any(text.endswith("\n") and "recovery_target" not in text for text in texts)


STEPS: dict[str, Callable[[Path], object]] = {
    "begun": lambda folder: list(folder.iterdir()),
    "catalogs being copied": lambda folder: list(folder.glob("*/catalogs/data/base")),
    "catalogs in recovery": lambda folder: status_of(folder, "catalogs"),
    "catalogs just promoted": lambda folder: status_of(folder, "catalogs") == "ready",
    "catalogs taken over": lambda folder: list(folder.glob("*/sidecar/data/base")),
    "tables in recovery": lambda folder: status_of(folder, "sidecar"),
    "tables just promoted": lambda folder: status_of(folder, "sidecar") == "ready",
    "settled": is_settled,
}
SERVED = ("catalogs in recovery", "catalogs just promoted", "tables in recovery",
          "tables just promoted")  # fmt: skip


@pytest.mark.parametrize(
    ("victim", "step"),
    [*(("pitr", step) for step in STEPS), *(("sidecar", step) for step in SERVED)],
)
def test_restore_killed_at_a_step_leaves_nothing_behind(
    production: Production, victim: str, step: str, tmp_path: Path
) -> None:
    """Kill -9 of pitr or of its server: no process stays, and no half-made recovery."""
    with world_folder() as sidecars:
        places = {"PITR_STATE": str(tmp_path / "state"), "PITR_SIDECAR_FOLDER": str(sidecars)}
        with beside(
            [*PITR, *restore_words(production)],
            env=environment(**places),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            wait_for(lambda: STEPS[step](sidecars) or process.poll() is not None)
            found = [process.pid] if victim == "pitr" else postmasters(sidecars)
            for number in found[:1]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        wait_for(lambda: not postmasters(sidecars))
        listed = succeed(tmp_path, "recoveries", "--json", **places).json["recoveries"]
        assert len(listed) == (process.returncode == 0)
        assert len(list(sidecars.iterdir())) == len(listed)


def test_restore_after_a_kill_works(production: Production, tmp_path: Path) -> None:
    """What a killed one left is in nobody's way."""
    with world_folder() as sidecars:
        places = {"PITR_STATE": str(tmp_path / "state"), "PITR_SIDECAR_FOLDER": str(sidecars)}
        with beside(
            [*PITR, *restore_words(production)],
            env=environment(**places),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            wait_for(lambda: STEPS["tables in recovery"](sidecars) or process.poll() is not None)
            process.kill()
        succeed(tmp_path, *restore_words(production), **places)
        assert len(list(sidecars.iterdir())) == 1


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail when it does not come to that."""
    deadline = time.monotonic() + GONE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
