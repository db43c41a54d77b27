"""The replication protocol against real WAL senders: commands, slots, and streams that break."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from psycopg.pq import ExecStatus

from pitr.errors import DatabaseRefused, PrivilegeMissing, SourceUnreachable
from pitr.postgres.live.connection import Connection, connect, connect_replication
from pitr.postgres.live.replication import ReplicationStream, identify, show, timeline_history
from pitr.postgres.live.slot import create_slot, drop_slot, read_slot
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server

HEADER = struct.Struct(">cQQQ")  # XLogData: where its bytes begin, the server's end and clock


@pytest.fixture
def sender(server: Server) -> Iterator[Connection]:
    """A connection to a WAL sender of a server of one's own."""
    with closing(connect_replication(server.url())) as connection:
        yield connection


def streaming(sender: Connection, begin: Lsn) -> ReplicationStream:
    """Start a stream at the beginning of the segment that a position is in."""
    begin = Lsn(begin.value & ~0xFFFFFF)
    command = f"START_REPLICATION PHYSICAL {begin} TIMELINE 1"
    stream = ReplicationStream(sender, command, failed="cannot stream")
    found = stream.result()
    assert found is not None
    assert found.status == ExecStatus.COPY_BOTH
    return stream


def drain(stream: ReplicationStream) -> None:
    """Read all messages, and all results after them."""
    for _ in stream.messages():
        pass
    while stream.result() is not None:
        for _ in stream.messages():
            pass


# ---- short answers -------------------------------------------------------------------------------


@pytest.mark.every_major
def test_commands_and_slots_work_on_every_version(server: Server, sender: Connection) -> None:
    """IDENTIFY_SYSTEM, SHOW and the life of a slot, as SQL shows them too."""
    identity = identify(sender)
    with connect(server.url()) as connection:
        made = create_slot(connection, "pitr_orders")
        assert read_slot(connection, "pitr_orders") == made
        server.query("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        kept = read_slot(connection, "pitr_orders")
        assert drop_slot(connection, "pitr_orders")
        assert not drop_slot(connection, "pitr_orders")
        assert read_slot(connection, "pitr_orders") is None

    expected = server.value("SELECT system_identifier::text FROM pg_control_system()")
    assert identity.system_identifier == expected
    assert identity.timeline == 1
    assert show(sender, "wal_segment_size") == "16MB"
    assert made.is_physical
    assert made.restart is not None
    assert made.wal_status == "reserved"
    assert made.active_pid is None
    assert kept is not None
    assert kept.restart == made.restart
    assert kept.kept_bytes > made.kept_bytes


def test_history_of_a_timeline_is_the_file_of_the_server(server: Server) -> None:
    """After a promotion, byte for byte; the first timeline has none."""
    with server.standby() as standby:
        standby.promote()
        with connect_replication(standby.url()) as sender:
            name, content = timeline_history(sender, 2)
            with pytest.raises(DatabaseRefused, match="history of timeline 1"):
                timeline_history(sender, 1)
        assert content == (standby.wal / name).read_bytes()
        assert name == "00000002.history"


def test_slot_that_lost_its_wal_says_so(make_server: ServerMaker) -> None:
    """With a limit the server throws WAL away; the slot's size and state tell before and after."""
    server = make_server(
        segment_megabytes=1,
        settings={"max_slot_wal_keep_size": "2MB", "min_wal_size": "2MB", "max_wal_size": "2MB"},
    )
    with connect(server.url()) as connection:
        made = create_slot(connection, "pitr_orders")
        assert made.safe_bytes is not None
        assert not made.is_lost
        for _ in range(6):
            server.query("SELECT pg_switch_wal(); CREATE TABLE t (); DROP TABLE t; CHECKPOINT")
        lost = read_slot(connection, "pitr_orders")

    assert lost is not None
    assert lost.is_lost
    assert lost.restart is None


def test_slot_refusals_are_told_apart(server: Server) -> None:
    """A name that is taken, a role without the right, and a slot somebody streams from."""
    server.query("CREATE ROLE wanderer LOGIN")
    with connect(server.url()) as connection:
        create_slot(connection, "pitr_orders")
        with pytest.raises(DatabaseRefused, match="pitr_orders"):
            create_slot(connection, "pitr_orders")
        with (
            connect(server.url(user="wanderer")) as other,
            pytest.raises(PrivilegeMissing, match="pitr_other"),
        ):
            create_slot(other, "pitr_other")
        with connect_replication(server.url()) as sender:
            command = "START_REPLICATION SLOT pitr_orders PHYSICAL 0/1000000 TIMELINE 1"
            stream = ReplicationStream(sender, command, failed="cannot stream")
            stream.result()
            held = read_slot(connection, "pitr_orders")
            with pytest.raises(DatabaseRefused) as caught:
                drop_slot(connection, "pitr_orders")
            stream.cancel()
    assert held is not None
    assert held.active_pid is not None
    assert "is active" in (caught.value.detail or "")


def test_temporary_slot_goes_with_its_connection(server: Server) -> None:
    """Nothing is left on the server by a command that was killed."""
    with connect(server.url()) as connection:
        assert create_slot(connection, "pitr_backup", temporary=True).restart is not None
    time.sleep(0.2)
    with connect(server.url()) as connection:
        assert read_slot(connection, "pitr_backup") is None


# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.every_major
def test_stream_carries_the_wal_byte_for_byte_and_ends_when_asked(
    server: Server, sender: Connection
) -> None:
    """What arrives is what lies in pg_wal, and afterwards the connection takes commands again."""
    server.query("CREATE TABLE t AS SELECT generate_series(1, 20000) AS i")
    end = Lsn.parse(server.value("SELECT pg_current_wal_flush_lsn()::text"))
    stream = streaming(sender, end)
    begin = end.value & ~0xFFFFFF
    received = bytearray()
    while begin + len(received) < end.value:
        message = stream.receive(10)
        assert message is not None
        if message[0] == ord("w"):
            _, at, _, _ = HEADER.unpack_from(message)
            assert at == begin + len(received)
            received += message[HEADER.size :]
    stream.send(struct.pack(">cQQQQB", b"r", end.value, end.value, 0, 0, 0))
    stream.end_copy()
    assert [message[0] for message in stream.messages()] in ([], [ord("k")], [ord("w")])
    while stream.result() is not None:
        pass

    segment = server.wal / f"{1:08X}{0:08X}{begin >> 24:08X}"
    assert segment.read_bytes()[: len(received)] == received
    assert identify(sender).timeline == 1


def test_stream_of_wal_that_is_gone_is_refused(server: Server, sender: Connection) -> None:
    """The server's own words are the detail."""
    stream = ReplicationStream(
        sender, "START_REPLICATION PHYSICAL 0/0 TIMELINE 1", failed="cannot stream"
    )
    with pytest.raises(DatabaseRefused, match="cannot stream") as caught:
        drain(stream)
    assert "already been removed" in (caught.value.detail or "")


def test_stream_to_a_server_that_dies_is_unreachable(server: Server, sender: Connection) -> None:
    """A crash, a restart and a cut cable are one thing: try again."""
    stream = streaming(sender, identify(sender).flushed)
    server.kill()
    with pytest.raises(SourceUnreachable, match="cannot stream"):
        drain(stream)


def test_stream_that_falls_silent_is_unreachable(server: Server, sender: Connection) -> None:
    """A WAL sender that hangs is noticed after the time that the caller allows."""
    stream = streaming(sender, identify(sender).flushed)
    while stream.receive(0.2) is not None:
        pass
    os.kill(sender.info.backend_pid, signal.SIGSTOP)
    try:
        with pytest.raises(SourceUnreachable, match="cannot stream") as caught:
            list(stream.messages(silence_seconds=0.5))
    finally:
        os.kill(sender.info.backend_pid, signal.SIGCONT)
    assert "nothing for" in (caught.value.detail or "")


def test_waiting_for_a_message_lets_other_threads_run(server: Server, sender: Connection) -> None:
    """libpq's own blocking read would hold the interpreter lock for the whole wait."""
    stream = streaming(sender, identify(sender).flushed)
    while stream.receive(0.2) is not None:
        pass
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    stream.receive(1.0)
    done.set()
    thread.join()

    assert len(ticks) > 10
