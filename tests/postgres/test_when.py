"""`pitr when` of PostgreSQL: the transaction is the one that a model of the table names."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow

from pitr.config import Settings, load
from pitr.operations.when import find_row
from tests.cli.commands import pitr, succeed, told
from tests.postgres.fixtures import ServerMaker
from tests.postgres.site import ROWS, Site, new_site

# id, v, pad; and a number that the row keeps whatever happens to it.
Row = tuple[int, int, str, int]
MORE_SEEDS = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 12)]


@pytest.fixture
def site(make_server: ServerMaker, tmp_path: Path) -> Iterator[Site]:
    """Make a source with a base backup in its archive."""
    server = make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1)
    with new_site(server, tmp_path) as made:
        yield made


def when(site: Site, *words: str) -> dict[str, object]:
    found: dict[str, object] = succeed(site.folder, "when", "-t", "orders", *words, "--json").json
    return found


def test_row_that_a_delete_took_is_found_with_the_way_back(site: Site) -> None:
    """The transaction, the row as it was, and a target from which it comes back."""
    site.server.query(ROWS)
    site.server.query("UPDATE orders SET item = 'changed' WHERE id = 42")
    site.server.query("DELETE FROM orders WHERE id = 7")
    xid = site.delete()
    site.server.query("INSERT INTO orders VALUES (900, 'later')")
    succeed(site.folder, "mark", "now")
    found = when(site, "--gone", "id = 42")

    assert found["transaction"]["xid"] == xid  # type: ignore[index]
    assert found["before"] == f"before:xid:{xid}"
    assert found["row"] == {"id": 42, "item": "changed"}
    assert when(site, "--gone", "id = 7")["transaction"]["xid"] < xid  # type: ignore[index]
    done = pitr(site.folder, "when", "-t", "orders", "--changed", "item = 'changed'")
    assert f"pitr restore -t orders --at before:xid:{xid}" in done.out
    restored = site.restored(str(found["before"]))
    assert restored["tables"][0]["rows"] == 199  # type: ignore[index]


def test_table_that_was_emptied_or_dropped_is_found(site: Site) -> None:
    """TRUNCATE and DROP name no row; a table made again under the same name is another one."""
    site.server.query(ROWS)
    site.server.query("TRUNCATE orders")
    site.server.query("INSERT INTO orders VALUES (1, 'again')")
    succeed(site.folder, "mark", "before")
    site.server.query("DROP TABLE orders")
    succeed(site.folder, "mark", "now")
    truncated, dropped = when(site, "--gone", "id = 42"), when(site, "--gone", "id = 1")

    assert truncated["transaction"]["tables"][0]["truncated"]  # type: ignore[index]
    assert truncated["row"] == {"id": 42, "item": "item 42"}
    assert dropped["transaction"]["tables"][0]["dropped"]  # type: ignore[index]
    assert dropped["row"] == {"id": 1, "item": "again"}


def test_row_that_is_still_there_and_bad_conditions(site: Site) -> None:
    """Exit 1 and what is known instead; exit 2 for what is no condition on a row."""
    site.server.query(ROWS)
    succeed(site.folder, "mark", "now")
    kept = pitr(site.folder, "when", "-t", "orders", "--gone", "id = 42")
    never = pitr(site.folder, "when", "-t", "orders", "--gone", "id = -1")
    assert (kept.code, "still there" in kept.err) == (1, True)
    assert (never.code, "none is there now" in never.err) == (1, True)
    for text, said in (
        ("no_such = 1", "the condition cannot be asked of the table"),
        ("id =", "the condition is not understood"),
        ("item", "the condition cannot be asked"),
    ):
        done = pitr(site.folder, "when", "-t", "orders", "--gone", text)
        assert (done.code, said in told(done.err)[0]) == (2, True), (text, done.err)
    assert pitr(site.folder, "when", "-t", "none", "--gone", "true").code == 2


# --- against a model ------------------------------------------------------------------------------


@dataclass
class Life:
    """A table, a model of it, and what each transaction did to its rows."""

    connection: psycopg.Connection[TupleRow]
    chance: random.Random
    moves_keys: bool
    rows: dict[int, Row] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    events: list[tuple[int, dict[int, Row], dict[int, Row]]] = field(default_factory=list)

    def run(self, statement: str) -> None:
        self.connection.execute(statement.encode())

    def step(self) -> None:
        """Run one random transaction, and note what it left."""
        before = dict(self.rows)
        with self.connection.transaction():
            self.run("SELECT 1")
            for _ in range(self.chance.choice([1, 1, 2, 3])):
                self.statement(before)
            found = self.connection.execute("SELECT txid_current_if_assigned()").fetchone()
        assert found is not None
        if found[0] is not None:
            self.events.append((int(found[0]), before, dict(self.rows)))
        if self.chance.random() < 0.1:
            self.run(self.chance.choice(["VACUUM t", "VACUUM FULL t", "CLUSTER t USING t_pkey"]))

    def statement(self, before: dict[int, Row]) -> None:
        """Run one statement; no row of `before` that this transaction deleted comes back in it."""
        kind = self.chance.choice(["insert"] * 4 + ["delete"] * 3 + ["v", "pad", "key", "undone"])
        fresh = [key for key in range(30) if key not in self.rows and key not in before]
        if kind == "insert" and fresh:
            for key in self.chance.sample(fresh, min(len(fresh), self.chance.choice([1, 1, 6]))):
                identity = next(self.numbers)
                row = (key, self.chance.randrange(5), f"p{self.chance.random()}", identity)
                self.rows[key] = row
                self.run(f"INSERT INTO t VALUES ({key}, {row[1]}, '{row[2]}')")
        elif self.chance.random() < 0.04:
            self.rows.clear()
            self.run("TRUNCATE t")
        elif self.rows:
            key = self.chance.choice(sorted(self.rows))
            _, v, pad, identity = self.rows[key]
            if kind == "delete":
                del self.rows[key]
                self.run(f"DELETE FROM t WHERE id = {key}")
            elif kind == "key" and fresh and self.moves_keys:
                to = self.chance.choice(fresh)
                self.rows[to] = (to, *self.rows.pop(key)[1:])
                self.run(f"UPDATE t SET id = {to} WHERE id = {key}")
            elif kind == "undone":
                self.run("SAVEPOINT s")
                self.run("DELETE FROM t")
                self.run("INSERT INTO t SELECT g, 1, 'never' FROM generate_series(100, 120) g")
                self.run("ROLLBACK TO s")
            else:
                v, pad = ((v + 1) % 5, pad) if kind == "v" else (v, f"p{self.chance.random()}")
                self.rows[key] = (key, v, pad, identity)
                self.run(f"UPDATE t SET v = {v}, pad = '{pad}' WHERE id = {key}")

    def gone(self, key: int) -> tuple[int, Row] | None:
        """Return the newest transaction that deleted the row, or, if none did, changed its key."""
        moved = None
        for xid, before, after in reversed(self.events):
            if key in before and key not in after:
                if before[key][3] not in {row[3] for row in after.values()}:
                    return xid, before[key]
                moved = moved or (xid, before[key])
        return moved

    def changed(self, column: int, value: int) -> int | None:
        """Return the newest transaction that changed a row with this value, before or after."""
        for xid, before, after in reversed(self.events):
            for key in before.keys() | after.keys():
                pair = (before.get(key), after.get(key))
                if pair[0] != pair[1] and any(row and row[column] == value for row in pair):
                    return xid
        return None


@pytest.mark.parametrize("seed", [0, *MORE_SEEDS])
def test_transaction_is_the_one_that_the_model_names(site: Site, seed: int) -> None:
    """Random transactions; what became of rows by key and by value, deleted and changed."""
    chance = random.Random(seed)
    site.server.query("CREATE TABLE t (id int PRIMARY KEY, v int, pad text)")
    site.server.query("CREATE INDEX ON t (v)")
    with site.server.connect() as connection:
        connection.autocommit = True
        life = Life(connection, chance, moves_keys=seed % 2 == 0)
        for _ in range(chance.randrange(10)):
            life.step()
        site.back_up()
        life.events.clear()
        for _ in range(25):
            life.step()
    succeed(site.folder, "mark", "now")
    if seed % 2:
        site.complete_index()
    settings = load(None, environ=os.environ, cwd=site.folder).choose(None)
    for key in chance.sample(range(30), 3):
        deleted, expected = found(settings, f"id = {key}", gone=True), life.gone(key)
        assert deleted.xid == (expected[0] if expected else None), f"seed {seed}, id {key}"
        if expected:
            assert deleted.row == dict(zip(("id", "v", "pad"), expected[1], strict=False))
        if not life.moves_keys:
            assert found(settings, f"id = {key}").xid == life.changed(0, key), f"seed {seed}"
    value = chance.randrange(5)
    assert found(settings, f"v = {value}").xid == life.changed(1, value), f"seed {seed}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What `when` found."""

    xid: int | None
    row: dict[str, object] | None


def found(settings: Settings, condition: str, *, gone: bool = False) -> Answer:
    """Ask `when` in this process."""
    outcome = find_row(settings, "t", condition, gone=gone, on_progress=lambda _text: None)
    xid = outcome.transaction.xid if outcome.transaction else None
    return Answer(xid, dict(outcome.row) if outcome.row else None)
