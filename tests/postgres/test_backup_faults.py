"""Base backups that are killed, and stores and servers that fail in the middle of one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.errors import SourceUnreachable, StoreUnusable
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import whole_files
from pitr.vocabulary.event import Event, Level
from tests.memory_store import MemoryStore
from tests.postgres.backups import adopt, newest, stored_bytes, take
from tests.test_tidy import ROOT
from tools.postgres_servers import Server


def start(
    server: Server, archive: Path, *, crash_at: int = 0, rate_kb: int = 0
) -> subprocess.Popen[bytes]:
    """Start a backup in a process of its own, to be killed at a durable step or by us."""
    command = [sys.executable, "-m", "tests.crash.backup_run", server.url(), str(archive)]
    environment = {**os.environ, "PITR_CRASH_AT": str(crash_at)}
    return subprocess.Popen([*command, str(rate_kb)], cwd=ROOT, env=environment)


def fill(server: Server) -> str:
    """Make a table of some 10 MB that does not compress well; return its file."""
    server.query(
        "CREATE TABLE t AS SELECT i, md5(i::text) || md5((i + 1)::text) AS x "
        "FROM generate_series(1, 100000) AS i; CHECKPOINT"
    )
    return str(server.value("SELECT pg_relation_filepath('t')"))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return when a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


def test_backup_killed_at_durable_steps_leaves_no_base_and_its_chunks_are_used(
    server: Server, tmp_path: Path
) -> None:
    """Killed at ever later steps there is never a base; the next try stores the rest alone."""
    path = fill(server)
    store = LocalStore(tmp_path)
    store.make()
    adopt(store, server)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    choose = random.Random(seed)
    for low, high in ((2, 8), (9, 20), (30, 60)):
        run = start(server, tmp_path, crash_at=choose.randrange(low, high))
        assert run.wait(60) == -signal.SIGKILL
        assert BaseArchive(LocalStore(tmp_path)).bases() == []
    left = stored_bytes(tmp_path / "pack")
    info = take(server, LocalStore(tmp_path))
    base = newest(LocalStore(tmp_path))

    assert left > 0
    # A killed upload may leave a temporary file beside the packs, which is not used.
    assert info.bytes <= info.stored_bytes - left / 2
    assert base.read_file(path) == (server.data / path).read_bytes()
    files = [item.path for item in base.files().values() if not item.is_folder]
    assert sum(len(piece.data) for piece in base.read_pieces(whole_files(base, files))) == sum(
        base.files()[name].size for name in files
    )


def test_backup_killed_while_it_reads_leaves_the_server_alone(
    server: Server, tmp_path: Path
) -> None:
    """Killed in mid-stream: the server ends its side, and the next backup is whole."""
    path = fill(server)
    store = LocalStore(tmp_path)
    store.make()
    adopt(store, server)
    run = start(server, tmp_path, rate_kb=8000)
    wait_until(lambda: (tmp_path / "pack").exists() and any((tmp_path / "pack").iterdir()))
    run.send_signal(signal.SIGKILL)
    run.wait()

    wait_until(lambda: not server.value("SELECT count(*) FROM pg_stat_progress_basebackup"))
    assert BaseArchive(store).bases() == []
    take(server, store)
    assert newest(store).read_file(path) == (server.data / path).read_bytes()


class FailingStore(MemoryStore):
    """A store whose writes can be made to fail, or to wait for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0  # writes below `prefix` that fail before one succeeds; -1: all
        self.prefix = "pack/"
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object, or fail."""
        if key.startswith(self.prefix):
            self.may_go_on.wait()
            if self.failures:
                self.failures -= self.failures > 0
                raise StoreUnusable("cannot write to the archive", detail="It is on fire.")
        super().put_new(key, data)


def backing_up(server: Server) -> bool:
    """Return whether the server still sends a base backup."""
    return bool(server.value("SELECT count(*) FROM pg_stat_progress_basebackup"))


def test_store_that_fails_for_a_while_is_asked_again(server: Server) -> None:
    """Some failed writes are told once, and the backup is whole."""
    path = fill(server)
    store = FailingStore()
    adopt(store, server)
    store.failures = 2
    events: list[Event] = []
    take(server, store, events=events)
    told = [event for event in events if event.level is not Level.PROGRESS]

    assert [event.level for event in told] == [Level.WARNING, Level.INFO]
    assert "on fire" in str(told[0].detail)
    assert newest(store).read_file(path) == (server.data / path).read_bytes()


@pytest.mark.parametrize("prefix", ["pack/", "base/"])
def test_store_that_fails_for_good_ends_the_backup(server: Server, prefix: str) -> None:
    """After the patience there is an error, no base, and nothing left on the server."""
    store = FailingStore()
    adopt(store, server)
    store.failures, store.prefix = -1, prefix

    with pytest.raises(StoreUnusable) as caught:
        take(server, store, patience_seconds=0.5)
    assert caught.value.exit_code == 3
    assert "on fire" in str(caught.value.detail)
    assert BaseArchive(store).bases() == []
    wait_until(lambda: not backing_up(server))


def test_store_that_never_answers_does_not_hold_the_server(server: Server) -> None:
    """A write that hangs ends the backup after the patience, though it never returns."""
    fill(server)
    store = FailingStore()
    adopt(store, server)
    store.may_go_on.clear()
    begun = time.monotonic()
    try:
        with pytest.raises(StoreUnusable):
            take(server, store, patience_seconds=1)
        assert time.monotonic() - begun < 30
        wait_until(lambda: not backing_up(server))
        assert BaseArchive(store).bases() == []
    finally:
        store.may_go_on.set()


def test_server_that_dies_ends_the_backup(server: Server) -> None:
    """A server killed in mid-stream is an error with exit 3, not a base."""
    fill(server)
    store = MemoryStore()
    adopt(store, server)
    killer = threading.Timer(0, lambda: (wait_until(lambda: backing_up(server)), server.kill()))
    killer.start()
    try:
        with pytest.raises(SourceUnreachable) as caught:
            take(server, store, rate_kb=2000)
    finally:
        killer.join()
    assert caught.value.exit_code == 3
    assert BaseArchive(store).bases() == []
