"""`pitr guard run` on PostgreSQL: what a command's own transactions cost, whoever else writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from tests.cli.commands import PITR, Done, environment, pitr, succeed
from tests.cli.migrations import alembic, django
from tests.postgres.backups import take
from tests.postgres.capture_world import wait_until
from tests.postgres.fixtures import ServerMaker
from tests.postgres.replay_world import world_folder
from tests.processes import beside
from tools.postgres_servers import Server

SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, item text, cents int);
CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE);
CREATE TABLE notes (id int PRIMARY KEY);
INSERT INTO orders SELECT i, 'item ' || i, 100 FROM generate_series(1, 20) AS i;
INSERT INTO lines SELECT i, 1 + i % 20 FROM generate_series(1, 40) AS i;
INSERT INTO notes VALUES (1);
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A server with a base in an archive, and a capture of it that runs."""

    server: Server
    folder: Path
    changes: dict[str, str]

    def guard(self, *words: str) -> Done:
        """Run a command under guard, with --json."""
        return pitr(self.folder, "guard", "run", "--json", *words, **self.changes)

    def psql(self, *statements: str) -> list[str]:
        """Return the command line that runs statements, each by itself, at their first error 3."""
        words = [str(self.server.bin / "psql"), "-qX", "-v", "ON_ERROR_STOP=1"]
        given = (word for statement in statements for word in ("-c", statement))
        return [*words, self.server.url(), *given]

    def repair(self, line: str) -> None:
        """Run a repair as it was printed, and merge."""
        words = line.split()
        assert words[0] == "pitr"
        succeed(self.folder, *words[1:], **self.changes)
        succeed(self.folder, "merge", "--yes", **self.changes)


@contextmanager
def made(server: Server, folder: Path) -> Iterator[Site]:
    """Make the archive, with a base after the schema."""
    with world_folder() as sidecars:
        changes = {"PITR_SIDECAR_FOLDER": str(sidecars), "PITR_STATE": str(folder / "state")}
        succeed(folder, "init", server.url(), "--archive", "archive", **changes)
        server.query(SCHEMA)
        take(server, LocalStore(folder / "archive"))
        yield Site(server, folder, changes)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server with a capture for all tests that have no other wish."""
    folder = tmp_path_factory.mktemp("captured")
    settings = {"wal_keep_size": "1GB"}
    with (
        Server(15, settings=settings, segment_megabytes=1) as server,
        made(server, folder) as found,
        running_capture(found),
    ):
        yield found


@contextmanager
def running_capture(site: Site) -> Iterator[None]:
    """Let `pitr capture` run while the block does."""
    command = [*PITR, "capture"]
    with beside(
        command, cwd=site.folder, env=environment(**site.changes), stderr=subprocess.DEVNULL
    ) as process:
        try:
            status = partial(succeed, site.folder, "status", "--json", **site.changes)
            wait_until(lambda: status().json["capturing"] or process.poll(), "the capture", 60)
            yield
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def site(captured: Site) -> Site:
    """The captured server, its tables as they were."""
    captured.server.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    captured.server.query(SCHEMA)
    return captured


def by_table(document: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return what the document says of each table, without what says nothing."""
    tables: list[dict[str, object]] = document["tables"]  # type: ignore[assignment]
    return {
        str(table["table"]): {
            name: value for name, value in table.items() if value and name != "table"
        }
        for table in tables
    }


def test_own_transactions_are_told_from_others_and_taken_back(site: Site) -> None:
    """Cascades count; another session's DELETE in the window does not, and stays done."""
    other = f"{site.psql('DELETE FROM notes')[0]} -qX '{site.server.url()}' -c 'DELETE FROM notes'"
    script = site.folder / "migrate.sh"
    own = " ".join([str(site.server.bin / "psql"), "-qX", f"'{site.server.url()}'"])
    script.write_text(
        f"set -e\n{own} -c 'DELETE FROM orders WHERE id > 15'\nPGOPTIONS= {other}\n"
        f'{own} -c "UPDATE orders SET cents = 7 WHERE id = 1"\necho done\n'
    )
    done = site.guard("--", "sh", str(script))

    assert done.code == 0, done.err
    assert done.out.startswith("done\n{")
    document = Done(0, done.out.removeprefix("done\n"), "").json
    assert by_table(document) == {
        "public.lines": {"deleted": 10},
        "public.orders": {"deleted": 5, "updated": 1},
    }
    assert document["attributed_by"] == "xid"
    assert document["other_transactions"] == 1
    assert document["exit_code"] == 0
    site.repair(document["repair"])
    assert site.server.value("SELECT count(*) FROM orders WHERE cents = 100") == 20
    assert site.server.value("SELECT count(*) FROM lines") == 40
    assert site.server.value("SELECT count(*) FROM notes") == 0


def test_limit_that_is_passed_ends_with_1_and_is_repaired(site: Site) -> None:
    """DROP, TRUNCATE, a dropped column and a rewrite; rows of unknown number pass any limit."""
    command = site.psql(
        "DROP TABLE notes", "TRUNCATE lines", "ALTER TABLE orders DROP COLUMN cents",
        "CREATE TABLE fresh AS SELECT 1 AS a", "DELETE FROM fresh",
    )  # fmt: skip
    limits = ("--max-deleted", "1000", "--forbid", "drop,truncate", "--auto-repair")
    done = site.guard(*limits, "--", *command)

    assert done.code == 1, done.err
    assert by_table(done.json) == {
        "public.fresh": {"inserted": 1, "deleted": 1, "created": True},
        "public.lines": {"truncated": True},
        "public.notes": {"dropped": True},
        "public.orders": {"columns_dropped": ["cents"]},
    }
    assert len(done.json["limits_passed"]) == 3
    assert done.json["repaired"]["inserted"] == 41
    assert site.server.value("SELECT count(*) FROM lines") == 40
    assert site.server.value("SELECT count(*) FROM notes") == 1


def test_command_that_fails_ends_with_20_and_what_it_did_is_told(site: Site) -> None:
    """Its own code is in the document; within the limits nothing is repaired."""
    command = site.psql("DELETE FROM notes", "SELECT 1 / 0")
    done = site.guard("--max-deleted", "5", "--", *command)

    assert (done.code, done.json["exit_code"]) == (20, 1)
    assert by_table(done.json) == {"public.notes": {"deleted": 1}}
    assert done.json["repair"].startswith("pitr revert lsn:")
    assert "-t public.notes" in done.json["repair"]


def test_command_whose_driver_knows_no_stamp_is_counted_by_the_window(site: Site) -> None:
    """It is said, and nothing is repaired without being asked: it may be another's work."""
    command = ["env", "PGOPTIONS=", *site.psql("DELETE FROM notes")]
    done = site.guard("--max-deleted", "0", "--auto-repair", "--", *command)
    assert done.code == 1
    assert done.json["attributed_by"] == "window"
    assert "stamp" in done.json["doubt"]
    assert done.json["repaired"] is None
    assert "work of others" in done.json["fault"]

    site.server.query("INSERT INTO notes VALUES (2)")
    done = site.guard("--window", "--max-deleted", "0", "--auto-repair", "--", *command)
    assert done.code == 1
    assert done.json["doubt"] is None
    assert done.json["repaired"]["inserted"] == 1


def test_stamp_is_on_the_commits_of_the_command_alone(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """On every version; without a capture the command archives itself, and says so."""
    server = make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1)
    with made(server, tmp_path) as site:
        code = (
            "import psycopg, os; url = os.environ['URL'];"
            "c = psycopg.connect(url); c.execute('DELETE FROM notes'); c.commit();"
            "d = psycopg.connect(url, options='-c work_mem=1MB');"
            "d.execute('DELETE FROM lines'); d.commit()"
        )
        command = ["env", f"URL={server.url()}", sys.executable, "-c", code]
        done = site.guard("--", *command)
        assert done.code == 0, done.err
        assert "no capture is running" in done.err
        assert by_table(done.json) == {"public.notes": {"deleted": 1}}
        assert done.json["other_transactions"] == 1


def test_archive_that_is_not_proven_current_lets_nothing_run(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """No base, or no archive: exit 3, and the command was not started."""
    server = make_server(segment_megabytes=1)
    succeed(tmp_path, "init", server.url(), "--archive", "archive")
    state = {"PITR_STATE": str(tmp_path / "state")}
    done = pitr(tmp_path, "guard", "run", "--json", "--", "touch", "ran", **state)
    assert done.code == 3
    assert "not run" in done.error["message"]
    assert "base" in done.error["message"]
    assert not (tmp_path / "ran").exists()


def test_alembic_migration_is_counted(site: Site, tmp_path: Path) -> None:
    """Through SQLAlchemy and psycopg, in one transaction."""
    server = site.server
    server.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    url = f"postgresql+psycopg:///postgres?host={server.folder}&user=postgres"
    run(tmp_path, alembic(tmp_path, url, "one"))
    done = site.guard("--", *alembic(tmp_path, url, "two"))

    assert done.code == 0, done.err
    tables = by_table(done.json)
    assert tables["public.orders"] == {"deleted": 5}
    assert tables["public.notes"] == {"dropped": True}
    assert done.json["attributed_by"] == "xid"
    assert done.json["repair"].startswith("pitr revert lsn:")


def test_django_migration_is_counted(site: Site, tmp_path: Path) -> None:
    """Rows deleted by its models and a column that is removed."""
    server = site.server
    server.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    database: dict[str, object] = {
        "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres",
        "HOST": str(server.folder),
    }  # fmt: skip
    run(tmp_path, django(tmp_path, database, "0001"))
    done = site.guard("--forbid", "drop-column", "--", *django(tmp_path, database, "0002"))

    assert done.code == 1, done.err
    document = Done(1, done.out[done.out.index("\n{") + 1 :], "").json
    tables = by_table(document)
    assert tables["public.orders"] == {"deleted": 5, "columns_dropped": ["cents"]}
    assert document["attributed_by"] == "xid"


def run(folder: Path, command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
