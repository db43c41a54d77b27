"""Capture of a real server: what is archived is its WAL, byte for byte, whatever breaks.

Oracle: the server's own pg_wal, kept by wal_keep_size, and pg_waldump.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from pitr.archive.archive import Identity, create_or_adopt
from pitr.archive.lease import read_newest_lease
from pitr.errors import IdentityMismatch, PitrError, SourceUnreachable, SourceUnusable
from pitr.postgres.capture.gap import read_gaps
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import Level
from pitr.vocabulary.position import Lsn
from tests.memory_store import FaultyStore
from tests.postgres.capture_world import (
    FAST,
    SLOT,
    archived_end,
    assert_same_as_server,
    capturing,
    flushed,
    identity_of,
    make_capture,
    switch,
    timeline_of,
    wait_until,
    whole_segments,
    write,
)
from tests.postgres.fixtures import ServerMaker
from tests.postgres.proxy import Proxy
from tools.postgres_servers import Server

KEEP = {"wal_keep_size": "1GB"}


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def primary(make_server: ServerMaker) -> Server:
    """A server with segments of 1 MB, so that little WAL fills many."""
    return make_server(settings=KEEP, segment_megabytes=1)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as in production, some times shorter."""
    monkeypatch.setattr("pitr.archive.outbox._FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr("pitr.archive.outbox._PAUSE_SECONDS_MAX", 0.05)
    monkeypatch.setattr("pitr.postgres.capture.capture._FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("pitr.postgres.capture.capture._PAUSE_SECONDS_MAX", 0.2)


def kept_from(server: Server) -> Lsn:
    """Return the oldest WAL that the server keeps for the slot."""
    return Lsn.parse(
        server.value(
            f"SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        )
    )


def is_one_range(store: FaultyStore, timeline: int) -> bool:
    return len(WalArchive(store).ranges(timeline)) == 1


def waldump(server: Server, store: FaultyStore, folder: Path) -> str:
    """Write the archived segments back and let pg_waldump read them all; return its complaints."""
    if not (server.bin / "pg_waldump").exists():
        return ""  # the programs of version 13 come without it
    folder.mkdir()
    segments = whole_segments(store)
    for name, data in segments.items():
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [str(server.bin / "pg_waldump"), "-p", str(folder), min(segments), max(segments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


@pytest.mark.every_major
def test_archived_wal_is_the_servers_byte_for_byte(
    store: FaultyStore, make_server: ServerMaker, spool: Path, tmp_path: Path
) -> None:
    """Whole segments, the open one in pieces, and the slot gives free only what is stored."""
    primary = make_server(settings={**KEEP, "wal_compression": True}, segment_megabytes=1)
    with capturing(store, primary, spool) as running:
        for _ in range(5):
            write(primary, 4000)
            switch(primary)
        write(primary, 10)
        end = running.wait_for(primary)
        running.wait(lambda: kept_from(primary) == end, "the slot to be confirmed")

    assert assert_same_as_server(store, primary) >= 5
    assert is_one_range(store, timeline_of(primary))
    whole = set(whole_segments(store))
    pieces = [info.key.rpartition("/")[2][:24] for info in store.list("wal/") if "-" in info.key]
    assert not whole & set(pieces), "pieces of whole segments were left"
    # The last record may go on in the open segment, which is no file here.
    assert "invalid" not in waldump(primary, store, tmp_path / "wal")
    lease = read_newest_lease(store)
    assert lease is not None
    assert lease.released
    assert lease.head_commit == archived_end(store, 1).value


@pytest.mark.parametrize("megabytes", [16, 64])
def test_other_segment_sizes(
    store: FaultyStore, make_server: ServerMaker, spool: Path, megabytes: int
) -> None:
    """The size of a segment is the server's."""
    primary = make_server(settings=KEEP, segment_megabytes=megabytes)
    with capturing(store, primary, spool) as running:
        write(primary, 1000)
        switch(primary)
        write(primary, 1000)
        running.wait_for(primary)

    assert assert_same_as_server(store, primary) >= 1
    assert WalArchive(store).segment_bytes == megabytes << 20


def test_pieces_are_few_and_useless_ones_deleted(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """A segment that fills slowly has at most 15 pieces of a size."""
    with capturing(store, primary, spool) as running:
        for _ in range(40):
            write(primary, 1)
            running.wait_for(primary)
    pieces = [info.key for info in store.list("wal/") if "-" in info.key]

    assert len(store.written) > 40
    assert len(pieces) <= 2 + 15
    assert_same_as_server(store, primary)


def test_capture_that_is_started_again_goes_on(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """Each run begins at the beginning of the open segment, which ends up whole and identical."""
    for _ in range(4):
        with capturing(store, primary, spool) as running:
            write(primary, 2500)
            running.wait_for(primary)
        write(primary, 2500)
    with capturing(store, primary, spool) as running:
        running.wait_for(primary)

    assert_same_as_server(store, primary)
    assert is_one_range(store, 1)


def test_once_archives_what_is_committed_and_ends(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """An asynchronous commit that returned before is archived too."""
    write(primary, 5000)
    primary.query("SET synchronous_commit = off; INSERT INTO t (note) VALUES ('late')")
    make_capture(store, primary, spool, lambda _: None).once()
    first = archived_end(store, 1)
    assert first.value > 0
    assert assert_same_as_server(store, primary) >= 1
    write(primary, 10)
    end = flushed(primary)  # the server goes on writing a little by itself
    make_capture(store, primary, spool, lambda _: None).once()

    assert archived_end(store, 1) >= end > first


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_server_that_ends_and_comes_back(
    store: FaultyStore, primary: Server, spool: Path, how: str
) -> None:
    """A restart, an immediate stop and a crash leave no gap; capture reconnects by itself."""
    with capturing(store, primary, spool) as running:
        for _ in range(2):
            running.wait_for(primary)
            write(primary, 3000)
            if how == "kill":
                primary.kill()
            else:
                primary.stop("fast" if how == "fast" else "immediate")
            time.sleep(0.2)
            primary.start()
            write(primary, 3000)
            running.wait_for(primary)

    assert assert_same_as_server(store, primary) >= 1
    assert is_one_range(store, 1)
    assert running.told("", Level.WARNING)


def test_network_that_is_cut(store: FaultyStore, primary: Server, spool: Path) -> None:
    """Cut in the middle of a stream, and refused for a while: WAL waits on the server."""
    with Proxy(primary) as proxy, capturing(store, primary, spool, place=proxy.url) as running:
        write(primary, 1000)
        running.wait_for(primary)
        for _ in range(3):
            write(primary, 10_000)
            proxy.is_open = False
            proxy.cut()
            write(primary, 3000)
            time.sleep(0.1)
            proxy.is_open = True
        running.wait_for(primary)
        assert proxy.connections >= 6

    assert assert_same_as_server(store, primary) >= 5
    assert is_one_range(store, 1)


def test_wal_sender_that_is_ended_by_an_administrator(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """pg_terminate_backend is a cut like any other."""
    with capturing(store, primary, spool) as running:
        write(primary, 1000)
        running.wait_for(primary)
        primary.query("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        write(primary, 1000)
        running.wait_for(primary)

    assert is_one_range(store, 1)


def test_outage_of_the_store_leaves_wal_on_the_server(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """WAL goes to the spool, the slot is not moved; when the store is back nothing is missing."""
    with capturing(store, primary, spool) as running:
        write(primary, 1000)
        before = running.wait_for(primary)
        running.wait(lambda: kept_from(primary) == before, "the slot")
        store.is_down = True
        write(primary, 15_000)
        running.wait(lambda: running.told("cannot be reached", Level.WARNING), "the warning")
        time.sleep(0.3)
        assert kept_from(primary) == before
        store.is_down = False
        end = running.wait_for(primary)
        running.wait(lambda: kept_from(primary) >= end, "the slot to move on")
        assert running.told("is back")

    assert assert_same_as_server(store, primary) >= 2
    assert not list(spool.glob("*/*"))


def test_store_that_loses_its_answers(store: FaultyStore, primary: Server, spool: Path) -> None:
    """What arrived although its answer did not is recognised as ours."""
    with capturing(store, primary, spool) as running:
        running.wait_for(primary)
        store.loses_answers = True
        for _ in range(5):
            write(primary, 2000)
            switch(primary)
        running.wait_for(primary)
        store.loses_answers = False

    assert assert_same_as_server(store, primary) >= 5
    stored = [key for key in store.written if key.startswith("wal/")]
    assert len(stored) == len(set(stored))


def test_full_spool_leaves_wal_on_the_server(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """The spool has a limit; beyond it WAL stays where it is safe, and nothing is dropped."""
    options = type(FAST)(flush_seconds=0.05, spool_bytes_max=100_000)
    with capturing(store, primary, spool, options=options) as running:
        write(primary, 1000)
        running.wait_for(primary)
        store.is_down = True
        for _ in range(10):
            write(primary, 10_000)
        running.wait(lambda: running.told("the spool is full", Level.WARNING), "the warning")
        store.is_down = False
        running.wait_for(primary)

    assert assert_same_as_server(store, primary) >= 10
    assert is_one_range(store, 1)


def test_server_near_its_limit_is_relieved_by_the_spool(
    store: FaultyStore, make_server: ServerMaker, spool: Path
) -> None:
    """Before production would remove WAL that nobody has, what is on our disk is given free."""
    primary = make_server(settings={"max_slot_wal_keep_size": "8MB"}, segment_megabytes=1)
    with capturing(store, primary, spool) as running:
        write(primary, 100)
        before = running.wait_for(primary)
        store.is_down = True
        for _ in range(6):
            write(primary, 6000)
            switch(primary)
            time.sleep(0.3)
        running.wait(lambda: running.told("may soon remove WAL", Level.WARNING), "the warning")
        running.wait(lambda: kept_from(primary) > before, "the slot to be relieved")
        assert running.told("lags behind", Level.WARNING)
        store.is_down = False
        running.wait_for(primary)

    assert is_one_range(store, 1)


def test_lost_slot_is_a_gap_that_is_noted(
    store: FaultyStore, make_server: ServerMaker, spool: Path
) -> None:
    """The server removed WAL at its limit: said, with what to do, and captured from there on."""
    primary = make_server(
        settings={"max_slot_wal_keep_size": "2MB", "max_wal_size": "4MB", "min_wal_size": "2MB"},
        segment_megabytes=1,
    )
    with capturing(store, primary, spool) as running:
        write(primary, 100)
        known = running.wait_for(primary)
    for _ in range(10):
        write(primary, 6000)
        switch(primary)
    primary.query("CHECKPOINT")
    with capturing(store, primary, spool) as running:
        write(primary, 100)
        running.wait_for(primary)
        assert running.told("is lost", Level.ERROR)
        assert running.told("pitr backup", Level.ERROR)

    [gap] = read_gaps(store)
    (_, low), (high, _) = WalArchive(store).ranges(1)
    assert (Lsn.parse(gap.begin), Lsn.parse(gap.end)) == (low, high)
    assert low >= known
    assert 0 < gap.from_us < gap.to_us


def test_slot_that_was_dropped_is_made_anew(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """As long as the server still has the WAL there is no gap."""
    with capturing(store, primary, spool) as running:
        write(primary, 100)
        running.wait_for(primary)
    primary.query(f"SELECT pg_drop_replication_slot('{SLOT}')")
    write(primary, 5000)
    with capturing(store, primary, spool) as running:
        running.wait_for(primary)

    assert is_one_range(store, 1)
    assert_same_as_server(store, primary)


@pytest.mark.parametrize("is_alive", [True, False], ids=["live", "stopped"])
def test_failover_to_a_promoted_standby(
    store: FaultyStore, primary: Server, spool: Path, is_alive: bool
) -> None:
    """The new timeline goes on where it left the old one; its history file is archived."""
    with primary.standby(settings=KEEP) as standby, Proxy(primary) as proxy:
        with capturing(store, primary, spool, place=proxy.url) as running:
            write(primary, 3000)
            running.wait_for(primary)
            end = flushed(primary)
            wait_until(
                lambda: (
                    standby.value("SELECT pg_last_wal_replay_lsn()::text >= ''")
                    and Lsn.parse(standby.value("SELECT pg_last_wal_replay_lsn()::text")) >= end
                ),
                "the standby",
            )
            if is_alive:
                fail_over(primary, standby, proxy)
                write(standby, 3000)
                running.wait_for(standby)
        if not is_alive:
            fail_over(primary, standby, proxy)
            write(standby, 3000)
            identity = create_or_adopt(
                store, engine="postgres", identity={"system_identifier": system(standby)}
            )
            with capturing(store, standby, spool, identity=identity) as running:
                running.wait_for(standby)
        wal = WalArchive(store)
        assert wal.timelines() == [1, 2]
        assert is_one_range(store, 2)
        history = (standby.wal / "00000002.history").read_bytes()
        assert wal.history(2)[0].switch == Lsn.parse(history.split(b"\t")[1].decode())
        assert_same_as_server(store, standby, from_name="00000002")


def test_wal_that_the_standby_never_had_is_another_history(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """What only the lost primary wrote is archived under its timeline, and is not the new one's."""
    identity = identity_of(store, primary)
    with primary.standby(settings=KEEP) as standby:
        wait_until(
            lambda: standby.query("SELECT 1 FROM pg_stat_wal_receiver") == [(1,)], "the standby"
        )
        standby.stop()
        with capturing(store, primary, spool) as running:
            write(primary, 3000)
            lost = running.wait_for(primary)
        primary.stop("fast")
        standby.start()
        standby.promote()
        write(standby, 8000)
        end = flushed(standby)
        with capturing(store, standby, spool, identity=identity) as running:
            running.wait_for(standby)
        wal = WalArchive(store)
        [(_, low_end)] = wal.ranges(1)
        switch_lsn = wal.history(2)[0].switch
        assert switch_lsn < lost <= low_end
        assert is_one_range(store, 2)
        assert wal.ranges(2)[0][1] >= end
        assert_same_as_server(store, standby, from_name="00000002")


def fail_over(primary: Server, standby: Server, proxy: Proxy) -> None:
    primary.stop("fast")
    standby.promote()
    proxy.turn_to(standby)


def system(server: Server) -> str:
    return str(server.value("SELECT system_identifier FROM pg_control_system()") % 2**64)


def test_capture_of_a_standby_follows_its_promotion(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """The stream of the old timeline ends in the connection, and goes on with the new one."""
    identity = identity_of(store, primary)
    with (
        primary.standby(settings=KEEP) as standby,
        capturing(store, standby, spool, identity=identity) as running,
    ):
        write(primary, 3000)
        end = flushed(primary)
        running.wait(lambda: archived_end(store, 1) >= end)
        primary.stop("fast")
        standby.promote()
        write(standby, 3000)
        running.wait_for(standby)
        assert is_one_range(store, 2)
        assert_same_as_server(store, standby, from_name="00000002")


def test_damaged_wal_is_refused_and_fetched_again(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """A record whose CRC is wrong is not archived; once the file is whole again it is."""
    with capturing(store, primary, spool) as running:
        write(primary, 100)
        running.wait_for(primary)
    write(primary, 10_000)
    name = str(primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))
    switch(primary)
    path = primary.wal / f"{int(name, 16) - 1:024X}"
    whole = path.read_bytes()
    path.write_bytes(whole[:500_000] + bytes(byte ^ 1 for byte in whole[500_000:500_100])
                     + whole[500_100:])  # fmt: skip
    with capturing(store, primary, spool) as running:
        running.wait(lambda: running.told("damaged WAL", Level.WARNING), "the warning")
        assert path.name not in whole_segments(store)
        path.write_bytes(whole)
        running.wait_for(primary)

    assert whole_segments(store)[path.name] == whole
    assert_same_as_server(store, primary)


# ---- what is refused -----------------------------------------------------------------------------


def refusal(
    store: FaultyStore, server: Server, spool: Path, identity: Identity | None = None
) -> PitrError:
    with pytest.raises(PitrError) as found:
        make_capture(store, server, spool, lambda _: None, identity=identity).once()
    assert found.value.hint
    lease = read_newest_lease(store)
    assert lease is None or lease.released
    return found.value


def test_other_cluster_is_refused(store: FaultyStore, primary: Server, spool: Path) -> None:
    """An archive holds one cluster: exit 3, and nothing is written."""
    identity = create_or_adopt(store, engine="postgres", identity={"system_identifier": "77"})
    error = refusal(store, primary, spool, identity=identity)

    assert isinstance(error, IdentityMismatch)
    assert (error.exit_code, list(store.list("wal/"))) == (3, [])
    assert not primary.query("SELECT * FROM pg_replication_slots")


def test_server_with_less_wal_than_the_archive_is_refused(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """A cluster that was set back goes on with another history under the same numbers: exit 3."""
    primary.stop()
    subprocess.run(["cp", "-a", primary.data, primary.folder / "copy"], check=True)
    primary.start()
    with capturing(store, primary, spool) as running:
        write(primary, 5000)
        running.wait_for(primary)
    primary.stop()
    subprocess.run(["rm", "-rf", primary.data], check=True)
    (primary.folder / "copy").rename(primary.data)
    primary.start()
    error = refusal(store, primary, spool)

    assert isinstance(error, SourceUnusable)
    assert "less WAL" in error.message
    write(primary, 8000)
    error = refusal(store, primary, spool)
    assert error.exit_code == 5
    assert "other WAL" in error.message


def test_server_that_is_not_there_is_exit_3(
    store: FaultyStore, primary: Server, spool: Path
) -> None:
    """Before it has captured anything, capture says so and ends."""
    identity = identity_of(store, primary)
    primary.stop()

    assert isinstance(refusal(store, primary, spool, identity=identity), SourceUnreachable)
