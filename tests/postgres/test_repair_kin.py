"""Kin of the lost rows in a recovery from the archive, as a user types it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from tests.cli.commands import pitr, succeed
from tests.postgres.backups import take
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

SETUP = (
    "CREATE TABLE regions (id int PRIMARY KEY, name text)",
    "CREATE TABLE customers (id int PRIMARY KEY, region int REFERENCES regions, name text)",
    "CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers)",
    "CREATE TABLE lines (o int REFERENCES orders ON DELETE CASCADE, n int, PRIMARY KEY (o, n))",
    "CREATE TABLE visits (id int PRIMARY KEY, o int REFERENCES orders ON DELETE SET NULL, x int)",
    "INSERT INTO regions SELECT i, 'r' || i FROM generate_series(1, 9) AS i",
    "INSERT INTO customers SELECT i, 1 + i % 9, 'c' || i FROM generate_series(1, 40) AS i",
    "INSERT INTO orders SELECT i, 1 + i % 20 FROM generate_series(1, 60) AS i",
    "INSERT INTO lines SELECT i, n FROM generate_series(1, 60) AS i, generate_series(1, 2) AS n",
    "INSERT INTO visits SELECT i, i, 0 FROM generate_series(1, 60) AS i",
)
TABLES = ("regions", "customers", "orders", "lines", "visits")
Image = dict[str, Counter[str]]


@dataclass(frozen=True, slots=True)
class Site:
    """A server with an archive, and the folder with pitr.toml."""

    server: Server
    folder: Path

    def do(self, *statements: str) -> int:
        """Run statements in one transaction; return its xid."""
        with self.server.connect() as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement.encode())
            row = connection.execute("SELECT txid_current()").fetchone()
        assert row is not None
        return int(row[0])

    def image(self) -> Image:
        """Return every row of every table."""
        return {
            name: Counter(str(row[0]) for row in self.server.query(f"SELECT t::text FROM {name} t"))
            for name in TABLES
        }

    def changed_since(self, image: Image) -> dict[str, tuple[list[str], list[str]]]:
        """Return of each table that changed the rows that went and those that came."""
        now = self.image()
        return {
            name: (sorted((was - now[name]).elements()), sorted((now[name] - was).elements()))
            for name, was in image.items()
            if was != now[name]
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Customers leave for good, orders are deleted by mistake, work goes on."""
    folder = tmp_path_factory.mktemp("kin")
    changes = {"PITR_STATE": str(folder / "state")}
    settings = {"wal_keep_size": "1GB"}
    with Server(15, settings=settings, segment_megabytes=1) as server, world_folder() as sidecars:
        os.environ.update(changes, PITR_SIDECAR_FOLDER=str(sidecars))
        for statement in SETUP:
            server.query(statement)
        succeed(folder, "init", server.url(), "--archive", "archive")
        take(server, LocalStore(folder / "archive"))
        succeed(folder, "mark", "good")
        yield Site(server, folder)
        del os.environ["PITR_STATE"], os.environ["PITR_SIDECAR_FOLDER"]


def test_t19_only_the_parents_that_lost_rows_need_come_back(site: Site) -> None:
    """Customers whose data was erased on purpose stay erased; the rest of the kin is exact."""
    # On purpose: customers without orders, some of them with the last of their region.
    site.do("DELETE FROM customers WHERE id BETWEEN 21 AND 40")
    xid = site.do("DELETE FROM orders WHERE id IN (3, 23)", "DELETE FROM lines WHERE o = 60")
    second = site.do("DELETE FROM orders WHERE customer = 4")
    site.do("DELETE FROM customers WHERE id = 4")
    site.do("UPDATE visits SET x = 7 WHERE id = 3")
    succeed(site.folder, "mark", "later")
    before = site.image()

    options = ("-t", "orders", "--at", "name:good", "--json")
    made = succeed(site.folder, "restore", *options, "--with-parents", "--with-children").json
    assert [table["table"] for table in made["tables"]] == ["public.orders"]
    plan = succeed(site.folder, "plan", "--json").json
    named = {table["table"]: table["counts"] for table in plan["tables"]}
    assert named["public.customers"] == {"lost": 1}
    assert any("see that nobody deleted them on purpose" in one for one in plan["warnings"])

    # Two transactions removed orders: each is named with its rows, and with what isolates it.
    transactions = {
        one["position"]: one["xid"]
        for one in succeed(site.folder, "log", "-t", "orders", "--json").json["transactions"]
    }
    [orders] = [table for table in plan["tables"] if table["table"] == "public.orders"]
    found = [(transactions[one["transaction"]], one["rows"]) for one in orders["lost_by"]]
    assert found == [(xid, 2), (second, 1)]
    assert any("pitr revert lsn:" in one and "2 transactions" in one for one in plan["warnings"])
    [told] = succeed(site.folder, "diff", "--json").json["tables"]
    assert [one["rows"] for one in told["lost_by"]] == [2, 1]

    merged = succeed(site.folder, "merge", "--yes", "--json").json
    changed = site.changed_since(before)
    lost = ["(23,4)", "(3,4)", "(43,4)"]
    assert changed == {
        "customers": ([], ["(4,5,c4)"]),
        "orders": ([], lost),
        "lines": ([], ["(23,1)", "(23,2)", "(3,1)", "(3,2)", "(43,1)", "(43,2)"]),
    }
    succeed(site.folder, "undo", merged["merge"], "--yes")
    assert not site.changed_since(before)

    # The state after the damage tells that the visits forgot their orders by it.
    told = ("revert", f"xid:{xid}", "-t", "orders", "--with-parents", "--with-children", "--json")
    succeed(site.folder, *told)
    succeed(site.folder, "merge", "--yes", "--json")
    assert site.changed_since(before) == {
        "customers": ([], ["(4,5,c4)"]),
        "orders": ([], ["(23,4)", "(3,4)"]),
        "lines": ([], ["(23,1)", "(23,2)", "(3,1)", "(3,2)"]),
        "visits": (["(23,,0)", "(3,,7)"], ["(23,23,0)", "(3,3,7)"]),
    }


def test_t14_children_that_the_recovery_does_not_hold_are_named(site: Site) -> None:
    """Without kin the plan says which tables to restore too, and the parent is missing."""
    succeed(site.folder, "restore", "-t", "orders", "--at", "name:good", "--json")
    done = pitr(site.folder, "plan", "--json")
    assert any("--with-children" in one for one in done.json["warnings"])
    done = pitr(site.folder, "plan", "--with-children", "--json")
    assert done.code == 2
    assert "restore" in done.error["hint"].lower()
