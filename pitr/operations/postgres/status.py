"""status on PostgreSQL: windows by timeline, lag in time and bytes, gaps, the slot."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

from pitr.archive.archive import Identity, open_archive, read_marks
from pitr.archive.lease import LeaseState, is_live, read_newest_lease
from pitr.archive.store import Store
from pitr.archive.verification import Proof, last_verification
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import CorruptObject, PitrError
from pitr.operations.opening import open_archive_store
from pitr.operations.status import Base, Gap, SlotState, Status, TimelineState
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.capture.gap import WalGap, read_gaps
from pitr.postgres.capture.watch import Look, look
from pitr.postgres.index.ends import last_commit
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.live.connection import connect
from pitr.postgres.prune.note import pruned_before
from pitr.postgres.wal_store.archive import WalArchive
from pitr.source_text import POSTGRES
from pitr.vocabulary.position import Lsn
from pitr.vocabulary.target import Window

# A lease is renewed once a minute; later, its capture hangs or its store fails.
_RENEWED_US_MAX = 90_000_000
# How long WAL of a capture that works may be on its way: flushed once a second, and stored.
_ON_ITS_WAY_US = 2_000_000


@dataclass(frozen=True, slots=True)
class _Found:
    """What archive and source say. `fault` says why the lease cannot be read."""

    store: Store
    identity: Identity
    wal: WalArchive
    bases: tuple[BaseInfo, ...]
    notes: tuple[WalGap, ...]
    lease: LeaseState | None
    fault: str | None
    look: Look | None
    now_us: int

    @property
    def is_capturing(self) -> bool:
        return self.lease is not None and is_live(self.lease, at_us=self.now_us)

    @property
    def timeline(self) -> int | None:
        """Return the newest timeline, None when nothing is archived."""
        timelines = self.wal.timelines()
        return timelines[-1] if timelines else None

    @property
    def end(self) -> Lsn | None:
        """Return up to where the newest timeline is archived."""
        ranges = self.wal.ranges(self.timeline) if self.timeline else []
        return ranges[-1][1] if ranges else None


def status(settings: Settings) -> Status:
    """Return the state of an archive, of its capture, and how the source stands to it."""
    found = _look_around(settings)
    lease = found.lease
    timelines = tuple(_timelines(found))
    newest = timelines[-1] if timelines else None
    return Status(
        window=_window(found, newest),
        positions=(newest.first, newest.last) if newest and newest.first else None,
        lag_us=_lag_us(found),
        capturing=found.is_capturing,
        holder=str(lease.holder) if lease and found.is_capturing else None,
        granularity="commit" if found.end is not None else None,
        gaps=tuple(_gaps(found)),
        archive_bytes=sum(info.size for info in found.store.list()),
        bases=tuple(Base(base.id, base.time_us, base.bytes) for base in found.bases),
        marks=tuple(read_marks(found.store)),
        last_error=found.fault or (lease.last_error if lease else None),
        spooled_bytes=lease.spooled_bytes if lease else 0,
        lag_bytes=_lag_bytes(found),
        timelines=timelines,
        slot=_slot(settings, found),
        verified=last_verification(found.store, Proof.OBJECTS),
        drilled=last_verification(found.store, Proof.DRILL),
    )


def _look_around(settings: Settings) -> _Found:
    store = open_archive_store(settings)
    identity = open_archive(store)
    lease, fault = None, None
    try:
        lease = read_newest_lease(store)
    except CorruptObject as error:
        fault = f"{error.message}: {error.detail}"
    wal = WalArchive(store)
    wal.refresh()
    faults: list[CorruptObject] = []
    bases = BaseArchive(store).bases(faults.append)
    if faults and fault is None:
        fault = f"{faults[0].message}: {faults[0].detail}"
    seen = _look_at_source(settings, identity)
    return _Found(
        store, identity, wal, tuple(bases), tuple(read_gaps(store)), lease, fault, seen, now_us()
    )


def _look_at_source(settings: Settings, identity: Identity) -> Look | None:
    """Return what the source is like; None when it cannot be asked, or is another cluster."""
    source = settings.source_of(POSTGRES)
    if source is None:
        return None
    try:
        with closing(connect(source.location, program="pitr status")) as connection:
            seen = look(connection, settings.slot)
    except PitrError:
        return None
    return seen if seen.system_identifier == identity.source["system_identifier"] else None


def _timelines(found: _Found) -> list[TimelineState]:
    states = []
    for timeline in found.wal.timelines():
        history = found.wal.history(timeline)
        begin = history[-1].switch if history else Lsn(0)
        ranges = [item for item in found.wal.ranges(timeline) if item[1] > begin]
        if not ranges:
            continue
        low, high = ranges[-1]
        usable = [base for base in found.bases if _is_within(found, base, timeline, low, high)]
        first = f"lsn:{usable[0].end_lsn}" if usable else None
        last = f"lsn:{high}"
        begin_text = f"lsn:{max(begin, low)}"
        from_us = usable[0].time_us if usable else None
        states.append(TimelineState(timeline, begin_text, first, last, from_us))
    return states


def _is_within(found: _Found, base: BaseInfo, timeline: int, low: Lsn, high: Lsn) -> bool:
    """Return whether all WAL from a base to the end of the timeline is archived."""
    if base.end_lsn is None:
        return False
    history = {entry.timeline: entry.switch for entry in found.wal.history(timeline)}
    end = Lsn.parse(base.end_lsn)
    is_ours = base.timeline == timeline or end <= history.get(base.timeline, Lsn(0))
    return is_ours and low <= Lsn.parse(base.start_lsn) and end <= high


def _window(found: _Found, newest: TimelineState | None) -> Window | None:
    if newest is None or newest.from_us is None:
        return None
    return Window(newest.from_us, max(newest.from_us, _current_until_us(found)))


def _current_until_us(found: _Found) -> int:
    """Return the moment up to which the archive is proven current."""
    proven_us = found.lease.current_until_us if found.lease else 0
    if found.look is not None and found.end is not None and found.end >= found.look.flushed:
        return max(proven_us, found.look.settled_us)
    return proven_us


def _lag_bytes(found: _Found) -> int | None:
    """Return how much WAL the archive lacks; None when the source cannot be asked."""
    if found.look is None:
        return None
    return max(0, found.look.flushed.value - (found.end.value if found.end else 0))


def _lag_us(found: _Found) -> int:
    """Return the age of the oldest commit that is not archived, 0 when there is none; at most.

    What was committed is archived up to where a look proved it; a capture that works has all but
    the last two seconds, and notes it once a minute only. When it does not, or was killed before it
    noted it, the last archived commit says as much.
    """
    lease = found.lease
    spooled = lease is not None and lease.spooled_bytes > 0
    lag_bytes = _lag_bytes(found)
    if lag_bytes == 0 or (lag_bytes is None and not spooled):
        return 0
    until_us = max(_current_until_us(found), found.identity.created_us)
    works = (
        found.is_capturing
        and lease is not None
        and found.now_us - lease.renewed_us < _RENEWED_US_MAX
    )
    if works and not spooled:
        until_us = max(until_us, found.now_us - _ON_ITS_WAY_US)
    else:
        until_us = max(until_us, min(found.now_us, _last_commit_us(found)))
    return max(0, found.now_us - until_us)


def _last_commit_us(found: _Found) -> int:
    """Return the time of the newest archived commit; 0 when there is none that can be read."""
    if found.timeline is None or found.end is None:
        return 0
    begin, end = found.wal.ranges(found.timeline)[-1]
    try:
        last = last_commit(WalIndex(found.store, found.wal), found.timeline, begin.value, end.value)
    except PitrError:
        return 0  # damaged; 'verify' tells
    return last.time_us if last else 0


def _gaps(found: _Found) -> list[Gap]:
    """Return what is missing between archived stretches of the newest timeline's history."""
    if found.timeline is None:
        return []
    notes = {(note.begin, note.end): note for note in found.notes}
    spans = [
        span for timeline in found.wal.timelines() for span in found.wal.spans.of_timeline(timeline)
    ]
    gaps = []
    ranges = found.wal.ranges(found.timeline)
    dropped_before = pruned_before(found.store)
    for (_, begin), (end, _) in pairwise(ranges):
        if end <= dropped_before:
            continue  # by a prune that kept the state of a mark
        note = notes.get((str(begin), str(end)))
        # Without a note: when what surrounds the gap was stored.
        from_us = max((span.stored_us for span in spans if span.end == begin.value), default=0)
        to_us = max((span.stored_us for span in spans if span.begin == end.value), default=0)
        gaps.append(
            Gap(
                "missing",
                note.from_us if note else from_us,
                note.to_us if note else max(from_us, to_us),
                f"lsn:{end}",
                begin=f"lsn:{begin}",
            )
        )
    return gaps


def _slot(settings: Settings, found: _Found) -> SlotState | None:
    if found.look is None:
        return None
    slot = found.look.slot
    if slot is None:
        return SlotState(settings.slot, "absent", active=False, kept_bytes=0, safe_bytes=None)
    return SlotState(
        slot.name,
        slot.wal_status or "unknown",
        active=slot.active_pid is not None,
        kept_bytes=slot.kept_bytes,
        safe_bytes=slot.safe_bytes,
    )
