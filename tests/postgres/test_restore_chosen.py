"""`pitr restore --where`, `--columns` and patterns of -t on PostgreSQL, on through the merge."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from tests.cli.commands import pitr, succeed, told
from tests.postgres.backups import take
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

TABLES = """
CREATE SCHEMA shop;
ALTER DATABASE postgres SET search_path = shop, public;
CREATE TABLE shop.orders (id int PRIMARY KEY, item text, cents int);
INSERT INTO shop.orders SELECT i, 'item ' || i, i FROM generate_series(1, 100) AS i;
CREATE FUNCTION shop.is_dear(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 > 50';
CREATE FUNCTION shop.writes(int) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN DELETE FROM shop.orders; RETURN true; END';
CREATE FUNCTION shop.runs(program text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', program); RETURN true; END $$;
CREATE TABLE shop."Order Items" AS SELECT 1 AS i;
CREATE TABLE public.orders AS SELECT 'of public' AS item;
CREATE UNLOGGED TABLE shop.cache (i int);
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER warehouse FOREIGN DATA WRAPPER elsewhere;
CREATE FOREIGN TABLE shop.far (i int) SERVER warehouse;
CREATE TYPE shop.state AS ENUM ('open', 'paid');
CREATE DOMAIN shop.money AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE SEQUENCE shop.numbers;
CREATE TABLE shop.clients AS SELECT i AS id FROM generate_series(1, 20) AS i;
ALTER TABLE shop.clients ADD PRIMARY KEY (id);
CREATE TABLE shop.bills (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number int DEFAULT nextval('shop.numbers'),
    states shop.state[], total shop.money, client_id int REFERENCES shop.clients,
    day date CHECK (day > '2020-01-01')) ;
INSERT INTO shop.bills (states, total, client_id, day)
    SELECT ARRAY['open']::shop.state[], i, i, '2026-11-22' FROM generate_series(1, 10) AS i;
CREATE INDEX ON shop.bills (day);
CREATE FUNCTION shop.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER noted BEFORE INSERT ON shop.bills FOR EACH ROW EXECUTE FUNCTION shop.noted();
ALTER TABLE shop.bills ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.bills USING (id > 5);
CREATE TABLE shop.parts (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE shop.parts_1 PARTITION OF shop.parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO shop.parts VALUES (1, '2026-01-05'), (2, '2026-02-05');
CREATE FUNCTION shop.next_one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE shop.needy (i int DEFAULT shop.next_one());
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A server with an archive, after an accident; `good` names the state before it."""

    server: Server
    folder: Path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Delete and change orders after a mark."""
    folder = tmp_path_factory.mktemp("shop")
    with (
        Server(15, settings={"wal_keep_size": "1GB"}, segment_megabytes=1) as server,
        world_folder() as sidecars,
    ):
        changes = {"PITR_SIDECAR_FOLDER": str(sidecars), "PITR_STATE": str(folder / "state")}
        os.environ.update(changes)
        try:
            succeed(folder, "init", server.url(), "--archive", "archive")
            take(server, LocalStore(folder / "archive"))
            succeed(folder, "mark", "early")
            server.query(TABLES)
            succeed(folder, "mark", "good")
            server.query("DELETE FROM shop.orders WHERE id % 2 = 0")
            server.query("UPDATE shop.orders SET item = 'x', cents = 0 WHERE id = 1")
            server.query("DROP TABLE public.orders")
            succeed(folder, "mark", "bad")
            yield Shop(server, folder)
        finally:
            for name in changes:
                del os.environ[name]


def test_condition_chooses_rows_of_the_target_and_goes_on_to_the_merge(shop: Shop) -> None:
    """It is shown as the server understands it; only its rows are lost, planned and merged."""
    words = ["restore", "-t", "orders", "--at", "name:good", "--where", "is_dear(cents)"]
    assert "where shop.is_dear(cents)" in succeed(shop.folder, *words).out
    table = succeed(shop.folder, "diff", "--json").json["tables"][0]
    assert table["table"] == "shop.orders"
    assert Counter(row["class"] for row in table["rows"]) == {"lost": 25}
    assert {int(row["key"]["id"]) > 50 for row in table["rows"]} == {True}
    merged = succeed(shop.folder, "merge", "--yes", "--json").json
    assert (merged["inserted"], merged["updated"], merged["deleted"]) == (25, 0, 0)
    assert shop.server.value("SELECT count(*) FROM shop.orders WHERE id > 50") == 50
    undone = succeed(shop.folder, "undo", merged["merge"], "--yes", "--json").json
    assert undone["deleted"] == 25


def test_condition_is_asked_by_a_role_that_can_only_read(shop: Shop) -> None:
    """By restore, by what compares with live, and by --to: functions of the past may do more."""
    trace = shop.server.folder / "trace"  # which the account of the servers may write to
    words = ["restore", "-t", "orders", "--at", "name:good", "--json"]
    for condition, said in (
        (f"runs('touch {trace}') AND id = 1", "COPY to or from an external program"),
        ("writes(id)", "read-only transaction"),
    ):
        done = pitr(shop.folder, *words, "--where", condition)
        assert (done.code, said in done.error["detail"]) == (2, True), done.err
    assert not trace.exists()
    who = "current_user = 'pitr_reader' AND id % 4 = 0"
    (table,) = succeed(shop.folder, *words, "--where", who).json["tables"]
    assert (table["rows"], table["missing_in_live"]) == (25, 25)
    to = ["--to", shop.server.url(), "--no-compare"]
    schema = succeed(shop.folder, *words, "--where", who, *to).json["recovery"]
    assert shop.server.value(f'SELECT count(*) FROM "{schema}".orders') == 25


def test_columns_alone_are_compared_and_set_back(shop: Shop) -> None:
    """The price comes back, the text stays as somebody wrote it."""
    words = ["restore", "-t", "shop.orders", "--at", "name:good", "--columns", "cents"]
    found = succeed(shop.folder, *words, "--where", "id = 1", "--json").json
    assert found["tables"][0]["columns"] == ["cents"]
    assert (found["tables"][0]["rows"], found["tables"][0]["differs"]) == (1, 1)
    merged = succeed(shop.folder, "merge", "--update", "--yes", "--json").json
    assert (merged["inserted"], merged["updated"]) == (0, 1)
    assert [tuple(r) for r in shop.server.query("SELECT * FROM shop.orders WHERE id = 1")] == [
        (1, "x", 1)
    ]


def test_pattern_means_every_table_that_can_be_recovered(shop: Shop) -> None:
    """As in pg_dump; what is unlogged is left out of a pattern, and refused by its name."""
    words = ["restore", "--no-compare", "--at", "name:good"]
    found = succeed(shop.folder, *words, "-t", "*.order*", "--json").json
    names = [(table["table"], table["rows"]) for table in found["tables"]]
    assert sorted(names) == [("public.orders", 1), ("shop.orders", 100)]
    for name, message in (
        ("shop.cache", "is unlogged"),
        ("shop.far", "is a foreign table"),
        ("shop.x*", "there is no table shop.x*"),
    ):
        done = pitr(shop.folder, *words, "-t", name)
        assert (done.code, message in told(done.err)[0]) == (2, True), done.err
    done = pitr(shop.folder, *words, "-t", "orders", "--where", "id = 1 OR true; SELECT 1")
    assert (done.code, "more than a condition" in told(done.err)[0]) == (2, True), done.err


def test_table_that_is_not_there_at_the_target_tells_when_it_was(shop: Shop) -> None:
    """Which transaction made or dropped it, and a target that has it."""
    for target, name, said in (
        ("early", "shop.orders", r"It is there from xid:\d+ on, lsn:.* this target is earlier"),
        (
            "bad",
            "public.orders",
            r"Transaction (\d+) dropped it, lsn:.*: 'before:xid:\1' still has",
        ),
    ):
        done = pitr(shop.folder, "restore", "-t", name, "--at", f"name:{target}")
        assert done.code == 2
        assert re.search(said, done.err), done.err
    done = pitr(shop.folder, "sql", "--at", "name:bad", "SELECT * FROM public.orders")
    assert (done.code, "dropped it" in done.err) == (2, True), done.err


def test_tables_are_loaded_into_another_server_whole_or_not_at_all(shop: Shop) -> None:
    """Structure, types, sequences and chosen rows, in a schema of the recovery's name."""
    with Server(15) as other:
        words = ["restore", "--at", "name:good", "--no-compare", "--json", "--to", other.url()]
        found = succeed(shop.folder, *words, "-t", "bills", "-t", "parts", "--where", "id < 9").json
        assert found["sidecar"] == other.url()
        schema = f'"{found["recovery"]}"'
        bills = other.query(f"SELECT id, number, states::text, total::text FROM {schema}.bills")
        assert sorted(tuple(row) for row in bills) == [
            (i, i, "{open}", f"{i}.00") for i in range(1, 9)
        ]
        other.query(f"INSERT INTO {schema}.bills (day) VALUES ('2026-11-23')")
        # A recovered sequence has skipped what the server may have given out before a crash.
        assert other.value(f"SELECT max(id) FROM {schema}.bills") > 10
        assert other.value(f"SELECT count(*) FROM {schema}.parts_1") == 2


def test_load_that_fails_leaves_nothing_half_made(shop: Shop) -> None:
    """A function that is not there, a role without the right, a file as for SQLite."""
    with Server(15) as other:
        words = ["restore", "--at", "name:good", "--no-compare", "--json", "--to", other.url()]
        count = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '20%%'"
        before = other.value(count)
        done = pitr(shop.folder, *words, "-t", "needy")
        assert (done.code, "next_one" in done.error["detail"]) == (6, True), done.err
        assert other.value(count) == before
        other.query("CREATE ROLE lowly LOGIN")
        words[-1] = other.url(user="lowly")
        done = pitr(shop.folder, *words, "-t", "bills")
        assert (done.code, "may not make a schema" in done.error["message"]) == (3, True), done.err
    done = pitr(shop.folder, *words[:-1], "x.db", "-t", "bills")
    assert (done.code, "is no file" in done.error["message"]) == (2, True), done.err
