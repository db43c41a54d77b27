"""WAL as the server sends it: START_REPLICATION, and what we answer.

Source: PostgreSQL's documentation, "Streaming Replication Protocol": XLogData, primary keepalive,
standby status update.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

from psycopg import errors, pq

from pitr.clock import now_us
from pitr.errors import DatabaseRefused, SourceUnreachable
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.replication import ReplicationStream
from pitr.vocabulary.position import Lsn

_DATA = struct.Struct(">cQQQ")  # begin, end of the server's WAL, time
_KEEPALIVE = struct.Struct(">cQQB")  # end of WAL, time, whether to answer at once
_STATUS = struct.Struct(">cQQQQB")  # written, flushed, applied, time, whether to answer at once
_STATUS_SECONDS = 10.0
# PostgreSQL counts microseconds from 2000-01-01.
_EPOCH_US = 946_684_800_000_000


class WalRemoved(Exception):
    """Say that the server has no longer the WAL that was asked for."""


class SlotTaken(Exception):
    """Say that another process streams from the slot."""


@dataclass(frozen=True, slots=True)
class WalBytes:
    """WAL from `begin` on; the memory is the message's own and stays valid."""

    begin: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class TimelineEnd:
    """The end of a timeline: the next one begins at `switch`."""

    next_timeline: int
    switch: Lsn


class WalStream:
    """The WAL of one timeline from one position on, to its end or for ever."""

    def __init__(self, connection: Connection, *, slot: str, timeline: int, begin: Lsn) -> None:
        """Begin to stream.

        Raises WalRemoved, SlotTaken; SourceUnreachable, DatabaseRefused, PrivilegeMissing.
        """
        self.end: TimelineEnd | None = None
        self._confirmed = Lsn(0)
        self._answered_at = time.monotonic()
        self._stream = ReplicationStream(
            connection,
            f'START_REPLICATION SLOT "{slot}" PHYSICAL {begin} TIMELINE {timeline}',
            failed=f"cannot stream WAL from {begin} of timeline {timeline}",
        )
        try:
            result = self._stream.result()
        except DatabaseRefused as error:
            raise _meaning(error) from error
        # A timeline that ends where we begin has nothing to send.
        if result is not None and result.status != pq.ExecStatus.COPY_BOTH:
            self._read_end(result)

    def receive(self, timeout_seconds: float) -> WalBytes | None:
        """Return the next WAL; None when none came in time, or when the timeline has an `end`.

        Raises SourceUnreachable when the connection is gone, and as the constructor does.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.end is None:
            try:
                message = self._stream.receive(max(0.0, deadline - time.monotonic()))
                if message is None and self._stream.ended:
                    self._finish()
                    return None
            except DatabaseRefused as error:
                raise _meaning(error) from error
            if message is None:
                return None
            if message[0] == ord("w"):
                _, begin, _, _ = _DATA.unpack_from(message)
                return WalBytes(begin, message[_DATA.size :])
            if message[0] == ord("k") and _KEEPALIVE.unpack_from(message)[3]:
                self._answer()
        return None

    def confirm(self, flushed: Lsn) -> None:
        """Tell the server that WAL before `flushed` is safe; it may remove it then.

        Sent when it is news, and otherwise often enough to be known to be alive.
        """
        is_news = flushed > self._confirmed
        self._confirmed = max(self._confirmed, flushed)
        if self.end is None and (
            is_news or time.monotonic() - self._answered_at >= _STATUS_SECONDS
        ):
            self._answer()

    def _answer(self) -> None:
        sent_us = now_us() - _EPOCH_US
        at = self._confirmed.value
        self._stream.send(_STATUS.pack(b"r", at, at, at, sent_us, 0))
        self._answered_at = time.monotonic()

    def _finish(self) -> None:
        """Take leave of a timeline that the server has ended."""
        result = self._stream.result()
        # libpq shows the half-closed COPY as one that goes in, until we close our half.
        if result is not None and result.status == pq.ExecStatus.COPY_IN:
            self._stream.end_copy()
            result = self._stream.result()
        self._read_end(result)

    def _read_end(self, result: pq.abc.PGresult | None) -> None:
        """Read the row that names the next timeline; without one the server just stops."""
        if result is not None and result.status == pq.ExecStatus.TUPLES_OK and result.ntuples:
            timeline, switch = result.get_value(0, 0), result.get_value(0, 1)
            assert timeline is not None
            assert switch is not None
            self.end = TimelineEnd(int(timeline), Lsn.parse(switch.decode()))
        while result is not None:
            result = self._stream.result()
        if self.end is None:
            raise SourceUnreachable(
                "the server has ended the stream of WAL",
                detail="It shuts down.",
                hint="Capture goes on when the server is back.",
            )


def _meaning(error: DatabaseRefused) -> Exception:
    """Return what a refusal means to a receiver, by its SQLSTATE."""
    cause = error.__cause__
    if isinstance(cause, errors.UndefinedFile):
        return WalRemoved(error.detail)
    if isinstance(cause, errors.ObjectInUse):
        return SlotTaken(error.detail)
    return error
