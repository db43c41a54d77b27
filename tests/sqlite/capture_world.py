"""A world to capture in: applications in processes of their own, and what the archive made of them.

A test process that captures must not open the database itself: two copies of SQLite in one process
drop each other's locks. So every access of a test goes through an `App`.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.archive.store import Store
from pitr.sqlite.capture.capture import Capture
from pitr.sqlite.capture.session import CaptureOptions
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.vocabulary.event import Event, Level

FAST = CaptureOptions(poll_seconds=0.02, flush_seconds=0.05)
WAIT_SECONDS = 20.0

# Each line of input is a statement and its parameters, or one of three words:
# `bytes FILE BEGIN LENGTH`, `blob TABLE COLUMN ROWID LENGTH`, and `watch FOLDER`, after which the
# image of the database goes into the folder whenever a statement has changed it.
_APP = """
import json, os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5.0)
watched, last, count = None, None, 0
def read_bytes(name, begin, length):
    with open(name, "rb") as file:
        file.seek(int(begin))
        return [[file.read(int(length)).hex()]]
def write_blob(table, column, rowid, length):
    with c.blobopen(table, column, int(rowid)) as blob:
        blob.seek(100)
        blob.write(os.urandom(int(length)))
    return []
def watch(folder):
    global watched
    watched = folder
    return []
words = {"bytes": read_bytes, "blob": write_blob, "watch": watch}
print("{}", flush=True)
for line in sys.stdin:
    sql, parameters = json.loads(line)
    word, *arguments = sql.split(" ")
    try:
        if word in words:
            rows = words[word](*arguments)
        else:
            rows = [list(row) for row in c.execute(sql, parameters).fetchall()]
        answer = {"rows": rows}
    except sqlite3.Error as error:
        answer = {"error": str(error)}
    if watched and not c.in_transaction:
        image = c.serialize()
        if image != last:
            last, count = image, count + 1
            with open(f"{watched}/{count:06d}", "wb") as file:
                file.write(image)
    print(json.dumps(answer), flush=True)
"""


class AppError(Exception):
    """What SQLite told the application."""


class App:
    """One connection in a process of its own."""

    def __init__(self, path: Path, *statements: str) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, "-c", _APP, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        for statement in statements:
            self.run(statement)

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def run(self, sql: str, *parameters: object) -> list[list[Any]]:
        """Run one statement and return its rows. Raises AppError."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([sql, parameters]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise AppError(answer["error"])
        return answer["rows"]

    def read(self, path: Path, begin: int = 0, length: int = 1 << 30) -> bytes:
        """Read bytes of a file that only another process may open. Drops the app's own locks!"""
        return bytes.fromhex(self.run(f"bytes {path} {begin} {length}")[0][0])

    def close(self) -> None:
        """Close the connection and end, as an application does."""
        if self._process.poll() is None:
            self._process.communicate()

    def kill(self) -> None:
        """End with SIGKILL."""
        self._process.kill()
        self._process.communicate()


def read_file(path: Path) -> bytes:
    """Return the bytes of a file, read by a process of its own."""
    return subprocess.run(["cat", str(path)], check=True, capture_output=True).stdout


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in a process of its own, over what is there (the same inode)."""
    subprocess.run(["cp", "--", str(source), str(target)], check=True)


@dataclass
class Running:
    """A capture in a thread of this process."""

    store: Store
    events: list[Event] = field(default_factory=list)
    failure: BaseException | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def told(self, text: str, level: Level | None = None) -> bool:
        """Return whether an event said this."""
        return any(
            text in f"{event.message}: {event.detail}" and level in (None, event.level)
            for event in list(self.events)
        )

    def wait(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Wait until something is so, or fail with what capture told meanwhile."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.failure is None, self.failure
            assert time.monotonic() < end, f"{what} did not come: {self.events}"
            time.sleep(0.01)

    def wait_for_value(self, sql: str, expected: object) -> None:
        """Wait until a query on the newest archived state gives this value."""
        self.wait(lambda: newest_value(self.store, sql) == expected, f"{sql} = {expected}")


@contextmanager
def capturing(
    store: Store, path: Path, *, spool: Path | None = None, options: CaptureOptions = FAST
) -> Iterator[Running]:
    """Capture in a thread until the block ends; a failure of capture fails the block."""
    running = Running(store)
    capture = Capture(
        store,
        path,
        spool=spool or path.parent / "spool",
        on_event=running.events.append,
        options=options,
    )

    def run() -> None:
        try:
            capture.run(running.stop)
        except BaseException as error:
            running.failure = error

    thread = threading.Thread(target=run, name="capture")
    thread.start()
    try:
        running.wait(lambda: PageArchive(store).catalog.tiles, "the first base")
        yield running
    finally:
        running.stop.set()
        thread.join()
    if running.failure is not None:
        raise running.failure


def capture_once(store: Store, path: Path, options: CaptureOptions = FAST) -> list[Event]:
    """Run one `capture --once` and return what it told."""
    events: list[Event] = []
    spool = path.parent / "spool"
    Capture(store, path, spool=spool, on_event=events.append, options=options).once()
    return events


# ---- the archive's side --------------------------------------------------------------------------


def states(store: Store, begin: int = 1) -> Iterator[tuple[CommitRecord, bytearray]]:
    """Yield every archived commit with the image of the whole database after it.

    The image is one buffer, altered from commit to commit.
    """
    archive = PageArchive(store)
    last = archive.catalog.last_commit
    history = archive.window(max(begin, archive.catalog.first_commit), last)
    image = bytearray()
    for record in history.records:
        pages = history.at(record.number)
        size = pages.page_size
        before = len(image) // size
        del image[record.page_count * size :]
        image.extend(bytes(record.page_count * size - len(image)))
        # What was never written reads as it did before: only changed pages differ.
        changed = history.changed(record.number) if before else range(1, record.page_count + 1)
        for number in changed:
            image[(number - 1) * size : number * size] = pages.page(number)
        yield record, image


def newest_image(store: Store) -> bytes:
    """Return the newest archived state."""
    archive = PageArchive(store)
    pages = archive.at(archive.catalog.last_commit)
    return b"".join(pages.page(number) for number in range(1, pages.page_count + 1))


def opened(image: bytes | bytearray) -> sqlite3.Connection:
    """Open a state in memory."""
    data = bytearray(image)
    data[18:20] = b"\1\1"  # in memory there is no WAL
    connection = sqlite3.connect(":memory:")
    connection.deserialize(bytes(data))
    return connection


def value(image: bytes | bytearray, sql: str) -> Any:
    """Return the first value of a query on a state, None when it has no row."""
    connection = opened(image)
    try:
        row = connection.execute(sql).fetchone()
        return None if row is None else row[0]
    finally:
        connection.close()


def newest_value(store: Store, sql: str) -> Any:
    """Return the first value of a query on the newest state; None while there is no such table."""
    try:
        return value(newest_image(store), sql)
    except sqlite3.OperationalError:
        return None


def records(store: Store) -> list[CommitRecord]:
    """Return every commit that the archive lists."""
    return PageArchive(store).commits()
