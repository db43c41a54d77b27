"""Targets of PostgreSQL: each leads between the two records where the server says it should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pitr.archive.archive import Mark
from pitr.errors import ArchiveLacks, OutsideWindow, PitrError, UsageError
from pitr.postgres.target.by_index import ResolvedLsn, Resolver, Stretch
from pitr.target_text import format_time, parse_target
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import available
from tests.postgres.index_world import SETTINGS, IndexWorld
from tools.postgres_servers import Server

NOW_US = 2_000_000_000_000_000


@dataclass(frozen=True)
class Known:
    """A transaction as the server told it: number, commit time, where the WAL was then."""

    xid: int
    time_us: int
    after: Lsn


@dataclass
class TargetWorld:
    """A server with some transactions, one of them rolled back, one with sub-transactions."""

    world: IndexWorld
    known: list[Known]
    aborted: int
    subxid: int

    def resolver(self) -> Resolver:
        begin, end = self.world.written().ranges(1)[-1]
        return Resolver(
            self.world.index(),
            Stretch(1, begin, end),
            window_to_us=self.known[-1].time_us + 1_000_000,
            now_us=NOW_US,
            find_mark=lambda name: Mark(name, f"lsn:{self.known[2].after}", 0),
        )

    def resolve(self, text: str) -> ResolvedLsn:
        return self.resolver().resolve(parse_target(text, now_us=NOW_US))


@pytest.fixture(scope="module")
def targets(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TargetWorld]:
    settings = {**SETTINGS, "track_commit_timestamp": True}
    with Server(available(major), settings=settings, segment_megabytes=1) as server:
        world = IndexWorld(server, tmp_path_factory.mktemp("archive"))
        server.query("CREATE TABLE t (id int)")
        with server.connect() as connection:
            xids = []
            for number in range(8):
                connection.execute("BEGIN")
                connection.execute("INSERT INTO t VALUES (%s)", [number])
                connection.execute("SAVEPOINT s")
                connection.execute("INSERT INTO t VALUES (-1)")
                row = connection.execute(
                    "SELECT pg_current_xact_id()::text::bigint, xmin::text::bigint FROM t"
                    " WHERE id = -1 ORDER BY 2 DESC LIMIT 1"
                ).fetchone()
                assert row is not None
                connection.execute("ROLLBACK" if number == 3 else "COMMIT")
                after = Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()::text"))
                xids.append((row[0], row[1], after))
                if number % 2:
                    server.query("SELECT pg_switch_wal()")
        times = dict(
            server.query(
                "SELECT x, (extract(epoch FROM pg_xact_commit_timestamp(x::text::xid)) * 1e6)"
                f"::bigint FROM unnest('{{{','.join(str(x) for x, _, _ in xids)}}}'::bigint[]) x"
            )
        )
        world.complete()
        server.query("INSERT INTO t VALUES (99)")  # so that the last one is not the end
        aborted = xids.pop(3)[0]
        known = [Known(xid, times[xid], after) for xid, _, after in xids]
        yield TargetWorld(world, known, aborted, xids[4][1])


def included(found: ResolvedLsn) -> str | None:
    last = found.target.last_included
    return last.position if last else None


def test_time_leads_between_the_commits_around_it(targets: TargetWorld) -> None:
    """At its own time a commit is included, a microsecond before it is not."""
    for before, known, after in zip(
        targets.known, targets.known[1:], targets.known[2:], strict=False
    ):
        at = targets.resolve(format_time(known.time_us))
        assert at.target.last_included is not None
        assert at.target.first_excluded is not None
        assert at.target.last_included.time_us == known.time_us
        assert at.target.first_excluded.time_us == after.time_us
        assert known.after <= at.stop < after.after
        earlier = targets.resolve(format_time(known.time_us - 1))
        assert earlier.target.last_included is not None
        assert earlier.target.last_included.time_us == before.time_us


def test_xid_leads_to_after_it_and_before_it(targets: TargetWorld) -> None:
    """Also with an epoch, and by a sub-transaction of it."""
    for number, known in enumerate(targets.known):
        after = targets.resolve(f"xid:{known.xid}")
        before = targets.resolve(f"before:xid:{known.xid}")
        assert after.transaction is not None
        assert after.transaction.xid == known.xid
        assert after.transaction.time_us == known.time_us
        assert before.stop < after.stop <= known.after
        assert included(after) == f"lsn:{after.stop}"
        assert included(before) != included(after)
        assert before.target.first_excluded is not None
        assert before.target.first_excluded.time_us == known.time_us
        if number == 4:
            assert targets.resolve(f"xid:{targets.subxid}").stop == after.stop
        assert targets.resolve(f"xid:{known.xid + (5 << 32)}").stop == after.stop


def test_position_that_a_target_came_to_gives_the_same_state(targets: TargetWorld) -> None:
    """And so do a mark and the server's own position after the commit."""
    for text in (f"xid:{targets.known[2].xid}", format_time(targets.known[4].time_us), "latest"):
        first = targets.resolve(text)
        again = targets.resolve(first.target.position)
        assert (again.stop, included(again)) == (first.stop, included(first))
    by_mark = targets.resolve("name:x")
    assert included(by_mark) == included(targets.resolve(f"xid:{targets.known[2].xid}"))


def test_latest_and_times_after_the_last_commit_are_the_end(targets: TargetWorld) -> None:
    """Up to window.to; nothing is excluded then."""
    latest = targets.resolve("latest")
    assert latest.target.first_excluded is None
    assert latest.target.last_included is not None
    found = targets.resolve(format_time(latest.target.last_included.time_us))
    assert (found.stop, found.target.first_excluded) == (latest.stop, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1999-01-01T00:00:00Z", OutsideWindow),
        ("2033-05-18T03:33:20Z", OutsideWindow),
        ("lsn:0/10", OutsideWindow),
        ("lsn:F/0", OutsideWindow),
        ("xid:4000000000", ArchiveLacks),
        ("commit:7", UsageError),
    ],
)
def test_target_that_the_archive_has_not_is_refused(
    targets: TargetWorld, text: str, error: type[PitrError]
) -> None:
    """With what there is instead."""
    with pytest.raises(error) as caught:
        targets.resolve(text)
    assert caught.value.hint


def test_transaction_that_was_rolled_back_is_no_target(targets: TargetWorld) -> None:
    """It says so, and where it ended."""
    with pytest.raises(UsageError, match="rolled back"):
        targets.resolve(f"xid:{targets.aborted}")
