"""Connections by libpq's rules: what is taken from where, what is pinned, what a refusal says."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.errors import (
    DatabaseRefused,
    PitrError,
    PrivilegeMissing,
    SourceUnreachable,
    SourceUnusable,
    UsageError,
)
from pitr.postgres.live.connection import connect, connect_replication
from pitr.postgres.live.faults import server_faults
from tests.postgres.fixtures import ServerMaker
from tools.postgres_binaries import Unavailable, pooler
from tools.postgres_servers import Server, unprivileged

PASSWORD = "open-sesame-4711"


@pytest.fixture
def guarded(server: Server) -> Server:
    """A server with a role `guest`, who needs a password, and may replicate, by password too."""
    server.query(f"CREATE ROLE guest LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    server.authenticate(
        "local replication,all guest scram-sha-256",
        "local replication wanderer reject",
        "local all all trust",
        "local replication postgres trust",
    )
    server.reload()
    return server


def refused(place: str, *, replication: bool = False) -> PitrError:
    with pytest.raises(PitrError) as caught:
        (connect_replication if replication else connect)(place)
    return caught.value


# ---- what comes from where -----------------------------------------------------------------------


def test_place_without_server_is_completed_by_libpq_variables(
    shared_server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty URL leads where PGHOST and its neighbours say, as with psql."""
    for name, value in shared_server.environment(database).items():
        monkeypatch.setenv(name, value)
    with connect("postgresql://") as connection:
        assert connection.info.dbname == database


def test_place_can_be_a_service(
    shared_server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """service=NAME is looked up in the service file."""
    file = tmp_path / "services"
    file.write_text(
        f"[shop]\nhost={shared_server.folder}\nport={shared_server.port}\nuser=postgres"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))

    with connect("service=shop", database=database) as connection:
        assert connection.info.dbname == database
    with connect_replication("service=shop") as sender:
        assert sender.execute("SHOW port").fetchone() == (str(shared_server.port).encode(),)


def test_password_comes_from_pgpass_for_both_kinds_of_connection(
    guarded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with * for the database lets replication in too."""
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:guest:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))

    connect(guarded.url(user="guest")).close()
    connect_replication(guarded.url(user="guest")).close()


def test_program_is_shown_in_activity_unless_user_named_another(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator sees which of our commands it is; PGAPPNAME goes before."""
    place = shared_server.url()
    with connect(place, program="pitr capture") as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("pitr capture",)
    monkeypatch.setenv("PGAPPNAME", "mine")
    with connect(place, program="pitr capture") as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("mine",)


# ---- what is pinned ------------------------------------------------------------------------------


@pytest.mark.every_major
def test_session_does_not_depend_on_settings_of_role_or_database(
    shared_server: Server, database: str
) -> None:
    """What a role was given for its application has no effect on what we read."""
    for setting, value in (
        ("statement_timeout", "40ms"),
        ("DateStyle", "German"),
        ("bytea_output", "escape"),
        ("search_path", "public, pg_catalog"),
        ("TimeZone", "Asia/Tokyo"),
        ("IntervalStyle", "sql_standard"),
    ):
        shared_server.query(f"ALTER DATABASE {database} SET {setting} = '{value}'")
    with connect(shared_server.url(database)) as connection:
        connection.execute("SELECT pg_catalog.pg_sleep(0.1)")
        row = connection.execute(
            "SELECT '2026-11-28 12:00+00'::timestamptz::text, '\\xff'::bytea::text,"
            " '1 day'::interval::text, current_setting('search_path')"
        ).fetchone()

    assert row == ("2026-11-28 12:00:00+00", "\\xff", "1 day", "pg_catalog,pg_temp")


@pytest.mark.every_major
def test_session_settings_are_given_at_its_start_and_by_no_statement(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement would stay behind in a pooler's session; the user's own options are kept."""
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=3MB -c search_path=public")
    with connect(shared_server.url()) as connection:
        rows = connection.execute(
            "SELECT name, setting, source FROM pg_settings WHERE source IN ('client', 'session')"
        ).fetchall()
    settings = {name: (setting, source) for name, setting, source in rows}

    assert settings["search_path"] == ("pg_catalog,pg_temp", "client")
    assert settings["work_mem"] == ("3072", "client")
    by_statement = {name for name, (_, source) in settings.items() if source == "session"}
    assert by_statement <= {"idle_session_timeout", "transaction_timeout"}


@pytest.fixture
def pgbouncer(shared_server: Server) -> Iterator[str]:
    """Yield the place of a PgBouncer before the shared server; skip where there is none."""
    try:
        root = pooler()
    except Unavailable as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="pitr-pgb-"))
    folder.chmod(0o777)
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\npostgres = user=postgres host={shared_server.folder} "
        f"port={shared_server.port}\n[pgbouncer]\nunix_socket_dir = {folder}\n"
        f"listen_port = 6432\nauth_type = any\nauth_file = {folder}/users\n"
        "pool_mode = transaction\n"
    )
    libraries = ":".join(str(path) for path in (root / "usr" / "lib").iterdir())
    process = subprocess.Popen(
        [*unprivileged(), "env", f"LD_LIBRARY_PATH={libraries}",
         str(root / "usr" / "sbin" / "pgbouncer"), str(folder / "ini")],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not listens(folder / ".s.PGSQL.6432"):
            assert process.poll() is None, "PgBouncer ended"
            time.sleep(0.01)
        yield f"postgresql://postgres@/postgres?host={folder}&port=6432"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def listens(path: Path) -> bool:
    """Return whether somebody takes connections at a socket: it exists a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.mark.parametrize("replication", [False, True])
def test_pooler_is_refused_and_named(pgbouncer: str, replication: bool) -> None:
    """Neither kind of connection is of use behind one; its sessions are not touched."""
    error = refused(pgbouncer, replication=replication)

    assert isinstance(error, SourceUnusable)
    assert "pooler" in (error.hint or "")


def test_text_comes_as_utf8_from_a_database_of_another_encoding(shared_server: Server) -> None:
    """The server converts; a name in Latin-1 is the name that its users read."""
    shared_server.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        shared_server.query('CREATE TABLE "größe" ()', "latin")
        with connect(shared_server.url("latin")) as connection:
            row = connection.execute(
                "SELECT relname::text FROM pg_class WHERE relname LIKE 'gr%%'"
            ).fetchone()
    finally:
        shared_server.query("DROP DATABASE latin")

    assert row == ("größe",)


# ---- refusals ------------------------------------------------------------------------------------


def test_place_that_libpq_does_not_understand_is_a_usage_error() -> None:
    """Exit 2, before anything is connected to."""
    for place in ("postgresql://host/db?colour=red", "host=x colour=red", "host"):
        error = refused(place)
        assert isinstance(error, UsageError)
        assert "postgresql://ROLE@HOST" in (error.hint or "")


def test_server_that_is_not_there_is_unreachable(server: Server) -> None:
    """Nobody listens: worth another try later."""
    server.stop()
    error = refused(server.url())

    assert isinstance(error, SourceUnreachable)
    assert str(server.folder) in (error.detail or "")


def test_server_that_never_answers_is_unreachable_after_the_timeout() -> None:
    """A host that takes the connection and stays silent does not hold us for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        error = refused(f"postgresql://127.0.0.1:{port}/x?connect_timeout=1")

    assert isinstance(error, SourceUnreachable)
    assert "timeout" in (error.detail or "")


def test_server_that_starts_up_is_unreachable(make_server: ServerMaker) -> None:
    """A standby that is not open yet will be, so it is worth another try."""
    primary = make_server()
    standby = primary.standby(settings={"hot_standby": False})
    try:
        standby.start(wait=False)
        while "entering standby mode" not in standby.log_text():
            pass
        error = refused(standby.url())
        while "No such file" in (error.detail or ""):
            error = refused(standby.url())
    finally:
        standby.discard()

    assert isinstance(error, SourceUnreachable)
    assert "not accepting" in (error.detail or "") or "starting up" in (error.detail or "")


def test_server_without_a_free_connection_is_unreachable(make_server: ServerMaker) -> None:
    """Too many clients is a matter of waiting, or of a setting that the hint names."""
    server = make_server(settings={"max_connections": 5, "superuser_reserved_connections": 0,
                                   "max_wal_senders": 1})  # fmt: skip
    held = [server.connect() for _ in range(5)]
    error = refused(server.url())
    with connect_replication(server.url()):
        also = refused(server.url(), replication=True)
    for connection in held:
        connection.close()

    assert isinstance(error, SourceUnreachable)
    assert "max_connections" in (error.hint or "")
    assert isinstance(also, SourceUnreachable)
    assert "max_wal_senders" in (also.hint or "")


def test_wrong_password_is_refused_and_shown_nowhere(
    guarded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint names ~/.pgpass; neither password is in any part of the error."""
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    error = refused(guarded.url(user="guest"))
    monkeypatch.delenv("PGPASSWORD")
    missing = refused(guarded.url(user="guest"))

    for each in (error, missing):
        assert isinstance(each, SourceUnusable)
        assert not isinstance(each, SourceUnreachable)
        assert ".pgpass" in (each.hint or "")
        assert "secret" not in f"{each.message} {each.detail} {each.hint}"


def test_unknown_role_and_unknown_database_are_refused(shared_server: Server) -> None:
    """Each names what is not there, and is not tried again."""
    role = refused(shared_server.url(user="nobody_here"))
    database = refused(shared_server.url("nowhere"))

    assert isinstance(role, SourceUnusable)
    assert "nobody_here" in (role.detail or "")
    assert isinstance(database, SourceUnusable)
    assert "DATABASE" in (database.hint or "")


@pytest.mark.every_major
def test_replication_by_a_role_without_the_right_names_the_right(server: Server) -> None:
    """Exit 3 with the statement that grants it, in every version's words."""
    server.query("CREATE ROLE wanderer LOGIN")
    error = refused(server.url(user="wanderer"), replication=True)

    assert isinstance(error, PrivilegeMissing)
    assert "ALTER ROLE" in (error.hint or "")


def test_replication_that_pg_hba_does_not_let_in_names_the_line(guarded: Server) -> None:
    """`all` in pg_hba.conf does not mean replication: the hint says so by giving the line."""
    guarded.query("CREATE ROLE wanderer LOGIN REPLICATION")
    guarded.query("CREATE ROLE stranger LOGIN REPLICATION")
    rejected = refused(guarded.url(user="wanderer"), replication=True)
    unnamed = refused(guarded.url(user="stranger"), replication=True)

    assert "pg_hba.conf" in (rejected.hint or "")
    assert "host replication" in (unnamed.hint or "")


def test_statement_on_a_connection_that_was_cut_is_unreachable(server: Server) -> None:
    """The server going away in the middle is told apart from a statement that it refuses."""
    with connect(server.url()) as connection:
        with pytest.raises(DatabaseRefused), server_faults("cannot divide"):
            connection.execute("SELECT 1 / 0")
        server.kill()
        with pytest.raises(SourceUnreachable, match="cannot ask"), server_faults("cannot ask"):
            connection.execute("SELECT 1")


def test_statement_that_the_role_may_not_run_is_a_missing_privilege(server: Server) -> None:
    """Exit 3, and not the database's refusal of our data."""
    server.query("CREATE TABLE secret (); CREATE ROLE wanderer LOGIN")
    with (
        connect(server.url(user="wanderer")) as connection,
        pytest.raises(PrivilegeMissing),
        server_faults("cannot read"),
    ):
        connection.execute("SELECT * FROM public.secret")
