"""The test servers themselves: what the other tests build on must hold."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.postgres.fixtures import ServerMaker
from tests.processes import beside
from tests.test_tidy import ROOT
from tools.postgres_binaries import WHEEL_VERSIONS
from tools.postgres_identity import crc32c
from tools.postgres_servers import Server

MAKER = """
import sys, time
from tools.postgres_servers import Server
server = Server(15)
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(300)
"""


@pytest.mark.every_major
def test_server_of_each_version_runs_and_recovers_from_a_kill(server: Server, major: int) -> None:
    """It is the version that was asked for, keeps what was committed, and has its own identity."""
    server.query("CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
    server.kill()
    assert not server.running
    server.start()

    assert server.value("SELECT current_setting('server_version_num')::int") // 10000 == major
    assert server.value("SELECT count(*) FROM t") == 10
    assert "was not properly shut down" in server.log_text()


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_server_whose_maker_dies_ends_with_its_folder(death: signal.Signals) -> None:
    """Whatever the maker died of, seconds later there is neither a process nor a folder."""
    command = [sys.executable, "-c", MAKER]
    with beside(command, cwd=ROOT, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        pid, folder = maker.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        maker.send_signal(death)
        maker.wait()

    assert within(20, lambda: not Path(f"/proc/{pid}").exists())
    assert within(20, lambda: not Path(folder).exists())


def test_server_that_cannot_start_says_why(make_server: ServerMaker) -> None:
    """The end of its log is in the error, and nothing is left of it."""
    with pytest.raises(RuntimeError, match="unrecognized configuration parameter"):
        make_server(settings={"no_such_setting": 1})


def test_servers_of_one_template_are_different_clusters(make_server: ServerMaker) -> None:
    """Each has a system identifier of its own, also in the WAL that it goes on writing."""
    servers = [make_server(), make_server()]
    identifiers = {
        server.value("SELECT system_identifier FROM pg_control_system()") for server in servers
    }
    segments = {
        int.from_bytes((server.wal / f"{1:08X}{0:08X}{1:08X}").read_bytes()[24:32], sys.byteorder)
        for server in servers
    }

    assert len(identifiers) == 2
    assert segments == identifiers


def test_server_options_are_those_of_initdb(make_server: ServerMaker) -> None:
    """Checksums and the size of a WAL segment are as asked for."""
    server = make_server(
        checksums=False, segment_megabytes=1, settings={"wal_compression": True, "work_mem": "5MB"}
    )

    assert server.value("SHOW data_checksums") == "off"
    assert server.value("SHOW wal_segment_size") == "1MB"
    assert server.value("SHOW work_mem") == "5MB"


def test_server_never_runs_as_root(server: Server) -> None:
    """PostgreSQL refuses root, so the tests run it as somebody else when they are root."""
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_server_stops_and_starts_in_every_way(server: Server) -> None:
    """Each mode ends it, and it comes back on the same socket."""
    for mode in ("smart", "fast", "immediate"):
        server.stop(mode)
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            server.connect()
        server.start()
        assert server.value("SELECT 1") == 1


def test_standby_follows_and_becomes_primary(server: Server) -> None:
    """A standby has the primary's identity and, promoted, a timeline of its own."""
    server.query("CREATE TABLE t AS SELECT 1 AS i")
    identity = server.value("SELECT system_identifier FROM pg_control_system()")
    with server.standby(slot="standby") as standby:
        assert standby.value("SELECT pg_is_in_recovery()")
        server.stop()
        standby.promote()
        standby.query("INSERT INTO t VALUES (2); CHECKPOINT")

        assert standby.value("SELECT count(*) FROM t") == 2
        assert standby.value("SELECT system_identifier FROM pg_control_system()") == identity
        assert standby.value("SELECT timeline_id FROM pg_control_checkpoint()") == 2


def test_authentication_rules_count_after_a_reload(server: Server) -> None:
    """A role with a password needs it once pg_hba.conf says so."""
    server.query("CREATE ROLE guest LOGIN PASSWORD 'open sesame'")
    server.authenticate("local all guest scram-sha-256", "local all all trust")
    server.reload()

    with pytest.raises(psycopg.OperationalError, match="password"):
        server.connect(user="guest")
    server.connect(user="guest", password="open sesame").close()


def test_database_of_the_shared_server_is_empty_and_private(
    shared_server: Server, database: str
) -> None:
    """Two tests on one server do not see each other's tables."""
    assert not shared_server.query("SELECT * FROM pg_tables WHERE schemaname = 'public'", database)


def test_version_that_pip_brings_is_pinned_for_each_major() -> None:
    """The pins name the majors that they are pins of."""
    assert all(text.startswith(f"{major}.") for major, text in WHEEL_VERSIONS.items())


def test_crc32c_agrees_with_its_published_check_value() -> None:
    """The check value of the Castagnoli polynomial is that of the digits 1 to 9."""
    assert crc32c(b"123456789") == 0xE3069283


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Return whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
