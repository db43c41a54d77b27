"""Surgical replay across a timeline switch, and what a stop inside a transaction leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pitr.postgres.replay.replay import CatalogState
from pitr.postgres.replay.server import running
from pitr.vocabulary.position import Lsn
from tests.postgres.random_workload import DATABASE
from tests.postgres.replay_world import (
    Recorded,
    archiving_server,
    dump,
    finish_wal,
    take_base,
    world_folder,
)
from tools.postgres_servers import Server

TABLES = ["shop.orders", "shop.bills"]
TABLE = "CREATE TABLE shop.orders (id int PRIMARY KEY, item text)"


def add(server: Server, begin: int) -> int:
    """Add ten orders; return where the WAL ends then."""
    server.query(
        f"INSERT INTO shop.orders SELECT i, 'item' FROM generate_series({begin}, {begin + 9}) AS i",
        DATABASE,
    )
    statement = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    return int(server.value(statement, DATABASE))


def prepared_server(server: Server) -> None:
    """Make the database and its table."""
    server.query(f"CREATE DATABASE {DATABASE}")
    server.query("CREATE SCHEMA shop", DATABASE)
    server.query(TABLE, DATABASE)
    server.query("CREATE TABLE shop.bills (id int)", DATABASE)


def rows(world: Recorded, stop: int, timeline: int) -> int:
    """Return the rows that a surgical replay finds."""
    replay = world.replay(stop, timeline)
    found = replay.find_tables(DATABASE, TABLES)
    replayed = replay.recover(found, world.new_folder() / "sidecar")
    with world.full_recovery(stop) as full:
        expected = dump(world.programs, full.environment(DATABASE), TABLES)
    with running(replayed.server) as sidecar:
        assert dump(world.programs, sidecar.environment(DATABASE), TABLES) == expected
    return sum(replayed.rows.values())


@pytest.fixture(scope="module")
def promoted() -> Iterator[tuple[Recorded, list[int]]]:
    """Record a primary, the standby that took over, and where each ten orders were in."""
    with world_folder() as folder:
        with archiving_server(folder, 15, segment_megabytes=1) as primary:
            prepared_server(primary)
            take_base(primary, folder)
            stops = [add(primary, 1)]
            with primary.standby() as standby:
                stops.append(add(primary, 11))
                seen = "SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn"
                while standby.value(seen) < stops[-1]:
                    time.sleep(0.02)
                primary.stop()
                standby.promote()
                stops += [add(standby, 21), add(standby, 31)]
                standby.query("DROP TABLE shop.orders", DATABASE)
                finish_wal(standby)
                programs = primary.bin
        yield Recorded(folder, 15, programs), stops


def test_replay_follows_the_timeline_of_the_target(promoted: tuple[Recorded, list[int]]) -> None:
    """Before the switch and after it, the sidecar has what a full recovery has."""
    world, stops = promoted

    assert [rows(world, stop, 2) for stop in stops] == [10, 20, 30, 40]


def test_replay_stops_between_a_lock_and_its_commit() -> None:
    """A long ALTER or DROP that spans the stop leaves no lock, prepared transactions neither."""
    with world_folder() as folder:
        with archiving_server(folder, 15, segment_megabytes=1) as server:
            prepared_server(server)
            take_base(server, folder)
            add(server, 1)
            with server.connect(DATABASE) as connection, server.connect(DATABASE) as other:
                connection.execute("BEGIN")
                connection.execute("INSERT INTO shop.bills VALUES (900)")
                connection.execute("PREPARE TRANSACTION 'undecided'")
                other.execute("BEGIN")
                for number in range(70):
                    other.execute(f"SAVEPOINT s{number}")
                    other.execute(f"INSERT INTO shop.orders VALUES ({1000 + number}, 'open')")
                other.execute("CREATE TABLE shop.other AS SELECT 1 AS i")
                other.execute("LOCK TABLE shop.orders")
                stop = int(server.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
                other.execute("DROP TABLE shop.orders")
                other.execute("COMMIT")
                connection.execute("COMMIT PREPARED 'undecided'")
            finish_wal(server)
            world = Recorded(folder, 15, server.bin)

        assert rows(world, stop, 1) == 10


def test_sidecar_never_gives_out_the_xid_of_an_open_transaction() -> None:
    """What only wrote to catalogs and had not committed stays invisible, whatever is run there.

    Its records are not replayed a second time, and its xid counts as given out all the same.
    """
    with world_folder() as folder:
        with archiving_server(folder, 15, segment_megabytes=1) as server:
            prepared_server(server)
            take_base(server, folder)
            add(server, 1)
            with server.connect(DATABASE) as connection:
                connection.execute("BEGIN")
                connection.execute("CREATE TABLE shop.phantom (i int)")
                stop = add(server, 11)
                connection.execute("COMMIT")
            finish_wal(server)
            world = Recorded(folder, 15, server.bin)
        replayed = world.replayed(stop, ["shop.orders"])
        with running(replayed.server) as sidecar, sidecar.connect(DATABASE) as own:
            for _ in range(20):
                own.execute("SELECT txid_current()")
            seen = "SELECT count(*) FROM pg_class WHERE relname = 'phantom'"
            assert own.execute(seen).fetchone() == (0,)
            assert own.execute("SELECT count(*) FROM shop.orders").fetchone() == (20,)


def test_catalogs_that_were_written_after_the_stop_are_recovered_again(
    promoted: tuple[Recorded, list[int]],
) -> None:
    """A page of pass 1 with a later LSN is found out; pass 2 then takes all from the base."""
    world, stops = promoted
    replay = world.replay(stops[3], 2)
    found = replay.find_tables(DATABASE, TABLES)
    [catalogs] = world.folder.glob("recovery-*/catalogs/data/base/*/1259")
    with catalogs.open("r+b") as file:
        file.write((0x7F).to_bytes(4, "little"))
    replayed = replay.recover(found, world.new_folder() / "sidecar")

    assert sum(replayed.rows.values()) == 40
    assert not list(world.folder.glob("recovery-*/catalogs"))


def test_catalogs_are_the_same_until_somebody_writes_to_them() -> None:
    """Rows change nothing there; a command does, and so does the commit of one begun before."""
    with world_folder() as folder:
        with archiving_server(
            folder, 15, checksums=False, settings={"autovacuum": False}
        ) as server:
            prepared_server(server)
            take_base(server, folder)
            stops = [add(server, 1), add(server, 11)]
            with server.connect(DATABASE) as connection:
                connection.execute("BEGIN")
                connection.execute("ALTER TABLE shop.bills ADD COLUMN later int")
                stops += [add(server, 21), add(server, 31)]
                connection.execute("COMMIT")
            stops += [add(server, 41), add(server, 51)]
            finish_wal(server)
            world = Recorded(folder, 15, server.bin)
        first = [world.replay(stop).find_tables(DATABASE, TABLES) for stop in (stops[0], stops[3])]

        def same(catalogs: CatalogState, since: int, until: int) -> bool:
            return world.replay(stops[until]).has_same_catalogs(catalogs, Lsn(stops[since]))

        assert same(first[0], 0, 1)
        assert not same(first[0], 0, 2)
        assert same(first[1], 3, 3)
        assert not same(first[1], 3, 4)
        late = world.replay(stops[1])
        replayed = late.recover(first[0], world.new_folder() / "sidecar")
        assert sum(replayed.rows.values()) == 20
