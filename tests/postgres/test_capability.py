"""`check` on real servers: each point is found when it is so, and its remedy mends it."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pitr.errors import DatabaseRefused
from pitr.postgres.live import capability
from pitr.postgres.live.capability import ClusterWish, check_cluster
from pitr.postgres.live.connection import connect, connect_replication
from pitr.postgres.live.replication import ReplicationStream, identify
from pitr.postgres.live.role import role_script
from pitr.postgres.live.slot import create_slot, drop_slot
from pitr.vocabulary.finding import Finding, Level
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server


def wish(server: Server, tmp_path: Path, *, user: str = "postgres", **more: object) -> ClusterWish:
    """Return what a capture of a server would be checked for."""
    given: dict[str, object] = {
        "place": server.url(user=user),
        "database": None,
        "slot": "pitr_shop",
        "pg_bindir": server.bin,
        "spool": tmp_path / "state" / "spool",
        "spool_bytes_max": 1,
    }
    return ClusterWish(**(given | more))  # type: ignore[arg-type]


def found(asked: ClusterWish) -> dict[str, Finding]:
    """Return the findings by subject; of two about one subject the heavier."""
    weight = list(Level)
    findings = sorted(check_cluster(asked).findings, key=lambda each: weight.index(each.level))
    return {finding.subject: finding for finding in findings}


def levels(findings: dict[str, Finding], level: Level) -> set[str]:
    return {subject for subject, finding in findings.items() if finding.level is level}


def make_role(server: Server, name: str = "pitr") -> None:
    """Make a role as the script does. Not every folder of programs here has psql."""
    lines = Path(role_script()).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("--", "\\set")))
    for statement in re.split(r";|\\gexec", text):
        filled = statement.replace(":'role'", f"'{name}'").replace(':"role"', f'"{name}"').strip()
        rows = server.query(filled) if filled else []
        for row in rows:  # what \gexec does
            server.query(row[0])


# ---- the role ------------------------------------------------------------------------------------


@pytest.mark.every_major
def test_role_of_the_script_can_do_what_capture_needs_and_no_more(
    server: Server, tmp_path: Path
) -> None:
    """Slots, streaming, base backups, restore points and catalogs; no table, file, role or base."""
    server.query("CREATE TABLE secret AS SELECT 1 AS i")
    make_role(server)
    make_role(server)  # made already: mended
    place = server.url(user="pitr")
    findings = found(wish(server, tmp_path, user="pitr"))
    with connect(place) as connection, closing(connect_replication(place)) as sender:
        create_slot(connection, "pitr_shop")
        flushed = identify(sender).flushed
        connection.execute("SELECT pg_catalog.pg_create_restore_point('x')")
        connection.execute("SELECT count(*) FROM pg_catalog.pg_class")
        command = f"START_REPLICATION SLOT pitr_shop PHYSICAL {flushed} TIMELINE 1"
        stream = ReplicationStream(sender, command, failed="cannot stream")
        assert stream.result() is not None
        stream.cancel()
        with closing(connect_replication(place)) as another:
            backup = ReplicationStream(another, "BASE_BACKUP", failed="cannot back up")
            assert backup.result() is not None
            backup.cancel()
        for forbidden in (
            "SELECT * FROM public.secret",
            "SELECT pg_read_file('postgresql.conf')",
            "CREATE ROLE other",
            "CREATE DATABASE other",
            "ALTER SYSTEM SET work_mem = '1MB'",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
            "COPY (SELECT 1) TO '/var/tmp/pitr-no-such-file'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden.encode()).fetchall()
        while not _is_dropped(connection):
            time.sleep(0.05)

    assert not levels(findings, Level.FAIL)
    assert findings["role"].level is Level.OK


def _is_dropped(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Drop the slot once the WAL sender that was cancelled has let go of it."""
    try:
        return drop_slot(connection, "pitr_shop")
    except DatabaseRefused:  # it is active still
        return False


def test_role_script_runs_in_psql(server: Server) -> None:
    """As its header says."""
    server.run("psql", "-v", "role=Pit R", "-f", role_script())
    rows = server.query(
        "SELECT rolreplication, rolcanlogin, rolsuper FROM pg_roles WHERE rolname = 'Pit R'"
    )

    assert rows == [(True, True, False)]


def test_role_without_replication_fails_with_the_statement_that_mends_it(
    server: Server, tmp_path: Path
) -> None:
    """The remedy's first line is run as it stands."""
    server.query('CREATE ROLE "Some One" LOGIN')
    asked = wish(server, tmp_path, user="Some One", place=server.conninfo(user="Some One"))
    finding = found(asked)["role"]
    statement = re.search(r"ALTER ROLE .*?;", finding.remedy)
    assert statement
    server.query(statement[0])

    assert finding.level is Level.FAIL
    assert found(asked)["role"].level is Level.OK
    assert found(asked)["restore points"].level is Level.OK


def test_superuser_is_a_warning(server: Server, tmp_path: Path) -> None:
    """It works, and is more than is needed."""
    finding = found(wish(server, tmp_path))["role"]

    assert finding.level is Level.WARNING
    assert "role.sql" in finding.remedy


def test_replication_that_pg_hba_refuses_fails_with_the_line(
    server: Server, tmp_path: Path
) -> None:
    """SQL gets through and replication does not: told apart, with the line for pg_hba.conf."""
    server.authenticate("local all all trust")
    server.reload()
    finding = found(wish(server, tmp_path))["replication"]

    assert finding.level is Level.FAIL
    assert "pg_hba.conf" in finding.remedy


# ---- the server ----------------------------------------------------------------------------------


def test_server_that_does_not_answer_is_the_only_finding(server: Server, tmp_path: Path) -> None:
    """Nothing else can be said; there is no identity to compare."""
    server.stop()
    report = check_cluster(wish(server, tmp_path))

    assert report.system_identifier is None
    [finding] = report.findings
    assert (finding.level, finding.subject) == (Level.FAIL, "server")


def test_identity_is_the_system_identifier(server: Server, tmp_path: Path) -> None:
    """As the server prints it."""
    expected = server.value("SELECT system_identifier::text FROM pg_control_system()")
    assert check_cluster(wish(server, tmp_path)).system_identifier == expected


@pytest.mark.every_major
def test_settings_that_can_be_mended_are_found_and_mended(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """Each remedy that is SQL and needs no restart is run, and the finding is gone."""
    server = make_server(checksums=False, settings={"full_page_writes": False})
    server.query("CREATE UNLOGGED TABLE fleeting ()")
    before = found(wish(server, tmp_path))
    for subject in ("full_page_writes", "fsync", "max_slot_wal_keep_size"):
        for statement in re.findall(r"ALTER SYSTEM .*?;", before[subject].remedy):
            server.query(statement)
    server.query("ALTER TABLE fleeting SET LOGGED")
    server.reload()
    after = found(wish(server, tmp_path))

    assert before["full_page_writes"].level is Level.FAIL
    warned = {"fsync", "max_slot_wal_keep_size", "unlogged tables", "checksums"}
    assert warned <= levels(before, Level.WARNING)
    assert "production's disk" in before["max_slot_wal_keep_size"].detail
    assert not levels(after, Level.FAIL)
    assert not (warned - {"checksums"}) & levels(after, Level.WARNING)


def test_server_with_minimal_wal_and_no_senders_fails(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """Neither streaming nor replay; the remedies and a restart mend both."""
    server = make_server(settings={"wal_level": "minimal", "max_wal_senders": 0})
    before = found(wish(server, tmp_path))
    for subject in ("wal_level", "WAL senders"):
        [statement] = re.findall(r"ALTER SYSTEM .*?;", before[subject].remedy)
        server.query(statement)
    server.restart()
    after = found(wish(server, tmp_path))

    assert {"wal_level", "WAL senders"} <= levels(before, Level.FAIL)
    assert not levels(after, Level.FAIL)


def test_slots_that_are_all_taken_fail_and_one_sender_is_a_warning(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """Room for capture and a backup beside it."""
    server = make_server(settings={"max_replication_slots": 1, "max_wal_senders": 1})
    with connect(server.url()) as connection:
        create_slot(connection, "somebody")
    findings = found(wish(server, tmp_path))

    assert findings["slot"].level is Level.FAIL
    assert findings["WAL senders"].level is Level.WARNING
    assert found(wish(server, tmp_path, slot="somebody"))["slot"].level is Level.OK


def test_slot_that_cannot_be_ours_fails(make_server: ServerMaker, tmp_path: Path) -> None:
    """A logical one is somebody else's; a lost one has a gap behind it."""
    server = make_server(
        segment_megabytes=1,
        settings={"wal_level": "logical", "max_slot_wal_keep_size": "2MB", "min_wal_size": "2MB",
                  "max_wal_size": "2MB"},
    )  # fmt: skip
    server.query("SELECT pg_create_logical_replication_slot('theirs', 'test_decoding')")
    with connect(server.url()) as connection:
        create_slot(connection, "pitr_shop")
        for _ in range(6):
            server.query("SELECT pg_switch_wal(); CREATE TABLE t (); DROP TABLE t; CHECKPOINT")
    lost = found(wish(server, tmp_path))
    theirs = found(wish(server, tmp_path, slot="theirs"))

    assert lost["slot"].level is Level.FAIL
    assert "pg_drop_replication_slot('pitr_shop')" in lost["slot"].remedy
    assert lost["max_slot_wal_keep_size"].level is Level.WARNING
    assert theirs["slot"].level is Level.FAIL
    assert "logical" in theirs["slot"].detail


def test_standby_is_a_warning(server: Server, tmp_path: Path) -> None:
    """It can be followed, with less."""
    with server.standby() as standby:
        findings = found(wish(standby, tmp_path))

    assert findings["standby"].level is Level.WARNING
    assert not levels(findings, Level.FAIL)


# ---- this machine --------------------------------------------------------------------------------


def test_programs_of_another_version_are_a_warning(shared_server: Server, tmp_path: Path) -> None:
    """Capture works without them; the hint names the package and the option."""
    findings = found(wish(shared_server, tmp_path, pg_bindir=tmp_path))

    assert findings["programs"].level is Level.WARNING
    assert "--pg-bindir" in findings["programs"].remedy
    assert found(wish(shared_server, tmp_path))["programs"].level is Level.OK


def test_spool_without_room_is_a_warning(shared_server: Server, tmp_path: Path) -> None:
    """A folder that is not there yet counts as the disk that it will be on."""
    findings = found(wish(shared_server, tmp_path, spool_bytes_max=1 << 60))

    assert findings["spool"].level is Level.WARNING
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("ahead", "word"), [(30.0, "behind"), (-30.0, "ahead of")])
def test_clock_that_is_off_is_a_warning(
    shared_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
    word: str,
) -> None:
    """Our clock is set off instead of the server's: which of them is right nobody knows."""
    real = time.time
    monkeypatch.setattr(capability.time, "time", lambda: real() + ahead)
    finding = found(wish(shared_server, tmp_path))["clock"]

    assert finding.level is Level.WARNING
    assert f"30.0 s {word} this machine's" in re.sub(r"(29\.9|30\.\d)", "30.0", finding.detail)
