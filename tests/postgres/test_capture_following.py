"""What capture makes of WAL in the same pass: the index of each segment, and the catalog map."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pitr.postgres.capture.capture import Capture
from pitr.postgres.capture.following import CatalogFollower, index_objects
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.index.upkeep import complete_index, missing_segments
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import Event
from tests.memory_store import MemoryStore
from tests.postgres.capture_world import (
    FAST,
    SLOT,
    Running,
    identity_of,
    run_in_thread,
    wait_until,
    whole_segments,
    write,
)
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def primary(make_server: ServerMaker) -> Server:
    return make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1)


@contextmanager
def following(store: MemoryStore, primary: Server, spool: Path) -> Iterator[Running]:
    """Capture with all that the command has it do."""
    running = Running(store)
    tell = running.events.append
    with closing(CatalogFollower(store, primary.url(), tell)) as watch:
        capture = Capture(
            store,
            identity_of(store, primary),
            primary.url(),
            slot=SLOT,
            spool=spool,
            on_event=tell,
            options=FAST,
            on_segment=index_objects,
            on_scan=watch.see,
        )
        with run_in_thread(running, capture):
            yield running


def index_of(store: MemoryStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key) for info in store.list("index/")}


def test_index_is_that_of_the_archived_wal(
    store: MemoryStore, primary: Server, tmp_path: Path
) -> None:
    """Each segment has its object, the same that is made from the archive afterwards.

    Also when capture was started anew in the middle of a segment, and with records that go over
    many segments.
    """
    for _ in range(3):
        with following(store, primary, tmp_path / "spool") as running:
            write(primary, 6000)
            note = random.Random(3).randbytes(300_000).hex()
            primary.query(f"INSERT INTO t (note) VALUES ('{note}')")
            write(primary, 500)
            running.wait_for(primary)
            assert not [event for event in running.events if "index" in event.message]
    made = index_of(store)
    # The record that goes on in the very first segment began where nothing was archived.
    wal = WalArchive(store)
    first = wal.ranges(1)[0][0].value
    assert {begin for _, begin in missing_segments(store, wal)} <= {first}
    for key in made:
        store.delete(key)
    complete_index(store, WalArchive(store))
    again = index_of(store)

    assert len(made) >= len(whole_segments(store)) - 1
    assert made.items() <= again.items()


def test_table_that_is_made_while_capture_runs_is_in_the_catalog_map(
    store: MemoryStore, primary: Server, tmp_path: Path
) -> None:
    """A commit that changed the catalog leads to a new reading of its database, soon."""
    with following(store, primary, tmp_path / "spool"):
        primary.query("CREATE TABLE first_one (a int)")
        wait_until(lambda: "first_one" in names(store), "the first reading")
        primary.query("CREATE TABLE second_one (a int)")
        wait_until(lambda: "second_one" in names(store), "the reading after DDL")
        primary.query("CREATE DATABASE another")
        primary.query("CREATE TABLE third_one (a int)", database="another")
        wait_until(lambda: "third_one" in names(store), "the reading of a new database")
        readings = len(list(store.list("catalog/")))
        for _ in range(5):
            primary.query("INSERT INTO first_one VALUES (1)")
    assert len(list(store.list("catalog/"))) == readings


def names(store: MemoryStore) -> set[str]:
    """Return the names of all relations that the map has in its newest state."""
    catalog = CatalogMap(store)
    catalog.refresh()
    found = set()
    for database in catalog.databases():
        _, relations = catalog.newest(database.oid)
        found |= {relation.name for relation in relations.values()}
    return found


def test_server_that_cannot_be_read_does_not_stop_capture(
    store: MemoryStore, primary: Server, tmp_path: Path
) -> None:
    """Names are resolved later; it is said once."""
    events: list[Event] = []
    place = f"host={tmp_path} port=1 dbname=x"
    with closing(CatalogFollower(store, place, events.append)) as watch:
        capture = Capture(
            store,
            identity_of(store, primary),
            primary.url(),
            slot=SLOT,
            spool=tmp_path / "spool",
            on_event=events.append,
            options=FAST,
            on_scan=watch.see,
        )
        write(primary, 100)
        capture.once()
    assert [event for event in events if "the catalog was not read" in event.message]
    assert WalArchive(store).ranges(1)
