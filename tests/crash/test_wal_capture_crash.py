"""SIGKILL of a PostgreSQL capture at every durable step and at random: no gap, no wrong byte.

Oracle: the server's own pg_wal. `PITR_TEST_KILL_ROUNDS` and `PITR_TEST_SEED` choose how long, and
replay a run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.postgres.wal_store.archive import WalArchive
from tests.postgres.capture_world import (
    SLOT,
    archived_end,
    assert_same_as_server,
    flushed,
    identity_of,
    switch,
    wait_until,
    write,
)
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server

STEPS_MAX = 400


@pytest.fixture
def primary(make_server: ServerMaker) -> Server:
    return make_server(settings={"wal_keep_size": "2GB"}, segment_megabytes=1)


class World:
    """A server, its archive in a folder, and a capture process that comes and goes."""

    def __init__(self, primary: Server, folder: Path) -> None:
        self.primary = primary
        self.folder = folder
        self.store = LocalStore(folder / "archive")
        self.store.make()
        identity_of(self.store, primary)

    def start(self, *mode: str, crash_at: int = 0) -> subprocess.Popen[bytes]:
        """Start a capture."""
        environment = {**os.environ, "PITR_CRASH_AT": str(crash_at)}
        command = [sys.executable, "-m", "tests.crash.wal_capture_run", self.primary.url()]
        command += [str(self.folder / "archive"), str(self.folder / "spool"), SLOT, *mode]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def once(self, crash_at: int = 0) -> int:
        """Capture once; return the exit code."""
        return self.start("once", crash_at=crash_at).wait(60)

    def check(self) -> None:
        """Compare what is archived with the server, after a last undisturbed capture."""
        end = flushed(self.primary)  # the server goes on writing a little by itself
        assert self.once() == 0, (self.folder / "log").read_text()[-2000:]
        assert archived_end(self.store, 1) >= end
        assert len(WalArchive(self.store).ranges(1)) == 1
        assert_same_as_server(self.store, self.primary)
        assert not [path for path in (self.folder / "spool").glob("*/*") if path.is_file()]


@contextmanager
def writing(primary: Server) -> Iterator[None]:
    """Commit small and large transactions, and switch segments, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        chance = random.Random(7)
        while not stop.wait(chance.uniform(0, 0.05)):
            write(primary, chance.choice([1, 1, 10, 500, 3000]))
            if chance.random() < 0.05:
                switch(primary)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_kill_at_every_durable_step_leaves_no_gap(primary: Server, tmp_path: Path) -> None:
    """Each step that makes something durable is the last one once."""
    world = World(primary, tmp_path)
    write(primary, 3000)
    assert world.once() == 0
    steps = 0
    for step in every_step():
        write(primary, 200)
        if step % 6 == 0:
            write(primary, 4000)
        code = world.once(crash_at=step)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        steps = step
    assert steps > 10
    world.check()


def every_step() -> Iterator[int]:
    """Yield 1, 2, 3, …; under `make soak` all of them, else some."""
    stride = int(os.environ.get("PITR_TEST_KILL_STRIDE", "4"))
    yield from range(1, STEPS_MAX, stride)


def run_rounds(primary: Server, folder: Path, rounds: int) -> None:
    seed = int(os.environ.get("PITR_TEST_SEED", random.SystemRandom().randrange(10**9)))
    print(f"replay with PITR_TEST_SEED={seed}")
    chance = random.Random(seed)
    world = World(primary, folder)
    with writing(primary):
        for at in range(rounds):
            process = world.start()
            time.sleep(chance.uniform(0.3, 1.5))
            if at % 4 == 3:
                primary.query("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
                time.sleep(chance.uniform(0, 0.5))
            process.kill()
            process.wait(10)
    world.check()


def test_kills_at_random_leave_no_gap(primary: Server, tmp_path: Path) -> None:
    """Some rounds, in every `make test`."""
    run_rounds(primary, tmp_path, int(os.environ.get("PITR_TEST_KILL_ROUNDS", "5")))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_hundreds_of_kills_leave_no_gap(primary: Server, tmp_path: Path) -> None:
    """Long enough to meet the rare moments."""
    run_rounds(primary, tmp_path, int(os.environ.get("PITR_TEST_KILL_ROUNDS", "300")))


def test_sigterm_drains(primary: Server, tmp_path: Path) -> None:
    """What is committed when SIGTERM comes is archived before the process ends, with code 0."""
    world = World(primary, tmp_path)
    process = world.start()
    wait_until(lambda: archived_end(world.store, 1).value > 0, "the capture to begin")
    write(primary, 5000)
    end = flushed(primary)
    process.terminate()

    assert process.wait(30) == 0
    assert archived_end(world.store, 1) >= end
