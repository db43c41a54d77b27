"""An archive in a bucket, from init to verify, with the commands that a user types.

Method: moto is the bucket, reached through a wire that can be cut. What moto logs is what was asked
of it: a line for each HTTP request.
"""

from __future__ import annotations

import re
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cli.commands import (
    WAIT_SECONDS,
    capturing,
    pitr,
    succeed,
    told,
    wait_until_current,
    write,
)
from tools import s3_servers

FAST = {"PITR_POLL": "50ms", "PITR_FLUSH": "50ms"}
ROWS, ROW_BYTES = 16_000, 450  # some 2,000 pages


class Wire:
    """A forwarder of TCP connections to one port, which can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._far = port
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._far))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        # Closing alone would leave the thread waiting in accept, and the port open with it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def mend(self) -> None:
        """Forward again, at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A server with a bucket, and the wire to it."""

    server: s3_servers.Server
    wire: Wire

    @property
    def environment(self) -> dict[str, str]:
        """Return what a user would set to reach the bucket."""
        through = replace(self.server, endpoint=f"http://127.0.0.1:{self.wire.port}")
        return {**through.environment(), **FAST}

    def place(self) -> str:
        """Return a location that no other test uses."""
        return f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}"

    def requests(self, doing: Callable[[], object]) -> list[str]:
        """Return the requests that reach the server while something is done."""
        log = s3_servers.moto_log(self.server.endpoint)
        before = len(log.read_text())
        doing()
        # moto colours the lines of some answers, those to requests for ranges among them.
        return re.findall(r'"(?:\x1b\[\d+m)*((?:GET|PUT|HEAD|POST|DELETE) \S+)',
                          log.read_text()[before:])  # fmt: skip


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """Run moto with a wire to it."""
    with s3_servers.moto() as server:
        wire = Wire(int(server.endpoint.rpartition(":")[2]))
        yield Bucket(server, wire)
        wire.cut()


def test_archive_in_a_bucket_answers_every_command(tmp_path: Path, bucket: Bucket) -> None:
    """init, capture beside a writer, mark, log, when, sql, restore, status, verify: all over S3."""
    place, given = bucket.place(), bucket.environment
    write(tmp_path / "s.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
    succeed(tmp_path, "init", "s.db", "--archive", place, **given)
    with capturing(tmp_path, **given), closing(sqlite3.connect(tmp_path / "s.db")) as live:
        for number in range(20):
            live.execute("INSERT INTO orders (item) VALUES (?)", (f"item {number}",))
            live.commit()
        marked = succeed(tmp_path, "mark", "twenty", "--json", **given).json
        live.execute("DELETE FROM orders WHERE id > 5")
        live.commit()
        wait_until_current(tmp_path, **given)
    when = succeed(tmp_path, "when", "-t", "orders", "--gone", "id = 7", "--json", **given).json
    listed = succeed(tmp_path, "log", "-t", "orders", "--json", **given).json["transactions"]
    words = ("restore", "-t", "orders", "--at", "name:twenty", "--json")
    [table] = succeed(tmp_path, *words, **given).json["tables"]
    asked = ("sql", "--at", when["before"], "SELECT count(*) FROM orders", "--json")
    found = succeed(tmp_path, "status", "--json", **given).json

    assert marked["position"] == "commit:21"
    assert when["transaction"]["position"] == "commit:22"
    assert [item["tables"][0]["inserted"] for item in listed[-21:-1]] == [1] * 20
    assert listed[-1]["tables"][0]["deleted"] == 15
    assert (table["rows"], table["missing_in_live"], table["differs"]) == (20, 15, 0)
    assert succeed(tmp_path, *asked, **given).json["rows"] == [[20]]
    assert (found["gaps"], found["lag_seconds"], found["capturing"]) == ([], 0, False)
    assert succeed(tmp_path, "verify", "--json", **given).json["ok"] is True


def test_restore_from_a_bucket_needs_far_fewer_requests_than_pages(
    tmp_path: Path, bucket: Bucket
) -> None:
    """Pages are fetched in merged ranges; one row needs a handful, whatever the table's size."""
    place, given = bucket.place(), bucket.environment
    filler = f"WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
    write(
        tmp_path / "s.db",
        "CREATE TABLE small (id INTEGER PRIMARY KEY)",
        "CREATE TABLE large (id INTEGER PRIMARY KEY, body BLOB)",
        f"INSERT INTO large {filler} SELECT i, randomblob({ROW_BYTES}) FROM n",
    )
    succeed(tmp_path, "init", "s.db", "--archive", place, **given)
    succeed(tmp_path, "capture", "--once", **given)
    pages = (tmp_path / "s.db").stat().st_size // 4096
    restore = ("restore", "-t", "large", "--at", "latest", "--no-compare")
    one_row = ("sql", "--at", "latest", "SELECT length(body) FROM large WHERE id = 9000")
    whole = bucket.requests(lambda: succeed(tmp_path, *restore, **given))
    row = bucket.requests(lambda: succeed(tmp_path, *one_row, **given))

    assert pages > 1900
    assert sum("/log/0" in request for request in whole) > 1
    assert len(whole) < pages // 20, whole
    assert sum("/log/0" in request for request in row) >= 1
    assert len(row) <= 16, row


def test_capture_through_an_outage_of_the_store_has_no_gap(tmp_path: Path, bucket: Bucket) -> None:
    """The store is gone and comes back: what was spooled arrives, every commit by itself."""
    place, given = bucket.place(), bucket.environment
    write(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    succeed(tmp_path, "init", "s.db", "--archive", place, **given)
    spool = tmp_path / ".pitr" / "spool"
    with capturing(tmp_path, **given), closing(sqlite3.connect(tmp_path / "s.db")) as live:
        bucket.wire.cut()
        try:
            _insert_until(live, lambda: any(spool.glob("*/*")))
            asked = pitr(tmp_path, "status", **given)
        finally:
            bucket.wire.mend()
        _insert_until(live, lambda: not any(spool.glob("*/*")))
        wait_until_current(tmp_path, **given)
        [[rows]] = live.execute("SELECT count(*) FROM t").fetchall()
    listed = succeed(tmp_path, "log", "-t", "t", "--json", **given).json["transactions"]

    assert asked.code == 3
    assert told(asked.err)[0] == f"error: cannot read the archive at {place}"
    assert [item["position"] for item in listed] == [f"commit:{n}" for n in range(1, rows + 2)]
    assert {item["kind"] for item in listed[1:]} == {"commit"}
    assert succeed(tmp_path, "status", "--json", **given).json["gaps"] == []
    assert succeed(tmp_path, "verify", "--json", **given).json["ok"] is True


def _insert_until(live: sqlite3.Connection, condition: Callable[[], bool]) -> None:
    """Commit a row after the other until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        live.execute("INSERT INTO t DEFAULT VALUES")
        live.commit()
        time.sleep(0.05)


def test_bucket_that_is_not_there_is_told(tmp_path: Path, bucket: Bucket) -> None:
    """A missing bucket, a place that is none and a server out of reach: exit 3 or 2, and a hint."""
    write(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    given = bucket.environment
    missing = pitr(tmp_path, "init", "s.db", "--archive", "s3://no-such-bucket/x", **given)
    nothing = pitr(tmp_path, "log", "--archive", bucket.place(), "--json", **given)
    wrong = pitr(tmp_path, "init", "s.db", "--archive", "s3://", **given)

    assert missing.code == 3
    assert told(missing.err)[-1] == (
        "hint: Create the bucket first, or mend its name: pitr makes none."
    )
    assert (nothing.code, nothing.error["kind"]) == (3, "NotConfigured")
    assert wrong.code == 2
    assert not (tmp_path / "pitr.toml").exists()
