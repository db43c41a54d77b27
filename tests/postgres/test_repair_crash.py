"""pitr, the backend or the server is killed during a merge, or the line is cut at COMMIT.

Live is as before the merge or as after it, never between; and what became of the merge is found
out from the server by the number of its transaction, never guessed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow

from pitr.operations.postgres.undo import settle_merge
from pitr.recovery.merges import list_merges
from pitr.vocabulary.plan import MergeOutcome, MergeStep
from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import PORT, Server

BEFORE_COMMIT = (MergeStep.LOCKED, MergeStep.VALIDATED, MergeStep.APPLIED, MergeStep.RECORDED)


@dataclass(slots=True)
class Scene:
    """A table after an accident, and how it looks before and after a merge."""

    world: RepairWorld
    before: str
    after: str
    damaged: list[Any]
    mended: list[Any]

    def rows(self) -> list[Any]:
        return self.world.run("select * from t order by id")

    def put_back(self) -> None:
        """Let live be damaged again, and the archive of merges empty."""
        self.world.app.close()
        self.world.app = self.world.server.connect(self.world.name)
        self.world.run("truncate t")
        with self.world.app.cursor() as cursor:
            cursor.executemany("insert into t values (%s, %s, %s)", self.damaged)

    def run_until(self, step: MergeStep) -> None:
        """Run a merge in a process that dies at a step."""
        url = self.world.server.url
        names = (self.world.name, self.before, self.after)
        done = subprocess.run(
            [sys.executable, "-m", "tests.postgres.repair_at_step", str(step),
             str(self.world.state), self.world._recovery(("t",)), *map(url, names), "t"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr

    def outcomes(self) -> list[MergeOutcome | None]:
        """Return what became of the merges that were not concluded, asking the server."""
        open_ones = [kept for kept in list_merges(self.world.state) if kept.outcome is None]
        assert not any(kept.is_running for kept in open_ones)
        return [settle_merge(kept).outcome for kept in open_ones]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One server, one damaged table."""
    with Server(15) as server:
        world = RepairWorld(
            server,
            tmp_path_factory.mktemp("state"),
            "create table t (id int primary key, a text, n int)",
            "insert into t select i, 'item ' || i, i from generate_series(1, 2000) i",
        )
        before = world.mark()
        world.run(
            "delete from t where id % 3 = 0",
            "update t set a = '' where id % 7 = 0",
            "insert into t values (9999, 'bad', 0)",
        )
        after = world.mark()
        damaged = world.run("select * from t order by id")
        assert world.merge(before, "t", after=after, delete_extra=True).code == 0
        mended = world.run("select * from t order by id")
        one = Scene(world, before, after, damaged, mended)
        one.put_back()
        yield one
        world.close()


@pytest.mark.parametrize("step", BEFORE_COMMIT)
def test_pitr_is_killed_before_commit(scene: Scene, step: MergeStep) -> None:
    """Nothing was changed; a record that was written is found not to have happened."""
    scene.run_until(step)
    assert scene.rows() == scene.damaged
    wanted = [MergeOutcome.DID_NOT_HAPPEN] if step is MergeStep.RECORDED else []
    assert _settled(scene) == wanted
    assert scene.world.merge(scene.before, "t", after=scene.after, delete_extra=True).code == 0
    assert scene.rows() == scene.mended
    scene.put_back()


def _settled(scene: Scene) -> list[MergeOutcome | None]:
    """Return the outcomes once the server has noticed that the client is gone."""
    for _ in range(200):
        found = scene.outcomes()
        if None not in found:
            return found
        time.sleep(0.02)
    return found


def test_pitr_is_killed_after_commit(scene: Scene) -> None:
    """The merge has happened, and can be taken back by its record."""
    scene.run_until(MergeStep.COMMITTED)
    assert scene.rows() == scene.mended
    (kept,) = [one for one in list_merges(scene.world.state) if one.outcome is None]
    assert _settled(scene) == [MergeOutcome.HAPPENED]
    assert scene.world.undo(kept.record.id).code == 0
    assert scene.rows() == scene.damaged


@pytest.mark.parametrize("step", [MergeStep.APPLIED, MergeStep.RECORDED])
@pytest.mark.parametrize("how", ["backend", "server"])
def test_backend_or_server_is_killed(scene: Scene, step: MergeStep, how: str) -> None:
    """With SIGKILL: the merge says so, and nothing was changed."""
    server = scene.world.server
    pids = scene.world.run("select pg_backend_pid()")

    def on_step(now: MergeStep) -> None:
        if now is not step:
            return
        scene.world.app.close()
        if how == "server":
            server.kill()
            server.start()
            return
        with server.connect() as other:
            row = other.execute(
                "select pid from pg_stat_activity where datname = %s and pid <> all (%s)"
                " and state = 'idle in transaction'",
                (scene.world.name, [pid for (pid,) in pids]),
            ).fetchone()
            assert row is not None
            os.kill(row[0], signal.SIGKILL)  # which makes the server restart all of them
            _wait_until_ended(other)

    outcome = scene.world.merge(
        scene.before, "t", after=scene.after, delete_extra=True, on_step=on_step
    )
    assert outcome.error is not None
    assert outcome.code in (3, 6)
    _reconnect(scene.world)
    assert scene.rows() == scene.damaged
    assert all(o is MergeOutcome.DID_NOT_HAPPEN for o in _settled(scene))


def _wait_until_ended(other: psycopg.Connection[TupleRow]) -> None:
    """Wait until the server has noticed, and lets nobody in before it has restarted."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            other.execute("select 1")
        except psycopg.OperationalError:
            return
        time.sleep(0.01)
    raise AssertionError("the server did not notice that a backend was killed")


def _reconnect(world: RepairWorld) -> None:
    for _ in range(500):
        try:
            world.app = world.server.connect(world.name)
            return
        except Exception:  # it is still recovering
            time.sleep(0.02)


class Cutter:
    """Stands between pitr and the server, and cuts the line behind COMMIT."""

    def __init__(self, server: Server) -> None:
        self._target = f"{server.folder}/.s.PGSQL.{PORT}"
        self.folder = server.folder / "cut"  # short enough for a socket
        self.folder.mkdir()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / f".s.PGSQL.{PORT}"))
        self._listener.listen()
        self.was_cut = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            try:
                upstream.connect(self._target)
            except OSError:  # the server is down
                client.close()
                upstream.close()
                continue
            threading.Thread(target=self._forth, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._pump, args=(upstream, client), daemon=True).start()

    def _forth(self, client: socket.socket, upstream: socket.socket) -> None:
        while data := _received(client):
            is_commit = b"COMMIT\0" in data and not self.was_cut.is_set()
            if is_commit:
                self.was_cut.set()
                client.shutdown(socket.SHUT_RDWR)  # the answer finds nobody
            upstream.sendall(data)
            if is_commit:
                time.sleep(0.3)
                break
        upstream.close()
        client.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        while data := _received(source):
            try:
                sink.sendall(data)
            except OSError:
                return
        sink.close()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


def test_line_is_cut_behind_commit(scene: Scene) -> None:
    """The COMMIT arrived, its answer did not: pitr asks the server, and the merge has happened."""
    cutter = Cutter(scene.world.server)
    try:
        outcome = scene.world.merge(
            scene.before, "t", after=scene.after, delete_extra=True, host=str(cutter.folder)
        )
    finally:
        cutter.close()
    assert cutter.was_cut.is_set()
    assert outcome.code == 0, outcome.error
    assert outcome.result is not None
    assert outcome.result.merge is not None
    assert scene.rows() == scene.mended
    assert scene.world.undo(outcome.merge).code == 0
    assert scene.rows() == scene.damaged


def test_line_is_cut_before_commit(scene: Scene) -> None:
    """The backend ends before COMMIT arrives: pitr asks, and the merge was rolled back."""

    def on_step(step: MergeStep) -> None:
        if step is MergeStep.RECORDED:
            scene.world.run(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and state = 'idle in transaction'"
            )

    outcome = scene.world.merge(
        scene.before, "t", after=scene.after, delete_extra=True, on_step=on_step
    )
    assert outcome.code == 6
    assert scene.rows() == scene.damaged
    assert _settled(scene) == []
