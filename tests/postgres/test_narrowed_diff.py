"""A diff narrowed by the WAL lists the rows that a diff of whole tables lists, class by class.

`PITR_TEST_SEED=N` runs another life.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import psycopg
import pytest
from psycopg.rows import TupleRow

from pitr.archive.local import LocalStore
from pitr.postgres.diff.candidates import Limits
from pitr.postgres.diff.classified import classify, stream_rows
from pitr.postgres.diff.row_versions import (
    XidRange,
    at_places,
    differing,
    in_blocks,
    read_versions,
)
from pitr.postgres.diff.states import PastWal, States, comparing
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.live.flushed import flushed_wal, settled_wal
from pitr.postgres.replay.replay import ReplayedTables
from pitr.postgres.replay.server import running
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.diff_row import DiffRow
from pitr.vocabulary.position import Lsn
from tests.postgres.repair_world import table_name
from tests.postgres.replay_world import (
    Recorded,
    archiving_server,
    finish_wal,
    take_base,
    world_folder,
)
from tools.postgres_servers import Server

SEED = int(os.environ.get("PITR_TEST_SEED", "1"))
NARROWED, WHOLE = Limits(narrowed_bytes=0), Limits(whole_bytes=1 << 40, narrowed_bytes=1 << 40)
TABLES = ("orders", "bills", "sales")
SCHEMA = """
CREATE TYPE state AS ENUM ('new', 'paid');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE orders (id int PRIMARY KEY, note text, amount numeric, state state DEFAULT 'new',
    size positive DEFAULT 1, big text, area box DEFAULT '(1,1),(0,0)');
CREATE TABLE bills (place int, id int, note text, PRIMARY KEY (id, place));
CREATE TABLE sales (id int, place int, note text, PRIMARY KEY (id, place))
    PARTITION BY LIST (place);
CREATE TABLE sales_1 (note text, place int NOT NULL, id int NOT NULL);
ALTER TABLE sales ATTACH PARTITION sales_1 FOR VALUES IN (1);
CREATE TABLE sales_2 PARTITION OF sales FOR VALUES IN (2);
INSERT INTO orders (id, note, amount, big) SELECT i, 'order ' || i, i, repeat(md5(i::text), i % 200)
    FROM generate_series(1, 3000) AS i;
INSERT INTO bills SELECT 1, i, 'bill ' || i FROM generate_series(1, 6000) AS i;
INSERT INTO sales SELECT i, 1 + i % 2, 'sale ' || i FROM generate_series(1, 6000) AS i;
VACUUM ANALYZE orders, bills, sales
"""
# What one step does to some rows; {t} is a table, {a} the first of them, {b} the last.
STEPS = (
    "UPDATE {t} SET note = note || '!' WHERE id BETWEEN {a} AND {b}",
    "DELETE FROM {t} WHERE id BETWEEN {a} AND {b}",
    "INSERT INTO {t} SELECT * FROM {t} WHERE FALSE",
    "UPDATE orders SET big = reverse(big), amount = amount + 1 WHERE id BETWEEN {a} AND {b}",
    "UPDATE sales SET place = 3 - place WHERE id BETWEEN {a} AND {b}",
    "UPDATE bills SET id = id + 100000 WHERE id BETWEEN {a} AND {b} AND id < 100000",
    "INSERT INTO bills SELECT 2, id, note FROM bills WHERE id BETWEEN {a} AND {b}"
    " ON CONFLICT DO NOTHING",
    "SELECT * FROM {t} WHERE id BETWEEN {a} AND {b} FOR UPDATE",
)


class GrowingWal(WalFolder):
    """A running server's WAL as far as it is on disk: what an archive has that never lags."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.wal)
        self._server = server

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        flushed = Lsn.parse(self._server.value("SELECT pg_current_wal_flush_lsn()::text"))
        found = super().ranges(timeline)
        return [(begin, min(end, flushed)) for begin, end in found if begin < flushed]


@dataclass(frozen=True, slots=True)
class Life:
    """A live server, and what is needed to go back to positions of it."""

    server: Server
    recorded: Recorded

    def commit(self) -> None:
        """Do what the sessions of a server in use do all the time: what is in memory is flushed."""
        self.server.query("SELECT pg_logical_emit_message(true, '', '')")

    def position(self) -> int:
        """Return where the WAL ends; all of it is on disk."""
        self.commit()
        with self.server.connect() as connection:
            found = flushed_wal(connection)
        assert found is not None
        return found[1].value

    def states(self, *positions: int) -> list[ReplayedTables]:
        """Go back to positions."""
        finish_wal(self.server)
        return [self.recorded.replayed(at, TABLES, database="postgres") for at in positions]

    def past(self) -> PastWal:
        """Open the WAL; its whole segments are indexed, the rest is scanned when asked."""
        wal, store = GrowingWal(self.server), LocalStore(self.recorded.new_folder())
        assert complete_index(store, wal) > 0
        index = WalIndex(store, wal)

        def flushed() -> tuple[int, Lsn] | None:
            self.commit()
            with self.server.connect() as connection:
                return flushed_wal(connection)

        return PastWal(wal, index, flushed)

    def check(
        self, before: ReplayedTables, after: ReplayedTables | None = None, *, narrowed: bool = True
    ) -> int:
        """Compare narrowed and whole; return how many rows there are."""
        with ExitStack() as stack:

            def reached(of: ReplayedTables) -> psycopg.Connection[TupleRow]:
                started = stack.enter_context(running(of.server))
                connection = started.connect("postgres", read_only=True)
                return stack.enter_context(contextlib.closing(connection))

            states = States(
                live=stack.enter_context(self.server.connect()),
                before=reached(before),
                after=reached(after) if after else None,
                tables=tuple(map(table_name, TABLES)),
                past=cache(self.past),
            )
            with comparing(states):
                found, is_narrowed = compare(states, NARROWED)
                assert is_narrowed == [narrowed] * 3
                assert (found, [False] * 3) == compare(states, WHOLE)
        return len(found)


def compare(states: States, limits: Limits) -> tuple[list[DiffRow], list[bool]]:
    """Return the rows of a diff, and which of the tables the WAL narrowed."""
    tables = classify(states, limits)
    rows = [row for table in tables for row in stream_rows(states.live, table)]
    return rows, [table.is_narrowed for table in tables]


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    """A server with tables, and a base backup of it."""
    settings = {"wal_keep_size": "1GB", "wal_recycle": False, "autovacuum": False}
    with world_folder() as folder, archiving_server(folder, 15, settings=settings) as server:
        for statement in SCHEMA.split(";\n"):
            server.query(statement)
        take_base(server, folder)
        yield Life(server, Recorded(folder, 15, server.bin))


def live_on(life: Life, chance: random.Random, steps: int) -> list[int]:
    """Take random steps, in several transactions at once; some end only when all was done.

    Return where the WAL ended after each of them.
    """
    positions = []
    with ExitStack() as stack:
        others = [stack.enter_context(life.server.connect()) for _ in range(3)]
        for number, other in enumerate(others):
            other.execute("SET lock_timeout = '20ms'")
            other.execute("SET synchronous_commit = " + ("off" if number else "on"))
        for _ in range(steps):
            first = chance.randrange(6000)
            statement = chance.choice(STEPS).format(
                t=chance.choice(TABLES), a=first, b=first + chance.choice((0, 3, 40))
            )
            other = chance.choice(others)
            with contextlib.suppress(psycopg.errors.Error):
                other.execute(chance.choice(("BEGIN", "SAVEPOINT s", "CHECKPOINT", "SELECT 1")))
            with contextlib.suppress(psycopg.errors.Error):
                other.execute(statement.encode())
            if chance.random() < 0.3:
                other.execute(chance.choice(("COMMIT", "ROLLBACK")))
            end = life.server.value("SELECT pg_current_wal_insert_lsn()::text")
            positions.append(Lsn.parse(end).value)
        for other in others:
            other.execute("COMMIT")
    return positions


def test_rows_are_those_of_whole_tables(life: Life) -> None:
    """From any position to live, and to a later one and with it to live."""
    print(f"PITR_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    first, second = sorted(chance.sample(live_on(life, chance, 60), 2))
    before, after = life.states(first, second)
    assert life.check(before) > 0
    assert life.check(before, after) > 0


def test_transaction_that_runs_at_the_target_is_not_overlooked(life: Life) -> None:
    """It commits later, and no record touches its blocks again; a prepared one does so, too."""
    server = life.server
    with server.connect() as late:
        late.execute("BEGIN")
        late.execute("DELETE FROM sales WHERE id = 5007")
        late.execute("SAVEPOINT s")
        late.execute("UPDATE sales SET note = 'later' WHERE id = 5008")
        late.execute("RELEASE s")
        server.query("BEGIN; DELETE FROM sales WHERE id = 207; PREPARE TRANSACTION 'p'")
        server.query("CHECKPOINT")  # lists what runs
        target = life.position()
        late.execute("COMMIT")
        server.query("COMMIT PREPARED 'p'")
    (before,) = life.states(target)
    assert life.check(before) == 3


def test_live_is_known_up_to_where_its_wal_is_on_disk(life: Life) -> None:
    """What is committed asynchronously is waited for; an open transaction's end may stay away."""
    server = life.server
    with server.connect() as asking, server.connect() as other:
        server.query("SELECT pg_switch_wal()")
        server.query("SELECT pg_switch_wal()")
        assert flushed_wal(asking) is not None  # a page without a record but for its header
        other.execute("SET synchronous_commit = off")
        other.execute("UPDATE orders SET note = note WHERE id = 1")
        seen = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()::text"))
        found = flushed_wal(asking)
        assert found is not None
        assert found[1] >= seen
        other.execute("UPDATE orders SET note = note WHERE id = 1")
        committed = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()::text"))
        other.execute("BEGIN; UPDATE orders SET note = note WHERE id = 1")
        seen = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()::text"))
        next_xid = server.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        found = flushed_wal(asking)  # None but for what the server itself may flush meanwhile
        assert found is None or found[1] >= seen
        assert settled_wal(asking)[1] >= committed  # that end holds no commit
        assert server.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text") == next_xid


def test_both_ways_to_read_blocks_find_their_rows(
    shared_servers: Callable[[int], Server],
) -> None:
    """PostgreSQL 13 has no scan of a range of places."""
    ranges = [(0, 1), (3, 4), (7, 20), (39, 50)]
    for major in (13, 15):
        with shared_servers(major).connect() as connection:
            connection.execute(
                "CREATE TEMP TABLE t AS SELECT i, repeat('x', i % 300) AS filler"
                " FROM generate_series(1, 2000) AS i"
            )
            connection.execute("DELETE FROM t WHERE i % 3 = 0")
            blocks = [block for begin, end in ranges for block in range(begin, end)]
            wanted = connection.execute(
                "SELECT i FROM t WHERE (ctid::text::point)[0] = ANY (%s) ORDER BY i", [blocks]
            ).fetchall()
            version = connection.info.server_version
            for select in {in_blocks("t", ranges, one, "i") for one in (version, 130_000)}:
                assert sorted(connection.execute(select.encode())) == wanted
            versions = read_versions(connection, "t", ranges)
            found = [
                row
                for select in at_places("t", versions, "t.i % 2 = 1")
                for row in connection.execute(f"SELECT i FROM ({select}) AS t".encode())
            ]
            assert sorted(found) == [row for row in wanted if row[0] % 2]


def test_version_whose_number_was_given_out_again_is_read() -> None:
    """Numbers go round: the same one at the same place may be another row."""
    own, others = {b"place1\0\0\0\7", b"place2\0\0\1\0"}, {b"place1\0\0\0\7"}
    assert differing(own, others, XidRange(8, 20)) == own - others
    assert differing(own, others, XidRange((1 << 32) - 5, 8)) == own
    assert differing(own, own, XidRange(300, 300)) == set()


def test_tables_that_the_wal_does_not_tell_all_of_are_compared_whole(life: Life) -> None:
    """Values may change without a record of their block, and rows move to another file."""
    (before,) = life.states(life.position())
    life.server.query("ALTER TYPE state RENAME VALUE 'new' TO 'fresh'")
    life.server.query("ALTER TABLE bills DROP note, ADD note text DEFAULT 'bill 1'")
    life.server.query("VACUUM FULL sales_1")
    assert life.check(before, narrowed=False) > 1000
