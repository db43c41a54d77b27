"""The replication protocol: what a WAL sender is asked, and the stream of messages it answers with.

Source: PostgreSQL's documentation, "Streaming Replication Protocol"; one command at a time. Short
answers come through `identify` and its neighbours. A command that streams (BASE_BACKUP,
START_REPLICATION) is a `ReplicationStream`, whose bytes somebody else understands.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import pq

from pitr.errors import SourceUnreachable
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.vocabulary.position import Lsn

_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE, pq.ExecStatus.PIPELINE_ABORTED)
# How long a server may take for a message that it owes us: the answer to a command.
ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """Which cluster answers, on which timeline, and up to where its WAL is flushed."""

    system_identifier: str
    timeline: int
    flushed: Lsn


def identify(connection: Connection) -> SystemIdentity:
    """Ask a WAL sender for IDENTIFY_SYSTEM.

    On a standby, `flushed` is what was received and replayed. Raises SourceUnreachable,
    PrivilegeMissing, DatabaseRefused.
    """
    row = _row(connection, "IDENTIFY_SYSTEM", "cannot identify the server")
    return SystemIdentity(_text(row[0]), int(_text(row[1])), Lsn.parse(_text(row[2])))


def show(connection: Connection, setting: str) -> str:
    """Return a setting from a WAL sender: with its unit, as SHOW prints it. Raises as `identify`.

    `setting` is a name of ours, never of a user's.
    """
    return _text(_row(connection, f"SHOW {setting}", f"cannot read the setting {setting}")[0])


def timeline_history(connection: Connection, timeline: int) -> tuple[str, bytes]:
    """Return (file name, content) of the .history file of a timeline above 1.

    Raises DatabaseRefused when the server has no such file, and as `identify` does.
    """
    command = f"TIMELINE_HISTORY {timeline}"
    row = _row(connection, command, f"cannot read the history of timeline {timeline}")
    return _text(row[0]), _text(row[1]).encode()


def _row(connection: Connection, command: str, failed: str) -> tuple[object, ...]:
    with server_faults(failed):
        row = connection.execute(command).fetchone()
    assert row is not None, f"{command} answers with one row"
    return row


def _text(value: object) -> str:
    """Return a column as text: on a connection for physical replication it comes as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


class ReplicationStream:
    """The results of one replication command, and the COPY messages between them.

    `result` gives the next result; when that is a COPY, `receive` gives its messages until `ended`,
    and `result` goes on with what follows. The interpreter lock is not held while waiting: a
    blocking read in libpq would stop every thread. All errors are those of `server_faults`.
    """

    def __init__(self, connection: Connection, command: str, *, failed: str) -> None:
        """Send a command. `failed` is the message of whatever error comes of it."""
        self._pgconn = connection.pgconn
        self._failed = failed
        self._poll = select.poll()
        self.ended = True  # of the COPY at hand, when there is one
        with server_faults(failed):
            self._pgconn.send_query(command.encode())
            self._flush()

    def result(self, timeout_seconds: float = ANSWER_SECONDS) -> pq.abc.PGresult | None:
        """Return the next result, None after the last.

        A COPY's result has the status COPY_OUT or COPY_BOTH and comes before its messages. Raises
        SourceUnreachable when the server does not answer in time, and for a failed command the
        error that it failed with.
        """
        deadline = time.monotonic() + timeout_seconds
        with server_faults(self._failed):
            while self._pgconn.is_busy():
                if not self._wait(deadline):
                    raise self._silent(timeout_seconds)
            found = self._pgconn.get_result()
            if found is not None and found.status in _FAILED:
                raise psycopg.errors.error_from_result(found)
        copies = (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)
        self.ended = found is None or found.status not in copies
        return found

    def receive(self, timeout_seconds: float) -> memoryview | None:
        """Return the next message of the COPY, None when none came in time or the COPY `ended`.

        The memory is the message's own and stays valid.
        """
        deadline = time.monotonic() + timeout_seconds
        with server_faults(self._failed):
            while not self.ended:
                count, message = self._pgconn.get_copy_data(1)
                if count > 0:
                    return message
                if count < 0:  # its end; what the server says of it is the next result
                    self.ended = True
                elif not self._wait(deadline):
                    break
        return None

    def messages(self, silence_seconds: float = ANSWER_SECONDS) -> Iterator[memoryview]:
        """Yield each message of the COPY to its end.

        Raises SourceUnreachable when the server is silent for longer than that.
        """
        while (message := self.receive(silence_seconds)) is not None:
            yield message
        if not self.ended:
            raise self._silent(silence_seconds)

    def send(self, message: bytes) -> None:
        """Send a message of our own into a COPY that goes both ways."""
        with server_faults(self._failed):
            while not self._pgconn.put_copy_data(message):
                self._flush()
            self._flush()

    def end_copy(self) -> None:
        """Say that we send no more. The server answers with its own end, then with a result."""
        with server_faults(self._failed):
            while not self._pgconn.put_copy_end():
                self._flush()
            self._flush()

    def cancel(self) -> None:
        """Ask the server to stop the command, and leave the connection unusable."""
        with contextlib.suppress(psycopg.Error):
            self._pgconn.get_cancel().cancel()
        self._pgconn.finish()

    def _flush(self) -> None:
        while self._pgconn.flush():
            # The server may only read on once we have read what it sends: wait for both.
            self._poll.register(self._pgconn.socket, select.POLLIN | select.POLLOUT)
            for _, event in self._poll.poll(ANSWER_SECONDS * 1000):
                if event & select.POLLIN:
                    self._pgconn.consume_input()

    def _wait(self, deadline: float) -> bool:
        """Read what the server sent, waiting for it until a moment; return whether it sent any."""
        self._poll.register(self._pgconn.socket, select.POLLIN)
        milliseconds = max(0.0, deadline - time.monotonic()) * 1000
        if not self._poll.poll(milliseconds):
            return False
        self._pgconn.consume_input()
        return True

    def _silent(self, seconds: float) -> SourceUnreachable:
        return SourceUnreachable(
            self._failed,
            detail=f"The server sent nothing for {seconds:.0f} s.",
            hint="Look at the server's log and at the network; then run the command again.",
        )
