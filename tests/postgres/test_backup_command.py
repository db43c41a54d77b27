"""pitr backup and pitr debug export as a user types them, with a real server at both ends."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from tests.cli.commands import pitr, succeed
from tests.postgres.backups import adopt, own, require_programs, started, table_digest
from tools.postgres_servers import Server, scratch_place

KEEP: dict[str, str | int | bool] = {"wal_keep_size": "1GB"}


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """A folder with a pitr.toml whose source is the server."""
    store = LocalStore(tmp_path / "archive")
    store.make()
    adopt(store, server)
    settings = {"source": server.url(), "engine": "postgres", "archive": "archive", "state": "."}
    lines = [f'{key} = "{value}"' for key, value in settings.items()]
    (tmp_path / "pitr.toml").write_text("\n".join(["[source.shop]", *lines, ""]))
    return tmp_path


@pytest.fixture
def target() -> Iterator[Path]:
    """A folder that the servers' user may enter, for exports."""
    scratch = Path(tempfile.mkdtemp(prefix="pitr-export-", dir=scratch_place()))
    scratch.chmod(0o755)
    yield scratch
    shutil.rmtree(scratch, ignore_errors=True)


def test_backup_and_export_give_a_server_with_every_commit(
    server: Server, folder: Path, target: Path
) -> None:
    """From the archive alone PostgreSQL starts, verified, with what was committed since."""
    require_programs(server)
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 9000) AS i")
    made = succeed(folder, "backup", "--checkpoint", "fast", "--json").json
    server.query("INSERT INTO t SELECT i, 'later' FROM generate_series(1, 500) AS i")
    middle = server.value("SELECT pg_current_wal_flush_lsn()")
    server.query("DELETE FROM t WHERE i % 2 = 0")
    wanted = table_digest(server, "t")
    succeed(folder, "mark", "the-end")

    assert made["damaged"] == []
    assert made["bytes"] > 1_000_000
    done = succeed(folder, "debug", "export", str(target / "data"), "--json").json
    assert done["base"] == made["id"]
    segments = [path for path in (target / "data" / "pg_wal").iterdir() if len(path.name) == 24]
    assert len(segments) == done["segments"]
    # The last one is still open on the server.
    for path in sorted(segments)[:-1]:
        assert filecmp.cmp(path, server.wal / path.name, shallow=False)
    own(target)
    with started(target / "data", server) as found:
        found.run("pg_amcheck", "--all", "--install-missing", "--heapallindexed")
        assert table_digest(found, "t") == wanted
    until = ["--until", f"lsn:{middle}"]
    succeed(folder, "debug", "export", str(target / "middle"), *until)
    own(target)
    with started(target / "middle", server) as found:
        assert found.value("SELECT count(*) FROM t") == 9500


def test_export_follows_the_timelines_of_failovers(
    server: Server, folder: Path, target: Path
) -> None:
    """From a base of timeline 1 a server comes up with what two promoted ones wrote since."""
    require_programs(server)
    server.query("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i")
    succeed(folder, "backup", "--checkpoint", "fast")
    settings = (folder / "pitr.toml").read_text()
    with server.standby(settings=KEEP) as second:
        fail_over(server, second, rows=10)
        with second.standby(settings=KEEP) as third:
            second.query("SELECT pg_switch_wal()")
            to_another_server(folder, settings.replace(server.url(), second.url()))
            fail_over(second, third, rows=20)
            to_another_server(folder, settings.replace(server.url(), third.url()))
            wanted = table_digest(third, "t")

    done = succeed(folder, "debug", "export", str(target / "data"), "--json").json
    assert done["timeline"] == 3
    succeed(folder, "debug", "export", str(target / "first"), "--timeline", "1")
    own(target)
    with started(target / "data", server) as found:
        while found.value("SELECT pg_is_in_recovery()"):
            time.sleep(0.02)
        assert table_digest(found, "t") == wanted
        assert found.value("SELECT count(*) FROM t") == 130
        found.run("pg_amcheck", "--all", "--install-missing")
    with started(target / "first", server) as found:
        assert found.value("SELECT count(*) FROM t") == 100


def fail_over(primary: Server, standby: Server, rows: int) -> None:
    """Promote a standby that has all of its primary, and let it write."""
    end = primary.value("SELECT pg_current_wal_flush_lsn()")
    while not standby.value(f"SELECT pg_last_wal_replay_lsn() >= '{end}'"):
        time.sleep(0.02)
    primary.stop()
    standby.promote()
    standby.query(f"INSERT INTO t SELECT i FROM generate_series(1, {rows}) AS i")


def to_another_server(folder: Path, settings: str) -> None:
    """Have the archive go on with the server that these settings name."""
    (folder / "pitr.toml").write_text(settings)
    succeed(folder, "capture", "--once")


def test_export_to_a_timeline_that_no_base_leads_to_is_refused(
    server: Server, folder: Path, target: Path
) -> None:
    """The error says so, and nothing is written."""
    succeed(folder, "backup", "--checkpoint", "fast")
    done = pitr(folder, "debug", "export", str(target / "data"), "--timeline", "7")

    assert done.code == 4
    assert "on the way to timeline 7" in done.err
    assert not (target / "data").exists()


def test_second_backup_adds_little_and_status_lists_both(server: Server, folder: Path) -> None:
    """Both bases stand in `status`, and the second one cost next to nothing."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i")
    first = succeed(folder, "backup", "--checkpoint", "fast", "--json").json
    second = succeed(folder, "backup", "--checkpoint", "fast", "--json").json

    assert second["bytes"] < first["bytes"] / 10


def test_export_without_its_wal_is_refused(server: Server, folder: Path, target: Path) -> None:
    """A base whose WAL is not archived is no database: exit 4, and nothing is written."""
    succeed(folder, "backup", "--checkpoint", "fast")
    shutil.rmtree(folder / "archive" / "wal")
    done = pitr(folder, "debug", "export", str(target / "data"), "--json")

    assert done.code == 4
    assert "capture" in done.error["hint"]
    assert not (target / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--until", "yesterday"], 2),
        (["--until", "lsn:0/1"], 4),
        (["--base", "20200101T000000Z.00000001.0000000001000000"], 4),
    ],
)
def test_export_of_what_is_not_there_is_refused(
    server: Server, folder: Path, target: Path, arguments: list[str], code: int
) -> None:
    """A base or an LSN that the archive does not have: exit 4; a text that is none: exit 2."""
    succeed(folder, "backup", "--checkpoint", "fast")
    done = pitr(folder, "debug", "export", str(target / "data"), *arguments, "--json")

    assert done.code == code
    assert not (target / "data").exists()


def test_export_overwrites_nothing(server: Server, folder: Path, target: Path) -> None:
    """A folder with something in it is refused, and left as it is: exit 3."""
    succeed(folder, "backup", "--checkpoint", "fast")
    (target / "data").mkdir()
    (target / "data" / "precious").write_text("rows")
    done = pitr(folder, "debug", "export", str(target / "data"), "--json")

    assert done.code == 3
    assert [path.name for path in (target / "data").iterdir()] == ["precious"]


def test_rate_that_the_server_cannot_keep_is_refused(server: Server, folder: Path) -> None:
    """Rates outside PostgreSQL's range, and texts that are none: exit 2, nothing is done."""
    for rate in ("1", "5TB", "fast"):
        done = pitr(folder, "backup", "--max-rate", rate, "--json")
        assert done.code == 2
        assert "50MB" in done.error["hint"]
    assert not (folder / "archive" / "base").exists()


def test_options_of_postgres_mean_nothing_on_sqlite(tmp_path: Path) -> None:
    """A checkpoint or a rate for a file is a mistake: exit 2."""
    subprocess.run(["python3", "-c", "import sqlite3; c = sqlite3.connect('a.db'); "
                    "c.executescript('PRAGMA journal_mode=WAL; CREATE TABLE t (i)')"],
                   cwd=tmp_path, check=True)  # fmt: skip
    succeed(tmp_path, "init", "a.db", "--archive", "archive")

    assert pitr(tmp_path, "backup", "--checkpoint", "fast").code == 2
    assert pitr(tmp_path, "backup", "--max-rate", "50MB").code == 2
    assert pitr(tmp_path, "backup").code == 0
