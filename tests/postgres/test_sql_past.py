"""`pitr sql --at` on PostgreSQL: which tables a statement reads, and what it may not do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.config import resolve_settings
from pitr.errors import UsageError
from pitr.operations.postgres.sidecar import kept_server
from pitr.postgres.replay.reader import connect_reader
from pitr.postgres.replay.server import running
from pitr.postgres.replay.sidecar_query import FileAbsent, query
from pitr.recovery.folder import read_recovery
from tests.cli.commands import pitr, succeed, told
from tests.postgres.backups import take
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

BEFORE = """
CREATE SCHEMA shop;
CREATE SCHEMA "Größe Ü";
ALTER DATABASE postgres SET search_path = shop, public;
SET search_path = shop, public;
CREATE TABLE shop.orders (id int PRIMARY KEY, item text, cents numeric);
INSERT INTO shop.orders SELECT i, 'item ' || i, i * 10 FROM generate_series(1, 100) AS i;
CREATE TABLE public.orders AS SELECT 'of public' AS item;
CREATE TABLE "Größe Ü"."Order ""Items"" 1" ("Köln" int);
INSERT INTO "Größe Ü"."Order ""Items"" 1" SELECT generate_series(1, 3);
CREATE TABLE shop.parts (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE shop.parts_1 PARTITION OF shop.parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE shop.parts_2 PARTITION OF shop.parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO shop.parts VALUES (1, '2026-01-05'), (2, '2026-02-05');
CREATE TABLE shop.secret AS SELECT 1 AS one;
ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY;
CREATE TABLE shop.big AS
    SELECT i, repeat(md5(i::text), 100) AS t FROM generate_series(1, 2000) AS i;
CREATE UNLOGGED TABLE shop.cache (i int);
CREATE VIEW shop.dear AS SELECT * FROM shop.orders WHERE cents > 500;
CREATE VIEW public.dearest AS SELECT * FROM shop.dear WHERE cents > 900;
CREATE MATERIALIZED VIEW shop.summed AS SELECT sum(cents) AS cents FROM shop.orders;
CREATE FUNCTION shop.in_sql() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM parts';
CREATE FUNCTION shop.in_plpgsql(int) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE found bigint; BEGIN found := (SELECT count(*) FROM dear); RETURN found + $1; END $$;
CREATE FUNCTION shop.made_up(name text) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE found bigint; BEGIN EXECUTE 'SELECT count(*) FROM ' || name INTO found;
    RETURN found; END $$;
CREATE FUNCTION shop.reads_files() RETURNS text LANGUAGE sql SECURITY DEFINER
    AS $$ SELECT pg_catalog.pg_read_file('PG_VERSION') $$;
CREATE FUNCTION shop.reads_hidden() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE found text; BEGIN
    EXECUTE 'SELECT pg_catalog.pg_' || 'read_file(''PG_VERSION'')' INTO found; RETURN found; END $$;
CREATE FUNCTION shop.runs_programs() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''cat >/dev/null'''; RETURN 1; END $$;
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE shop.far (line text) SERVER files OPTIONS (program 'echo reached');
CREATE ROLE pitr_reader;
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A server with an archive; `good` names the state before everything was dropped."""

    server: Server
    folder: Path

    def ask(self, statement: str) -> list[list[object]]:
        """Return the rows of the past."""
        words = ["sql", "--at", "name:good", statement, "--json"]
        rows: list[list[object]] = succeed(self.folder, *words).json["rows"]
        return rows


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make a source with a base, a mark, and a DROP of everything after it."""
    folder = tmp_path_factory.mktemp("site")
    with (
        Server(15, settings={"wal_keep_size": "1GB"}, segment_megabytes=1) as server,
        world_folder() as sidecars,
    ):
        changes = {"PITR_SIDECAR_FOLDER": str(sidecars), "PITR_STATE": str(folder / "state")}
        os.environ.update(changes)
        try:
            server.query("CREATE DATABASE other")
            succeed(folder, "init", server.url(), "--archive", "archive")
            take(server, LocalStore(folder / "archive"))
            server.query(BEFORE)
            server.query("CREATE TABLE orders AS SELECT 'of other' AS item", database="other")
            succeed(folder, "mark", "good")
            server.query('DROP SCHEMA shop, "Größe Ü" CASCADE')
            succeed(folder, "mark", "gone")
            yield Site(server, folder)
            assert not list(sidecars.iterdir())
            assert not list((folder / "state/recoveries").iterdir())
        finally:
            for name in changes:
                del os.environ[name]


def test_statement_is_answered_as_of_the_target(site: Site) -> None:
    """Tables behind views, functions, partitions and made-up texts are there as they were."""
    answers = {
        "(SELECT count(*) FROM orders)": 100,
        "(SELECT item FROM public.orders)": "of public",
        '(SELECT sum("Köln") FROM "Größe Ü"."Order ""Items"" 1")': 6,
        "(WITH secret AS (SELECT 1 AS x) SELECT x FROM secret)": 1,
        "(SELECT count(*) FROM dearest)": 10,
        "(SELECT cents FROM summed)": "50500",
        "in_sql()": 2,
        "in_plpgsql(1000)": 1050,
        "made_up('secret')": 1,
        "(SELECT length(t) FROM big WHERE i = 7)": 3200,
        "(SELECT 1.50)": "1.50",
        "timestamptz '2026-11-22 12:00+02'": "2026-11-22 10:00:00+00",
        "'\\x00ff'::bytea": "\\x00ff",
    }
    assert site.ask(f"SELECT {', '.join(answers)}") == [list(answers.values())]


def test_database_of_the_cluster_is_chosen(site: Site) -> None:
    """--database, as for restore; without it that of the source."""
    words = ["sql", "--at", "name:good", "--json", "--database"]
    statement = "SELECT current_database(), item FROM orders"
    found = succeed(site.folder, *words, "other", statement).json
    assert found["rows"] == [["other", "of other"]]
    done = pitr(site.folder, *words, "nowhere", statement)
    assert (done.code, "no database nowhere" in done.error["message"]) == (2, True), done.err


def test_answer_is_csv_where_it_is_no_terminal(site: Site) -> None:
    """With the echo of the target on stderr; the index is there to be used."""
    csv = pitr(site.folder, "sql", "--at", "name:good", "SELECT id, item FROM orders WHERE id < 3")
    assert csv.out == "id,item\n1,item 1\n2,item 2\n"
    assert "last included" in csv.err


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM orders", "the past can be read only"),
        ("SELECT reads_files()", "pg_read_file may not be called"),
        ("SELECT made_up('cache')", "is unlogged"),
        ("SELECT * FROM ordres", "there is no table ordres at the target"),
        ("SELECT * FROM far", "shop.far is a foreign table"),
    ],
)
def test_statement_that_may_not_or_cannot_be_run_says_why(
    site: Site, statement: str, message: str
) -> None:
    """Exit 2, and nothing is left, as the fixture asserts."""
    done = pitr(site.folder, "sql", "--at", "name:good", statement)
    assert (done.code, message in told(done.err)[0]) == (2, True), done.err


def test_sidecar_is_asked_by_a_role_that_reaches_nothing_else(site: Site) -> None:
    """Row security hides nothing; no file is read and no program run, whoever owns the function."""
    words = ["restore", "-t", "shop.secret", "-t", "shop.orders", "--at", "name:good", "--json"]
    found = succeed(site.folder, *words).json["recovery"]
    roles = "SELECT rolname, rolsuper FROM pg_roles WHERE rolname LIKE 'pitr_reader%' ORDER BY 1"
    for _ in range(2):
        asked = succeed(site.folder, "recoveries", "sql", roles, "--json")
        assert asked.json["rows"] == [["pitr_reader", "f"], ["pitr_reader_2", "f"]]
    settings = resolve_settings(
        config_path=None, source_name=None, flags={}, environ=os.environ, cwd=site.folder
    )
    kept = kept_server(settings, read_recovery(settings.state))
    with (
        running(kept.server) as started,
        closing(connect_reader(started, kept.database)) as reader,
    ):
        assert list(query(reader, "SELECT count(*) FROM secret").rows) == [(1,)]
        for statement, said in (
            ("SELECT reads_hidden()", "permission denied for function pg_read_file"),
            ("SELECT runs_programs()", "pg_execute_server_program"),
            ("SELECT * FROM far", "has no handler"),
            ("DELETE FROM orders", "read-only transaction"),
            ("SELECT set_config('role', 'postgres', false)", "permission denied"),
            ("SELECT set_config('session_authorization', 'postgres', false)", "permission denied"),
            ("SELECT 1/0", "division by zero"),
        ):
            with pytest.raises(UsageError) as raised:
                query(reader, statement)
            assert said in str(raised.value.detail), statement
        with pytest.raises(FileAbsent):
            query(reader, "SELECT * FROM big")
    done = pitr(site.folder, "recoveries", "sql", "SELECT * FROM big")
    assert (done.code, "that the recovery does not have" in done.err) == (2, True)
    succeed(site.folder, "recoveries", "drop", found)
