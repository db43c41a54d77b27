"""Base backups of real servers. The oracle is PostgreSQL: it must verify, start and agree."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from psycopg.pq import ConnStatus

from pitr.archive.local import LocalStore
from pitr.errors import (
    ArchiveLacks,
    CorruptObject,
    IdentityMismatch,
    PitrError,
    PrivilegeMissing,
)
from pitr.postgres.backup.torn import block_at, blocks_in_wal
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import BaseInfo, whole_files
from pitr.postgres.capture.push import push_file
from pitr.postgres.live.connection import connect_replication
from pitr.vocabulary.event import Event, Level
from pitr.vocabulary.position import Lsn
from tests.memory_store import MemoryStore
from tests.postgres.backups import (
    SLOT,
    adopt,
    exported,
    newest,
    own,
    require_programs,
    started,
    stored_bytes,
    table_digest,
    take,
)
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server

BLOCK = 8192


def pgbench(server: Server, *arguments: str) -> subprocess.Popen[bytes]:
    """Start pgbench against a server."""
    command = [str(server.bin / "pgbench"), *arguments]
    return subprocess.Popen(
        command,
        env=server.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_backup_under_load_starts_and_is_equal(server: Server, tmp_path: Path) -> None:
    """A base taken while pgbench writes is one that PostgreSQL verifies, starts, finds whole."""
    require_programs(server)
    assert pgbench(server, "-i", "-s", "3", "-q").wait() == 0
    store = LocalStore(tmp_path)
    store.make()
    load = pgbench(server, "-T", "60", "-c", "4", "-N")
    try:
        # Slowly enough that blocks, and whole files, change in the middle of it.
        info = take(server, store, rate_kb=40_000)
    finally:
        load.terminate()
        load.wait()
    server.query("SELECT pg_switch_wal()")
    wanted = [table_digest(server, table) for table in ("pgbench_accounts", "pgbench_history")]

    assert info.damaged == ()
    assert info.end is not None
    assert info.start < info.end
    with exported(newest(store), server.wal) as (data, _), started(data, server) as found:
        found.run("pg_amcheck", "--all", "--install-missing", "--heapallindexed")
        assert found.value("SELECT pg_is_in_recovery()") is False
        assert [
            table_digest(found, table) for table in ("pgbench_accounts", "pgbench_history")
        ] == wanted


@pytest.mark.every_major
def test_backup_of_each_version_holds_the_files_of_the_server(server: Server, major: int) -> None:
    """Every file of a quiet server is in the base byte for byte, by both protocols."""
    server.query("CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 2000) AS i")
    store = MemoryStore()
    info = take(server, store)
    server.stop()
    base = newest(store)
    relations = [
        path
        for path, file in base.files().items()
        if path.startswith("base/") and not file.is_folder
    ]

    assert info.major == major
    assert info.superuser == "postgres"
    assert info.settings["max_connections"] == "40"
    assert len(relations) > 500
    contents = {path: bytearray(base.files()[path].size) for path in relations}
    for path, offset, data in base.read_pieces(whole_files(base, relations)):
        contents[path][offset : offset + len(data)] = data
    # A shutdown writes hint bits and statistics nowhere but where they were dirty: allow none.
    assert [path for path in relations if contents[path] != (server.data / path).read_bytes()] == []


def test_second_backup_of_a_little_changed_server_stores_little(
    server: Server, tmp_path: Path
) -> None:
    """What did not change is not stored again, and both bases can be read."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 200000) AS i")
    store = LocalStore(tmp_path)
    store.make()
    first = take(server, store)
    before = stored_bytes(tmp_path)
    server.query("INSERT INTO t SELECT i, 'new' FROM generate_series(1, 10) AS i")
    second = take(server, store)
    added = stored_bytes(tmp_path) - before

    assert first.bytes > 5_000_000
    assert second.bytes < first.bytes / 10
    assert added < first.bytes / 10
    assert [info.id for info in BaseArchive(store).bases()] == [first.id, second.id]
    path = server.value("SELECT pg_relation_filepath('t')")
    assert newest(store).read_file(path) == (server.data / path).read_bytes()
    assert BaseArchive(store).open(first.id).read_blocks(path, 3, 4) != b""


def test_blocks_are_read_alone(server: Server) -> None:
    """A block range costs the chunks that it lies in, whatever the size of the file."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i")
    store = MemoryStore()
    take(server, store)
    path = server.value("SELECT pg_relation_filepath('t')")
    whole = (server.data / path).read_bytes()
    base = newest(store)
    base.read_blocks(path, 0, 1)
    manifest_and_one = base.bytes_read
    got = base.read_blocks(path, 100, 103)

    assert got == whole[100 * BLOCK : 103 * BLOCK]
    assert base.read_blocks(path, 15, 17) == whole[15 * BLOCK : 17 * BLOCK]
    assert base.read_blocks(path, 7, 7) == b""
    assert base.bytes_read - manifest_and_one < len(whole) / 20
    with pytest.raises(ValueError):
        base.read_blocks(path, 0, len(whole) // BLOCK + 1)
    with pytest.raises(KeyError):
        base.read_file("base/1/999999999")


def test_tablespaces_are_in_the_base_and_come_back_elsewhere(server: Server) -> None:
    """Rows in a tablespace are in the base; the export leads to them without the old folder."""
    require_programs(server)
    place = server.folder / "space"
    place.mkdir()
    own(place)
    server.query(f"CREATE TABLESPACE far LOCATION '{place}'")
    server.query("CREATE TABLE t TABLESPACE far AS SELECT i FROM generate_series(1, 5000) AS i")
    oid = server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'far'")
    store = MemoryStore()
    info = take(server, store)
    server.query("SELECT pg_switch_wal()")

    assert [(item.oid, item.location) for item in info.tablespaces] == [(oid, str(place))]
    with exported(newest(store), server.wal) as (data, tablespaces):
        server.stop()
        place.rename(place.with_name("gone"))
        with started(data, server) as found:
            assert found.value("SELECT count(*) FROM t") == 5000
            link = found.value(f"SELECT pg_tablespace_location({oid})")
            assert link == str(tablespaces / str(oid))


def test_damaged_block_is_reported_and_the_base_kept(server: Server) -> None:
    """A flipped bit in a page is named by file and block; pages written since are not judged."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i")
    path = server.value("SELECT pg_relation_filepath('t')")
    server.query("CHECKPOINT")
    flip(server.data / path, 20 * BLOCK + 5000)
    flip(server.data / path, 21 * BLOCK + 100)
    flip(server.data / path, 40 * BLOCK + 8000)
    events: list[Event] = []
    store = MemoryStore()
    info = take(server, store, events=events)

    assert info.judged_pages
    assert [(item.path, item.begin, item.end) for item in info.damaged] == [
        (path, 20, 22),
        (path, 40, 41),
    ]
    assert any(event.level is Level.WARNING and path in str(event.detail) for event in events)
    assert newest(store).read_file(path) == (server.data / path).read_bytes()


def test_page_that_was_caught_half_written_is_no_damage(server: Server) -> None:
    """A page with a wrong checksum that the WAL of the backup holds whole is what replay mends."""
    server.query(
        "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 50000) AS i"
    )
    path = server.value("SELECT pg_relation_filepath('t')")
    server.query("CHECKPOINT")
    # The server's own memory has the right pages; the copy meets these on disk.
    flip(server.data / path, 20 * BLOCK + 5000)
    flip(server.data / path, 30 * BLOCK + 5000)
    change = threading.Thread(target=change_when_copying, args=(server, "t", 20))
    change.start()
    store = MemoryStore()
    info = take(server, store, rate_kb=8000)
    change.join()
    assert [(item.path, item.begin, item.end) for item in info.damaged] == [(path, 30, 31)]


def test_images_are_found_in_the_wal_of_the_archive_and_of_the_server(server: Server) -> None:
    """Either tells the same blocks, and one that was not written is not among them."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 50000) i")
    path = str(server.value("SELECT pg_relation_filepath('t')"))
    server.query("CHECKPOINT")
    begin = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()"))
    segment = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    server.query("UPDATE t SET x = 'y' WHERE ctid = '(20,1)'")
    end = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()"))
    server.query("SELECT pg_switch_wal()")
    full, empty = MemoryStore(), MemoryStore()
    push_file(full, adopt(full, server), server.wal / segment)
    adopt(empty, server)
    named = {block: block_at(path, block) for block in (20, 30)}
    for store in (full, empty):
        with closing(connect_replication(server.url())) as sender:
            found = blocks_in_wal(
                store, sender, named.values(), begin, end,
                timeline=1, major=server.major, segment_bytes=16 << 20,
            )  # fmt: skip
            # From the archive nothing was asked of the server: the connection is as it was.
            assert (sender.pgconn.status == ConnStatus.OK) == (store is full)
        assert found == {named[20]}


def change_when_copying(server: Server, table: str, block: int) -> None:
    """Change a row of a block once the server sends its files."""
    copying = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase ~ 'streaming'"
    deadline = time.monotonic() + 60
    while not server.value(copying):
        assert time.monotonic() < deadline
    server.query(f"UPDATE {table} SET x = 'y' WHERE ctid = '({block},1)'")


def test_damage_without_checksums_is_not_seen_and_not_claimed(make_server: ServerMaker) -> None:
    """A cluster without checksums is backed up as it is, and its base says that nobody looked."""
    server = make_server(checksums=False)
    server.query("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) AS i")
    path = server.value("SELECT pg_relation_filepath('t')")
    server.query("CHECKPOINT")
    flip(server.data / path, 5000)
    info = take(server, MemoryStore())

    assert not info.judged_pages
    assert info.damaged == ()


def flip(path: Path, offset: int) -> None:
    """Flip a bit of a file behind the server's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def test_damaged_pack_is_named_when_its_chunk_is_read(server: Server, tmp_path: Path) -> None:
    """A chunk whose bytes changed in the archive is refused, and its pack is named."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i")
    store = LocalStore(tmp_path)
    store.make()
    take(server, store)
    packs = sorted((tmp_path / "pack").iterdir())
    for pack in packs:
        data = bytearray(pack.read_bytes())
        for at in range(200, len(data), 2000):  # wherever in it the chunk may lie
            data[at] ^= 0xFF
        pack.write_bytes(data)
    base = newest(LocalStore(tmp_path))
    path = server.value("SELECT pg_relation_filepath('t')")

    with pytest.raises(CorruptObject) as caught:
        base.read_file(path)
    assert caught.value.exit_code == 5
    assert caught.value.key in {f"pack/{pack.name}" for pack in packs}


def test_archive_of_another_cluster_is_refused(make_server: ServerMaker) -> None:
    """A backup into the archive of another cluster stores nothing: exit 3."""
    one, other = make_server(), make_server()
    store = MemoryStore()
    adopt(store, one)
    before = [info.key for info in store.list()]

    with pytest.raises(IdentityMismatch) as caught:
        take(other, store)
    assert caught.value.exit_code == 3
    assert [info.key for info in store.list()] == before


def test_role_without_replication_is_refused(server: Server) -> None:
    """Without REPLICATION there is an error that says so, and nothing in the archive."""
    server.query("CREATE ROLE reader LOGIN")
    store = MemoryStore()
    adopt(store, server)

    with pytest.raises(PrivilegeMissing) as caught:
        take(server, store, user="reader")
    assert caught.value.exit_code == 3
    assert not list(store.list("base/"))


def test_role_with_replication_alone_can_back_up(server: Server) -> None:
    """The least privilege is enough: LOGIN and REPLICATION."""
    server.query("CREATE ROLE keeper LOGIN REPLICATION")
    info = take(server, MemoryStore(), user="keeper")

    assert info.superuser == "postgres"


def test_backup_of_a_standby_starts(server: Server) -> None:
    """A standby can be backed up too; its base says where it came from, and starts."""
    require_programs(server)
    server.query("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) AS i")
    with server.standby() as standby:
        server.query("CHECKPOINT")
        end = server.value("SELECT pg_current_wal_lsn()")
        wait_for = f"SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{end}'"
        while not server.value(wait_for):
            pass
        store = MemoryStore()
        info = take(standby, store)
        server.query("SELECT pg_switch_wal()")

        assert info.from_standby
        with exported(newest(store), server.wal) as (data, _):
            (data / "standby.signal").unlink(missing_ok=True)
            with started(data, server) as found:
                assert found.value("SELECT count(*) FROM t") == 5000


def test_slot_is_made_before_the_base_and_keeps_its_wal(server: Server) -> None:
    """From before the start of the base on the server keeps the WAL, without a capture."""
    info = take(server, MemoryStore())
    kept = server.value(f"SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'")

    assert Lsn.parse(kept) <= info.start


def test_slot_is_given_up_with_a_failed_backup_that_made_it(server: Server) -> None:
    """No slot stays for a base that does not exist; one that was there before does."""
    slots = "SELECT count(*) FROM pg_replication_slots"
    store = MemoryStore()
    adopt(store, server)
    server.query("CREATE ROLE reader LOGIN")
    with pytest.raises(PrivilegeMissing):
        take(server, store, user="reader")
    assert server.value(slots) == 0
    # A relation that the server cannot read ends the backup in the middle.
    server.query("CREATE TABLE t AS SELECT 1 AS i; CHECKPOINT")
    path = server.data / server.value("SELECT pg_relation_filepath('t')")
    path.chmod(0)
    with pytest.raises(PitrError) as caught:
        take(server, store)
    assert caught.value.exit_code in (3, 6)
    assert "Permission denied" in str(caught.value.detail)
    assert server.value(slots) == 0
    server.query(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
    with pytest.raises(PitrError):
        take(server, store)
    assert server.value(slots) == 1
    assert not list(store.list("base/"))


def test_unknown_base_is_refused(server: Server) -> None:
    """A base that the archive does not have is named: exit 4."""
    store = MemoryStore()
    adopt(store, server)

    with pytest.raises(ArchiveLacks) as caught:
        BaseArchive(store).open("20260101T000000Z.00000001.0000000001000000")
    assert caught.value.exit_code == 4
    assert BaseArchive(store).bases() == []


def test_two_backups_at_once_are_both_whole(server: Server, tmp_path: Path) -> None:
    """Backups beside each other store some chunks twice at worst, and both can be read."""
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) AS i")
    store = LocalStore(tmp_path)
    store.make()
    adopt(store, server)
    found: list[BaseInfo] = []
    threads = [threading.Thread(target=lambda: found.append(take(server, store))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = server.value("SELECT pg_relation_filepath('t')")

    assert len(found) == 2
    for info in found:
        base = BaseArchive(store).open(info.id)
        assert base.read_file(path) == (server.data / path).read_bytes()
