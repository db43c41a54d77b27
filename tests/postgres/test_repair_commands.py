"""restore, diff, plan, merge and undo of a PostgreSQL table, as a user types them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.commands import pitr, succeed
from tests.postgres.replay_world import archiving_server, finish_wal, take_base, world_folder
from tools.postgres_servers import Server

ROWS = "INSERT INTO orders SELECT i, 'item ' || i, i * 10 FROM generate_series(1, 50) AS i"


@dataclass(frozen=True, slots=True)
class Shop:
    """A live cluster after an accident, with a recovery from before it."""

    folder: Path
    server: Server
    recovery: str

    def rows(self) -> list[object]:
        return [tuple(row) for row in self.server.query("SELECT * FROM orders ORDER BY id")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A DELETE without its WHERE, work after it, and `pitr restore` of the table."""
    place = tmp_path_factory.mktemp("shop")
    changes = {"PITR_STATE": str(place / "state")}
    with world_folder() as folder, archiving_server(folder, 15, segment_megabytes=1) as server:
        server.query("CREATE TABLE orders (id int PRIMARY KEY, item text, cents numeric)")
        take_base(server, folder)
        server.query(ROWS)
        with server.connect() as connection, connection.transaction():
            xid = connection.execute("SELECT txid_current()").fetchone()
            connection.execute("DELETE FROM orders WHERE id > 10")
        assert xid is not None
        server.query("INSERT INTO orders VALUES (51, 'later', 1)")
        server.query("UPDATE orders SET cents = 7 WHERE id = 1")
        finish_wal(server)
        (place / "pitr.toml").write_text(
            f"[source.shop]\nsource = '{server.url()}'\narchive = '{place / 'archive'}'\n"
        )
        os.environ.update(changes, PITR_SIDECAR_FOLDER=str(folder / "sidecars"))
        try:
            words = ["-t", "orders", "--at", f"before:xid:{xid[0]}", "--json"]
            places = ["--from-backup", str(folder / "base"), "--from-wal", str(folder / "wal")]
            found = succeed(place, "restore", *words, *places).json
            assert found["tables"] == [
                {
                    "table": "public.orders",
                    "rows": 50,
                    "columns": None,
                    "missing_in_live": 40,
                    "differs": 1,
                    "extra_in_live": 1,
                    "warnings": [],
                }
            ]
            yield Shop(place, server, found["recovery"])
        finally:
            del os.environ["PITR_STATE"], os.environ["PITR_SIDECAR_FOLDER"]


def test_rows_come_back_and_later_work_stays(shop: Shop, tmp_path: Path) -> None:
    """The whole story: what differs, the plan as a file, the merge of it, and back again."""
    before = shop.rows()
    assert len(before) == 11
    table = succeed(shop.folder, "diff", "--json").json["tables"][0]
    classes = [row["class"] for row in table["rows"]]
    assert (table["table"], classes.count("lost"), classes.count("differs")) == (
        "public.orders", 40, 1,
    )  # fmt: skip

    saved = tmp_path / "plan.json"
    succeed(shop.folder, "plan", "-o", str(saved))
    plan = json.loads(saved.read_text())
    assert plan["counts"] == {"lost": 40, "differs": 1}
    assert plan["sql"].startswith("-- Made by pitr")

    assert pitr(shop.folder, "merge", "--plan", str(saved)).code == 2
    merged = succeed(shop.folder, "merge", "--plan", str(saved), "--yes", "--json").json
    assert (merged["inserted"], merged["updated"], merged["skipped"]) == (40, 0, 1)
    after = shop.rows()
    assert len(after) == 51
    assert set(before) <= set(after)
    assert pitr(shop.folder, "merge", "--plan", str(saved), "--yes").code == 7
    assert succeed(shop.folder, "merge", "--yes", "--json").json["inserted"] == 0

    undone = succeed(shop.folder, "undo", merged["merge"], "--yes", "--json").json
    assert undone["deleted"] == 40
    assert shop.rows() == before


def test_merge_that_was_agreed_to_shows_what_it_was(shop: Shop) -> None:
    """As one that asks does: where to, how many rows, and what the plan warns of; but not twice."""
    shop.server.query(
        "CREATE FUNCTION idle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER idle AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION idle()"
    )
    try:
        done = succeed(shop.folder, "merge", "--yes")
        lines = done.err.splitlines()
        assert [line for line in lines if line.startswith("rows ")] == [
            "rows      40 rows to insert, 0 rows to update, 0 rows to delete, 1 left aside"
        ]
        assert any(one.startswith("database  ") for one in lines)
        assert [one for one in lines if one.startswith("warning: ") and "idle" in one]
        assert len(lines) == len(set(lines))
        merge = next(one.split()[1] for one in done.out.splitlines() if one.startswith("merge "))
        succeed(shop.folder, "undo", merge, "--yes")
    finally:
        shop.server.query("DROP FUNCTION idle CASCADE")


def test_configured_role_is_the_one_that_merges(shop: Shop) -> None:
    """Not the one that restored: what it may not do is named, and another may be configured."""
    shop.server.query("CREATE ROLE clerk LOGIN; GRANT SELECT ON orders TO clerk")
    url = shop.server.url().replace("postgres@", "clerk@")
    other = shop.folder / "clerk.toml"
    other.write_text(f"[source.shop]\nsource = '{url}'\narchive = '{shop.folder / 'archive'}'\n")
    refused = pitr(shop.folder, "merge", "--config", str(other), "--yes", "--json")
    assert refused.code == 3
    assert 'TO "clerk"' in refused.error["hint"]

    shop.server.query("GRANT INSERT, UPDATE, DELETE ON orders TO clerk")
    merged = succeed(shop.folder, "merge", "--config", str(other), "--yes", "--json").json
    assert merged["inserted"] == 40
    assert shop.server.query("SELECT * FROM pg_roles WHERE rolname = 'clerk'")
    undone = succeed(shop.folder, "undo", merged["merge"], "--config", str(other), "--yes")
    assert "database  user=clerk " in undone.err
    shop.server.query("DROP OWNED BY clerk; DROP ROLE clerk")


def test_patterns_choose_among_the_tables_of_the_recovery(shop: Shop) -> None:
    """As those of restore and of pg_dump: with a schema or without, and of this database."""
    for text in ("ord*", "public.?rders", "postgres.*.orders", 'p*."orders"'):
        (table,) = succeed(shop.folder, "plan", "-t", text, "--json").json["tables"]
        assert table["table"] == "public.orders"
    for text in ("x*", "other.public.orders", '"ord*"'):
        done = pitr(shop.folder, "diff", "-t", text, "--json")
        assert (done.code, done.error["message"]) == (
            2, f"the recovery {shop.recovery} has no table {text}",
        )  # fmt: skip


def test_script_of_a_plan_does_the_same_in_psql(shop: Shop, tmp_path: Path) -> None:
    """It asserts its preconditions: run twice it stops and changes nothing."""
    before = shop.rows()
    script = shop.server.folder / "plan.sql"
    script.write_text(succeed(shop.folder, "plan", "--format", "sql").out)
    script.chmod(0o644)
    shop.server.run("psql", "-qf", str(script))
    after = shop.rows()
    assert len(after) == 51
    with pytest.raises(Exception, match="exit status 3"):
        shop.server.run("psql", "-qf", str(script))
    assert shop.rows() == after
    shop.server.query("DELETE FROM orders WHERE id BETWEEN 11 AND 50")
    assert shop.rows() == before


def test_server_that_is_another_cluster_is_refused(shop: Shop) -> None:
    """The recovery is of one system identifier; no other is written."""
    with Server(15) as other:
        toml = shop.folder / "pitr.toml"
        kept = toml.read_text()
        recovery = next((shop.folder / "state/recoveries").glob("*/recovery.json"))
        document = recovery.read_text()
        recovery.write_text(document.replace(str(shop.server.folder), str(other.folder)))
        toml.write_text(kept.replace(str(shop.server.folder), str(other.folder)))
        try:
            done = pitr(shop.folder, "merge", "--yes", "--json")
        finally:
            recovery.write_text(document)
            toml.write_text(kept)
    assert done.code == 3
    assert "system identifier" in done.error["detail"]
