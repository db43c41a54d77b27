"""Processes to be killed, and the proof of what their archive must say afterwards.

The writer's database proves itself: every transaction numbers itself in the table `log`, one by
one, with a digest of all other content as it was then. A commit that the archive lost, doubled or
invented breaks the numbering; one that it mixed up breaks the digest.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pitr.archive.archive import create_or_adopt
from pitr.archive.local import LocalStore
from pitr.sqlite.pagelog.segment import CommitKind
from tests.sqlite.capture_world import newest_image, opened, read_file, states

ROOT = Path(__file__).resolve().parents[2]

# Arguments: database, journal of acknowledged commits, seed, seconds to pause between commits.
WRITER = """
import hashlib, os, random, sqlite3, sys, time
path, journal, seed, pause = sys.argv[1:]
chance, pause = random.Random(int(seed)), float(pause)
c = sqlite3.connect(path, isolation_level=None, timeout=30)
c.execute("PRAGMA journal_mode=WAL")
c.execute("PRAGMA synchronous=FULL")
c.execute("PRAGMA cache_size=5")
c.execute("PRAGMA wal_autocheckpoint=%d" % chance.choice([1, 1000, 1000]))
c.execute("CREATE TABLE IF NOT EXISTS log(n INTEGER PRIMARY KEY, digest TEXT)")
c.execute("CREATE TABLE IF NOT EXISTS work(id INTEGER PRIMARY KEY, a INTEGER, b BLOB)")
out = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
print("ready", flush=True)
def alter():
    kind = chance.random()
    if kind < 0.02:
        c.execute("UPDATE work SET b = randomblob(900)")
    elif kind < 0.1:
        c.execute("DELETE FROM work WHERE id % 3 = ?", (chance.randrange(3),))
    else:
        for _ in range(chance.randrange(1, 5)):
            c.execute("INSERT OR REPLACE INTO work VALUES(?, ?, randomblob(?))",
                      (chance.randrange(150), chance.randrange(10**6), chance.randrange(1500)))
while True:
    c.execute("BEGIN IMMEDIATE")
    before = time.time_ns() // 1000
    alter()
    if chance.random() < 0.25:
        c.execute("ROLLBACK")
        continue
    digest = hashlib.sha1(repr(c.execute("SELECT * FROM work ORDER BY id").fetchall()).encode())
    n = c.execute("SELECT coalesce(max(n), 0) + 1 FROM log").fetchone()[0]
    c.execute("INSERT INTO log VALUES(?, ?)", (n, digest.hexdigest()))
    c.execute("COMMIT")
    os.write(out, b"%d %d %d\\n" % (n, before, time.time_ns() // 1000))
    if chance.random() < 0.003:
        c.execute("PRAGMA wal_checkpoint(%s)" % chance.choice(["TRUNCATE", "RESTART", "FULL"]))
    time.sleep(pause)
"""

# Arguments: database, archive, spool.
CAPTURE = """
import signal, sys, threading
from pathlib import Path
from pitr.archive.local import LocalStore
from pitr.sqlite.capture.capture import Capture
from pitr.sqlite.capture.session import CaptureOptions
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
path, archive, spool = map(Path, sys.argv[1:])
tell = lambda event: print(event.level.value, event.message, event.detail, flush=True)
options = CaptureOptions(poll_seconds=0.05, flush_seconds=0.2, reset_frames=300)
Capture(LocalStore(archive), path, spool=spool, on_event=tell, options=options).run(stop)
"""


@dataclass
class World:
    """One database, its writers, its capture, and everything that they did."""

    folder: Path
    writers: list[subprocess.Popen[str]] = field(default_factory=list)
    capture: subprocess.Popen[str] | None = None

    def __enter__(self) -> World:
        create_or_adopt(self.store, engine="sqlite", identity={"path": str(self.path)})
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind, whatever failed."""
        self.kill_writers()
        if self.capture is not None and self.capture.poll() is None:
            self.capture.kill()
            self.capture.wait()

    @property
    def path(self) -> Path:
        return self.folder / "app.db"

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "archive")

    def start_writer(self, seed: int, pause: float) -> None:
        arguments = [str(self.path), str(self.folder / "journal"), str(seed), str(pause)]
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.writers.append(process)

    def start_capture(self) -> None:
        arguments = [str(self.path), str(self.folder / "archive"), str(self.folder / "spool")]
        with (self.folder / "events").open("a") as events:
            self.capture = subprocess.Popen(
                [sys.executable, "-c", CAPTURE, *arguments],
                stdout=events,
                stderr=events,
                text=True,
                cwd=ROOT,
            )

    def kill_writers(self) -> None:
        for process in self.writers:
            process.kill()
        for process in self.writers:
            process.communicate()
        self.writers.clear()

    def kill_capture(self) -> None:
        assert self.capture is not None
        assert self.capture.poll() is None, self.events()
        self.capture.kill()
        self.capture.wait()

    def stop_capture(self) -> None:
        """Let capture archive what is committed, and end it as a user does."""
        assert self.capture is not None
        _wait_until_caught(self.capture, signal.SIGTERM)
        self.capture.send_signal(signal.SIGTERM)
        assert self.capture.wait(60) == 0, self.events()

    def take_in_what_recovery_accepts(self) -> None:
        """Capture once more after everybody is gone, as the first to open the database.

        A writer that was killed between writing its commit frame and publishing it leaves a commit
        that nobody saw while others had the database open. The first connection after that
        recovers the WAL, and accepts it: only then it has happened, and only then it is archived.
        """
        lines = self._begun()
        self.start_capture()
        deadline = time.monotonic() + 120
        while self._begun() == lines:
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.05)
        self.stop_capture()

    def _begun(self) -> int:
        """Return how many captures have said where they begin."""
        told = self.events()
        return told.count("goes on after") + told.count("is as the archive left it")

    def events(self) -> str:
        return (self.folder / "events").read_text()

    def acknowledged(self) -> dict[int, tuple[int, int]]:
        """The commits whose COMMIT returned, with the times before and after."""
        lines = (self.folder / "journal").read_text().splitlines()
        # A killed writer may leave a line without its end; the next one begins in it.
        fields = [line.split() for line in lines]
        return {int(n): (int(before), int(after)) for n, before, after in fields}


@dataclass(frozen=True)
class Verdict:
    """What a check has counted, for the report of a failure and against passing on nothing."""

    commits: int
    gaps: int
    last: int


def check(world: World, *, gaps_max: int, sampled_every: int = 40) -> Verdict:
    """Prove the archive against the database's own numbering, digests and times."""
    acknowledged = world.acknowledged()
    commits = gaps = last = 0
    for at, (record, image) in enumerate(states(world.store)):
        connection = opened(image)
        n = connection.execute("SELECT coalesce(max(n), 0) FROM log").fetchone()[0]
        if record.kind is CommitKind.COMMIT:
            assert n == last + 1, f"commit:{record.number} holds {n} after {last}\n{world.events()}"
            commits += 1
            if n in acknowledged:
                before, after = acknowledged[n]
                assert before <= record.time_end_us
                assert record.time_begin_us <= after
        else:
            assert record.kind is (CommitKind.GAP if at else CommitKind.BASE), world.events()
            assert n >= last
            gaps += at > 0
        last = n
        if at % sampled_every == 0 or record.kind is not CommitKind.COMMIT:
            _check_digest(connection, n)
        connection.close()
    newest = max(acknowledged)
    assert last in (newest, newest + 1), f"{newest} was acknowledged, {last} archived"
    assert gaps <= gaps_max, world.events()
    assert newest_image(world.store) == read_file(world.path)
    return Verdict(commits, gaps, last)


def _check_digest(connection, n: int) -> None:
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    if n:
        rows = connection.execute("SELECT * FROM work ORDER BY id").fetchall()
        found = hashlib.sha1(repr(rows).encode()).hexdigest()
        assert connection.execute("SELECT digest FROM log WHERE n=?", (n,)).fetchone()[0] == found


def copy_back(path: Path) -> None:
    """Bring the database file up to its WAL, in a process of its own."""
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint')"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def wait_for_base(world: World) -> None:
    end = time.monotonic() + 20
    while not any(True for _ in world.store.list("log/")):
        assert time.monotonic() < end, world.events()
        time.sleep(0.02)


def _wait_until_caught(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Wait until a process that has just been started has its handler of a signal."""
    deadline = time.monotonic() + 60
    status = Path(f"/proc/{process.pid}/status")
    while time.monotonic() < deadline and process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line[:7] == "SigCgt:")
        if int(caught[7:], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)
