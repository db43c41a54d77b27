"""The catalog map: what was there, when, and under which name."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pitr.archive.store import ObjectInfo
from pitr.errors import CorruptObject
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.catalog.reading import Relation, decode_reading
from pitr.postgres.catalog.watching import CatalogWatch
from pitr.postgres.live.connection import connect
from pitr.postgres.wal.scan import ScanState, scan
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.position import Lsn
from tests.memory_store import MemoryStore
from tests.postgres.fixtures import available
from tests.postgres.index_world import SETTINGS
from tools.postgres_servers import Server

LIVE = (
    "SELECT c.oid, coalesce(pg_relation_filenode(c.oid), 0), n.nspname, c.relname"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE relkind IN ('r', 'p', 'm', 't', 'i', 'I', 'S') AND relpersistence <> 't'"
)


@pytest.fixture(scope="module")
def running(major: int) -> Iterator[Server]:
    with Server(available(major), settings=SETTINGS, segment_megabytes=1) as server:
        yield server


@pytest.fixture
def home(running: Server) -> Iterator[tuple[Server, str]]:
    """Yield the server and a new database of it."""
    name = f"home_{random.getrandbits(32):08x}"
    running.query(f"CREATE DATABASE {name}")
    yield running, name
    running.query(f"DROP DATABASE {name} WITH (FORCE)")


def reader_of(server: Server, store: MemoryStore) -> CatalogReader:
    return CatalogReader(store, lambda name: connect(server.url(), database=name))


def oid_of(server: Server, database: str) -> int:
    return int(server.value(f"SELECT oid FROM pg_database WHERE datname = '{database}'"))


def live(server: Server, database: str) -> set[tuple[int, int, str, str]]:
    return {(row[0], row[1], row[2], row[3]) for row in server.query(LIVE, database)}


def seen(relations: list[Relation]) -> set[tuple[int, int, str, str]]:
    return {(r.oid, r.file, r.schema, r.name) for r in relations}


def test_map_says_what_the_server_said_at_each_reading(home: tuple[Server, str]) -> None:
    """Through random DDL, read back from deltas by a reader that was not there."""
    server, database = home
    oid = oid_of(server, database)
    store = MemoryStore()
    reader = reader_of(server, store)
    rng = random.Random(4)
    expected: list[tuple[Lsn, set[tuple[int, int, str, str]]]] = []
    for number in range(25):
        server.query(
            rng.choice(
                [
                    f"CREATE TABLE t{number} (id serial PRIMARY KEY, x text)",
                    "DO $$ DECLARE n text; BEGIN SELECT relname INTO n FROM pg_class WHERE"
                    " relkind = 'r' AND relname ~ '^t[0-9]' LIMIT 1; IF n IS NOT NULL THEN"
                    " EXECUTE 'DROP TABLE ' || n; END IF; END $$",
                    f"CREATE TABLE t{number}(x text); ALTER TABLE t{number} RENAME TO r{number}",
                    "VACUUM FULL pg_class",
                    f"CREATE SCHEMA s{number}; CREATE TABLE s{number}.t (i int)",
                    f"CREATE TEMP TABLE passing{number} (i int)",
                ]
            ),
            database,
        )
        if rng.random() < 0.1:
            reader = reader_of(server, store)  # a new process
        expected.append((reader.refresh(), live(server, database)))
    catalog = CatalogMap(store)

    assert seen(catalog.relations_at(oid)) == expected[-1][1]
    for position, relations in expected:
        # The database is read after the list, whose position is the one returned.
        later = [p for p, _ in expected if p > position]
        at = min(later).value - 1 if later else position.value + (1 << 30)
        assert seen(catalog.relations_at(oid, at)) == relations


def test_file_is_resolved_to_its_table_by_name_at_the_time(home: tuple[Server, str]) -> None:
    """Through renames and rewrites, and when the table is gone."""
    server, database = home
    store = MemoryStore()
    reader = reader_of(server, store)
    oid = oid_of(server, database)
    server.query("CREATE TABLE first (x text)", database)
    reader.refresh()
    catalog = CatalogMap(store)
    (table,) = [r for r in catalog.relations_at(oid) if r.name == "first"]
    old = table.relation_file(oid)
    server.query("ALTER TABLE first RENAME TO second; TRUNCATE second", database)
    renamed = reader.refresh()
    server.query("DROP TABLE second", database)
    gone = reader.refresh()
    catalog = CatalogMap(store)
    (toast,) = [
        v.relation for v in catalog.versions_between(oid, 0, 1) if v.relation.owner == table.oid
    ]
    versions = catalog.versions_of(oid, table.oid)

    assert [v.relation.name for v in versions] == ["first", "second"]
    assert versions[1].relation.file != table.file
    assert versions[-1].end is not None
    found = catalog.relation_of(old, gone.value)
    assert found is not None
    assert (found.database_name, found.relation.name) == (database, "second")
    before = catalog.relation_of(old, renamed.value - 1)
    assert before is not None
    assert before.relation.name == "first"
    assert (toast.kind, toast.schema) == ("t", "pg_toast")
    assert catalog.relation_of(old, 0) is not None


def test_reading_without_a_change_stores_nothing_and_a_change_little(
    home: tuple[Server, str],
) -> None:
    """Deltas: some hundred bytes for a table, nothing for nothing or a temporary table."""
    server, database = home
    store = MemoryStore()
    reader = reader_of(server, store)
    reader.refresh()
    first = sizes(store)
    reader.refresh()
    server.query("CREATE TEMP TABLE passing (x text)", database)
    reader.refresh()
    assert sizes(store) == first
    server.query("CREATE TABLE t (id int)", database)
    reader.refresh()
    (added,) = set(sizes(store)) - set(first)

    assert sizes(store)[added] < 600 < sum(first.values())


def sizes(store: MemoryStore) -> dict[str, int]:
    infos: list[ObjectInfo] = list(store.list("catalog/"))
    return {info.key: info.size for info in infos}


def test_two_readers_at_once_are_both_right(home: tuple[Server, str]) -> None:
    """Each delta names what it rests on; whoever reads them puts them together rightly."""
    server, database = home
    oid = oid_of(server, database)
    store = MemoryStore()
    one, two = reader_of(server, store), reader_of(server, store)
    one.refresh()
    two.refresh()
    for number in range(6):
        server.query(f"CREATE TABLE t{number} (id int)", database)
        (one if number % 2 else two).refresh()
        server.query(f"DROP TABLE t{number}", database) if number % 3 == 0 else None
        assert oid in CatalogMap(store).database_oids()
    one.refresh()

    assert seen(CatalogMap(store).relations_at(oid)) == live(server, database)


def test_database_that_cannot_be_read_is_noted_and_the_rest_read(
    home: tuple[Server, str],
) -> None:
    """template0 lets nobody in; a lock makes one database wait for nobody."""
    server, database = home
    store = MemoryStore()
    reader_of(server, store).refresh()
    catalog = CatalogMap(store)
    faults = {item.name: item.fault for item in catalog.databases()}

    assert faults["template0"]
    assert faults[database] is None
    assert catalog.superuser() == "postgres"
    assert catalog.database_name(oid_of(server, database)) == database


def test_damaged_reading_is_refused(home: tuple[Server, str]) -> None:
    """By its checksum."""
    server, _ = home
    store = MemoryStore()
    reader_of(server, store).refresh()
    key = next(iter(store.list("catalog/"))).key
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1

    assert decode_reading(key, store.get(key))
    with pytest.raises(CorruptObject):
        decode_reading(key, bytes(data))


def test_watch_tells_which_databases_a_commit_has_changed(home: tuple[Server, str]) -> None:
    """DDL of every kind is seen, rolled back or data changes are not."""
    server, database = home
    oid = oid_of(server, database)
    reader = reader_of(server, MemoryStore())
    version = version_of_major(server.major)
    watch = CatalogWatch(version)
    state: ScanState | None = None

    def after(*statements: str) -> set[int]:
        """Return what the watch says of the WAL that these statements wrote."""
        nonlocal state
        with server.connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())
        server.query("SELECT pg_switch_wal()")
        wal = WalFolder(server.wal)
        end = Lsn.parse(server.value("SELECT pg_current_wal_flush_lsn()::text"))
        begin = Lsn(end.value - end.value % wal.segment_bytes)
        state = state or ScanState(wal.ranges(1)[-1][0].value)
        found: set[int] = set()
        while state.position < begin.value:
            upto = state.position - state.position % wal.segment_bytes + wal.segment_bytes
            upto = min(upto, wal.ranges(1)[-1][1].value)
            part = scan(
                wal.read(1, Lsn(state.position), Lsn(upto)),
                state.position,
                state,
                version=version,
                segment_bytes=wal.segment_bytes,
            )
            state = part.state
            found |= watch.note(part)
        reader.refresh()
        watch.learn(reader.moved_catalogs())
        return found

    after("CREATE TABLE base (id int)")
    assert after("INSERT INTO base VALUES (1)", "ANALYZE base") == set()
    assert after("BEGIN", "CREATE TABLE undone (id int)", "ROLLBACK") == set()
    assert after("CREATE TABLE t (id int) PARTITION BY LIST (id)") == {oid}
    assert after("CREATE TABLE u (id int)") == {oid}
    assert after("ALTER TABLE t ATTACH PARTITION u FOR VALUES IN (1)") == {oid}
    assert after("VACUUM FULL pg_class") == {oid}
    assert after("BEGIN", "SAVEPOINT a", "TRUNCATE base", "COMMIT") == {oid}
    assert after("ALTER TABLE base RENAME TO other") == {oid}
    assert after("CREATE SCHEMA s", "ALTER SCHEMA s RENAME TO r") == {oid}
    assert 0 in after("ALTER DATABASE postgres CONNECTION LIMIT 99")
