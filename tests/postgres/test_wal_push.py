"""wal-push: the same objects as capture, durable before it is done; refuses what is not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pitr.archive.archive import Identity, create_or_adopt
from pitr.errors import (
    CorruptObject,
    CorruptWal,
    IdentityMismatch,
    PitrError,
    PreconditionFailed,
    StoreUnusable,
    UsageError,
)
from pitr.postgres.capture.push import push_file
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.wal.segment_name import SegmentName
from pitr.postgres.wal_store.archive import WalArchive
from pitr.postgres.wal_store.object import encode_wal
from pitr.vocabulary.position import Lsn
from tests.cli.commands import succeed
from tests.memory_store import FaultyStore, MemoryStore
from tests.postgres.capture_world import (
    capturing,
    flushed,
    identity_of,
    switch,
    timeline_of,
    wait_until,
    whole_segments,
    write,
)
from tests.postgres.fixtures import ServerMaker
from tests.postgres.replay_world import world_folder
from tests.unit.postgres.wal_bytes import head
from tests.unit.postgres.wal_bytes import segment as wal_bytes
from tools.postgres_servers import Server

KEEP = {"wal_keep_size": "1GB"}


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def primary(make_server: ServerMaker) -> Server:
    return make_server(settings=KEEP, segment_megabytes=1)


def finished(server: Server) -> list[Path]:
    """Return the segments that the server has finished, oldest first."""
    current = str(SegmentName.at(timeline_of(server), flushed(server).value, 1 << 20))
    paths = sorted(path for path in server.wal.iterdir() if len(path.name) == 24)
    return [path for path in paths if path.name < current]


def refusal(store: MemoryStore, identity: Identity, path: Path) -> PitrError:
    before = [info.key for info in store.list()]
    with pytest.raises(PitrError) as found:
        push_file(store, identity, path)
    assert [info.key for info in store.list()] == before
    assert found.value.hint
    return found.value


@pytest.mark.every_major
def test_pushed_and_captured_objects_are_identical(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """Byte for byte the same objects, so that both ways may be at work at once."""
    primary = make_server(settings=KEEP, segment_megabytes=1)
    pushed, captured = FaultyStore(), FaultyStore()
    identity = identity_of(pushed, primary)
    with capturing(captured, primary, tmp_path / "spool") as running:
        for _ in range(4):
            write(primary, 3000)
            switch(primary)
        running.wait_for(primary)
    for path in finished(primary):
        key = push_file(pushed, identity, path)
        assert pushed.get(key) == captured.get(key)
        # Once more, into either: it is there already, and that is success.
        assert push_file(pushed, identity, path) == key
        assert push_file(captured, identity_of(captured, primary), path) == key
    assert whole_segments(pushed) == whole_segments(captured)


def test_capture_goes_on_from_what_was_pushed(
    store: FaultyStore, primary: Server, tmp_path: Path
) -> None:
    """archive_command alone for a while, then a capture: one stretch, nothing twice."""
    identity = identity_of(store, primary)
    write(primary, 8000)
    switch(primary)
    for path in finished(primary):
        push_file(store, identity, path)
    with capturing(store, primary, tmp_path / "spool") as running:
        write(primary, 10)
        running.wait_for(primary)

    assert len(WalArchive(store).ranges(1)) == 1


def test_other_segment_under_the_name_is_refused(store: FaultyStore, primary: Server) -> None:
    """Exit 5: two clusters that were one write the same names."""
    identity = identity_of(store, primary)
    write(primary, 3000)
    switch(primary)
    path = finished(primary)[0]
    key = push_file(store, identity, path)
    data = bytearray(path.read_bytes())
    other = MemoryStore()
    create_or_adopt(other, engine="postgres", identity=identity.source)
    number = int(path.name[16:], 16)
    of = head(number, system=int(identity.source["system_identifier"]))
    assert of.key == key
    data[-1] ^= 1
    other.put_new(key, encode_wal(of, data))
    error = refusal(other, identity, path)

    assert isinstance(error, CorruptObject)
    assert error.exit_code == 5


def test_object_compressed_by_another_zstd_is_the_same(
    store: FaultyStore, primary: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what is in it."""
    identity = identity_of(store, primary)
    write(primary, 3000)
    switch(primary)
    path = finished(primary)[0]
    key = push_file(store, identity, path)
    first = store.get(key)
    store.delete(key)
    monkeypatch.setattr("pitr.postgres.wal_store.object._LEVEL", 9)
    monkeypatch.setattr("pitr.postgres.wal_store.object._of_thread", type("Fresh", (), {})())
    push_file(store, identity, path)
    assert store.get(key) != first
    monkeypatch.undo()

    assert push_file(store, identity, path) == key


def test_damaged_segment_is_refused(store: FaultyStore, primary: Server, tmp_path: Path) -> None:
    """A wrong CRC, a file that was cut, another segment's content: exit 5, nothing stored."""
    identity = identity_of(store, primary)
    write(primary, 8000)
    switch(primary)
    whole = finished(primary)[1]
    data = whole.read_bytes()
    wrong_byte = data[:300_000] + bytes([data[300_000] ^ 1]) + data[300_001:]
    for content in (wrong_byte, data[:500_000], b"", b"\0" * len(data), data + b"\0"):
        path = tmp_path / whole.name
        path.write_bytes(content)
        error = refusal(store, identity, path)
        assert isinstance(error, CorruptWal)
        assert error.exit_code == 5
    misnamed = tmp_path / finished(primary)[0].name
    misnamed.write_bytes(data)
    assert refusal(store, identity, misnamed).exit_code == 5


def test_file_of_another_cluster_or_size_is_refused(
    store: FaultyStore, primary: Server, tmp_path: Path
) -> None:
    """Exit 3, as for every precondition."""
    identity = identity_of(store, primary)
    write(primary, 3000)
    switch(primary)
    path = tmp_path / "000000010000000000000003"
    path.write_bytes(wal_bytes(3))
    assert isinstance(refusal(store, identity, path), IdentityMismatch)
    for own in finished(primary):
        push_file(store, identity, own)
    system = int(identity.source["system_identifier"])
    path.write_bytes(wal_bytes(3, segment_bytes=2 << 20, system=system))
    error = refusal(store, identity, path)
    assert (type(error), error.exit_code) == (PreconditionFailed, 3)


def test_store_that_fails_is_no_success(store: FaultyStore, primary: Server) -> None:
    """PostgreSQL must keep the file: exit 3, also when only the answer was lost."""
    identity = identity_of(store, primary)
    write(primary, 3000)
    switch(primary)
    path = finished(primary)[0]
    store.is_down = True
    with pytest.raises(StoreUnusable) as found:
        push_file(store, identity, path)
    assert found.value.exit_code == 3
    store.is_down, store.loses_answers = False, True
    with pytest.raises(StoreUnusable):
        push_file(store, identity, path)
    store.loses_answers = False
    assert push_file(store, identity, path)


@pytest.mark.parametrize("name", ["RECOVERYXLOG", "0000000100000000", "x.backup", "0.history"])
def test_other_names_are_refused(store: FaultyStore, tmp_path: Path, name: str) -> None:
    """Exit 2: this is no file that a server archives."""
    identity = create_or_adopt(store, engine="postgres", identity={"system_identifier": "1"})
    (tmp_path / name).write_bytes(b"x")

    assert isinstance(refusal(store, identity, tmp_path / name), UsageError)
    assert refusal(store, identity, tmp_path / "gone").exit_code == 3


def test_promotion_is_archived_by_pushing_alone(store: FaultyStore, primary: Server) -> None:
    """.partial, .history and .backup files: the new timeline follows without a gap."""
    identity = identity_of(store, primary)
    write(primary, 3000)
    with primary.standby(
        settings={**KEEP, "archive_mode": "always", "archive_command": "true"}
    ) as standby:
        write(primary, 3000)
        end = flushed(primary)
        wait_until(
            lambda: Lsn.parse(standby.value("SELECT pg_last_wal_replay_lsn()::text")) >= end,
            "the standby",
        )
        primary.stop("fast")
        standby.promote()
        write(standby, 3000)
        switch(standby)
        wait_until(lambda: any(standby.wal.glob("*.partial")), "the partial segment")
        paths = [*standby.wal.glob("*.partial"), *standby.wal.glob("*.history")]
        primary.start()
        for path in [*finished(primary), *paths, *finished(standby)]:
            push_file(store, identity, path)

        wal = WalArchive(store)
        assert wal.timelines() == [1, 2]
        assert len(wal.ranges(2)) == 1
        assert wal.ranges(1)[-1][1] >= wal.history(2)[0].switch


def test_backup_history_file_is_kept(store: FaultyStore, tmp_path: Path) -> None:
    """A text file, byte for byte."""
    identity = create_or_adopt(store, engine="postgres", identity={"system_identifier": "1"})
    path = tmp_path / "000000010000000000000004.00000028.backup"
    path.write_bytes(b"START WAL LOCATION: 0/4000028\n")
    key = push_file(store, identity, path)

    assert push_file(store, identity, path) == key
    path.write_bytes(b"START WAL LOCATION: 0/4000099\n")
    assert refusal(store, identity, path).exit_code == 5


def test_command_starts_without_the_library_of_connections() -> None:
    """It runs once a segment: psycopg, obstore and apsw would be most of its time."""
    code = (
        "import sys, pitr.cli.wal_push as _; print({*sys.modules} & {'psycopg', 'apsw', 'obstore'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_archive_fed_by_pushing_alone_has_an_index(store: FaultyStore, primary: Server) -> None:
    """Of every segment but the first, which `pitr backup` adds: the same as made from the WAL."""
    identity = identity_of(store, primary)
    for rows in (500, 3000, 20):
        write(primary, rows)
        switch(primary)
    pushed = finished(primary)
    for path in pushed:
        push_file(store, identity, path)
    first = len(list(store.list("index/")))
    assert first >= len(pushed) - 2  # nothing begins or ends in the first, or before it

    again = MemoryStore()
    for info in store.list("wal/"):
        again.put_new(info.key, store.get(info.key))
    complete_index(again, WalArchive(again))
    made = {info.key: again.get(info.key) for info in again.list("index/")}
    assert {info.key: store.get(info.key) for info in store.list("index/")}.items() <= made.items()
    complete_index(store, WalArchive(store))
    assert [info.key for info in store.list("index/")] == sorted(made)


def test_index_that_cannot_be_stored_keeps_no_segment_back(
    store: FaultyStore, primary: Server
) -> None:
    """The segment is archived, and that is what the server asked for."""
    identity = identity_of(store, primary)
    for _ in range(2):
        write(primary, 100)
        switch(primary)
    before, path = finished(primary)[-2:]
    push_file(store, identity, before)
    put_new = store.put_new

    def refuse_index(key: str, data: bytes) -> None:
        if key.startswith("index/"):
            raise StoreUnusable("the store is full")
        put_new(key, data)

    store.put_new = refuse_index  # type: ignore[method-assign]
    push_file(store, identity, path)
    assert path.name in whole_segments(store)
    assert not [info for info in store.list("index/") if path.name[8:] in info.key]


def test_log_and_restore_work_on_what_was_only_pushed(primary: Server, tmp_path: Path) -> None:
    """With commands alone, and no capture: backup, archive_command, log, restore."""
    with world_folder() as sidecars:
        there = {"PITR_SIDECAR_FOLDER": str(sidecars), "PITR_STATE": str(tmp_path / "state")}
        write(primary, 300)
        succeed(tmp_path, "init", primary.url(), "--archive", "archive", **there)
        succeed(tmp_path, "backup", "--checkpoint", "fast", **there)
        primary.query("DELETE FROM t WHERE id <= 100")
        switch(primary)
        primary.query("INSERT INTO t (note) VALUES ('later')")
        switch(primary)
        for path in finished(primary):
            succeed(tmp_path, "wal-push", str(path), **there)
        log = succeed(tmp_path, "log", "-t", "t", "--json", **there).json["transactions"]
        deletion = next(item for item in log if item["tables"][0]["deleted"] == 100)
        words = ("-t", "t", "--at", f"before:xid:{deletion['xid']}", "--no-compare", "--json")
        found = succeed(tmp_path, "restore", *words, **there).json
    assert found["tables"][0]["rows"] == 300
    assert [item["tables"][0]["inserted"] for item in log][-1] == 1
