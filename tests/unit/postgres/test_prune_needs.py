"""Needs of a policy, against an independent oracle: what a recovery of each target would read."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.prune.needs import CLOCKS_US, Needs, find_needs
from pitr.postgres.wal.history import HistoryEntry
from pitr.postgres.wal_store.spans import WalSpan, WalSpans
from pitr.vocabulary.position import Lsn

SEGMENT = 1 << 20
MINUTE_US = 60_000_000
A_BASE = BaseInfo(
    id="", system_identifier="1", server_version=150000, timeline=1, start_lsn="0/0", end_lsn="0/0",
    started_us=0, time_us=0, label="", superuser=None, from_standby=False, block_size=8192,
    wal_segment_bytes=SEGMENT, data_checksums=True, judged_pages=True, settings={},
    tablespaces=(), damaged=(), raw_bytes=0, stored_bytes=0, bytes=0,
)  # fmt: skip


class World:
    """A cluster over some hours: a segment a minute, bases, failovers and gaps at random."""

    def __init__(self, rng: random.Random) -> None:
        self.spans: list[WalSpan] = []
        self.bases: list[BaseInfo] = []
        self.histories: dict[int, tuple[HistoryEntry, ...]] = {}
        timeline = 1
        for minute in range(10, 160):
            if rng.random() < 0.02:
                switch = minute * SEGMENT + rng.randrange(SEGMENT)
                entry = HistoryEntry(timeline, Lsn(switch))
                self.histories[timeline + 1] = (*self.histories.get(timeline, ()), entry)
                self._span(timeline, minute, minute * SEGMENT, switch)
                timeline += 1
            if rng.random() > 0.01:  # else a gap
                begin = minute * SEGMENT
                middle = begin + rng.randrange(1, SEGMENT)
                cuts = [begin, middle, begin + SEGMENT] if rng.random() < 0.1 else [begin, -1]
                for low, high in pairwise(cuts):
                    self._span(timeline, minute, low, begin + SEGMENT if high < 0 else high)
            if rng.random() < 0.1:
                self._base(timeline, minute, rng)
        self.wal = WalSpans(self.spans, self.histories)

    def _span(self, timeline: int, minute: int, begin: int, end: int) -> None:
        if begin < end:
            name = f"{timeline}/{begin}-{end}"
            self.spans.append(WalSpan(begin, end, timeline, name, 1, (minute + 1) * MINUTE_US))

    def _base(self, timeline: int, minute: int, rng: random.Random) -> None:
        start = minute * SEGMENT + rng.randrange(SEGMENT // 2)
        base = replace(
            A_BASE,
            id=f"{timeline}.{start}",
            timeline=timeline,
            start_lsn=str(Lsn(start)),
            end_lsn=str(Lsn(start + 1000)),
            time_us=(minute + 1) * MINUTE_US,
        )
        self.bases.append(base)


def recovery(spans: WalSpans, bases: list[BaseInfo], stop: int) -> tuple[str, list[str]] | None:
    """Return base and WAL of a recovery to an LSN of the newest timeline, None when there is none.

    Written again after `pitr restore`, on purpose.
    """
    timelines = [timeline for timeline in spans.timelines() if spans.ranges(timeline)]
    newest = timelines[-1]
    switches = {entry.timeline: entry.switch.value for entry in spans.histories.get(newest, ())}
    switches[newest] = stop
    for base in sorted(bases, key=lambda base: base.start, reverse=True):
        assert base.end is not None
        if base.end.value > min(stop, switches.get(base.timeline, 0)):
            continue
        if any(low <= base.start and stop <= high.value for low, high in spans.ranges(newest)):
            pieces = spans.pieces(newest, base.start, Lsn(stop))
            return base.id, [span.name for span, _, _ in pieces]
    return None


def pruned(world: World, needs: Needs) -> tuple[WalSpans, list[BaseInfo]]:
    """Return what is left."""
    spans = [span for span in world.spans if needs.covers(span.timeline, span.begin, span.end)]
    return WalSpans(spans, world.histories), [b for b in world.bases if b.id in needs.bases]


@pytest.mark.parametrize("seed", range(25))
def test_every_kept_target_is_recovered_from_the_same_base_and_wal(seed: int) -> None:
    """All positions from the horizon on, and each mark, lead to what they led to before."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    world = World(rng)
    from_minute = rng.randrange(20, 165)
    marks = [Lsn(rng.randrange(10, 160) * SEGMENT + rng.randrange(SEGMENT)) for _ in range(3)]
    from_us = from_minute * MINUTE_US
    needs = find_needs(world.wal, world.bases, segment_bytes=SEGMENT, from_us=from_us, marks=marks)
    spans, bases = pruned(world, needs)

    targets = [from_minute * SEGMENT + rng.randrange(SEGMENT * 160) for _ in range(60)]
    targets += [minute * SEGMENT for minute in range(from_minute, 160)]
    for stop in [*targets, *(mark.value for mark in marks)]:
        before = recovery(world.wal, world.bases, stop)
        assert before is None or recovery(spans, bases, stop) == before
    again = find_needs(spans, bases, segment_bytes=SEGMENT, from_us=from_us, marks=marks)
    assert pruned(world, again)[1] == bases


def test_much_goes_when_bases_are_regular() -> None:
    """With a base an hour and three hours kept, the rest of a day goes but for one base before."""
    world = World(random.Random(1))
    world.spans, world.bases, world.histories = [], [], {}
    for minute in range(24 * 60):
        world._span(1, minute, minute * SEGMENT, (minute + 1) * SEGMENT)
        if minute % 60 == 0:
            world._base(1, minute, random.Random(minute))
    world.wal = WalSpans(world.spans, {})
    now_us = 24 * 60 * MINUTE_US
    needs = find_needs(
        world.wal, world.bases, segment_bytes=SEGMENT, from_us=now_us - 180 * MINUTE_US, marks=[]
    )
    spans, bases = pruned(world, needs)

    assert len(bases) == 4
    assert 240 <= sum(1 for _ in spans.of_timeline(1)) <= 245


def test_base_that_is_as_old_as_clocks_may_differ_is_not_relied_on() -> None:
    """A base just before the time that is kept may be of after it, by the server's clock."""
    world = World(random.Random(1))
    world.spans, world.bases, world.histories = [], [], {}
    for minute in range(100):
        world._span(1, minute, minute * SEGMENT, (minute + 1) * SEGMENT)
        if minute in (20, 49):
            world._base(1, minute, random.Random(minute))
    wal = WalSpans(world.spans, {})
    for from_us, kept in ((51 * MINUTE_US, 2), (50 * MINUTE_US + CLOCKS_US, 1)):
        needs = find_needs(wal, world.bases, segment_bytes=SEGMENT, from_us=from_us, marks=[])
        assert len(needs.bases) == kept
