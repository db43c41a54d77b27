"""Attach to a server: make sure of cluster, slot and histories, and find where to begin."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from pitr.archive.archive import Identity
from pitr.archive.store import Store
from pitr.errors import DatabaseRefused, IdentityMismatch, SourceUnusable
from pitr.postgres.capture.cluster import require_same_cluster
from pitr.postgres.capture.open_segment import OpenSegment
from pitr.postgres.capture.resume import Start, start_from_archive, start_from_slot
from pitr.postgres.capture.watch import Look, look
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.replication import identify, timeline_history
from pitr.postgres.live.slot import Slot, create_slot, drop_slot
from pitr.postgres.wal.history import HistoryEntry, parse_history
from pitr.postgres.wal_store.archive import WalArchive
from pitr.postgres.wal_store.text import history_key, put_text
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class Attached:
    """A server that is ready to stream: `look` is what it was like, `slot` what it keeps.

    `histories` are those of its timeline and its ancestors.
    """

    store: Store
    identity: Identity
    timeline: int
    slot: Slot
    look: Look
    histories: dict[int, tuple[HistoryEntry, ...]]
    pool: Executor

    def start(self, on_event: OnEvent) -> Start:
        """Return where to go on, from what the archive has.

        Raises SourceUnusable when the archive has more WAL than the server; IdentityMismatch for
        another size of segments.
        """
        wal = WalArchive(self.store)
        found = start_from_archive(
            wal,
            self.timeline,
            flushed=self.look.flushed,
            kept=self.slot.restart,
            segment_bytes=self.look.segment_bytes,
        )
        if found is None:
            return self.start_from_slot(None)
        if wal.segment_bytes != self.look.segment_bytes:
            raise IdentityMismatch(
                f"the server's WAL segments have {self.look.segment_bytes} bytes",
                detail=f"The archive {self.store.location} holds segments of {wal.segment_bytes} "
                "bytes: somebody ran pg_resetwal.",
                hint="Begin a new archive with 'pitr init', then run 'pitr backup'.",
            )
        newest = max(wal.timelines())
        if newest > self.timeline:
            on_event(
                Event(
                    Level.WARNING,
                    f"the server is on timeline {self.timeline}, the archive has {newest}",
                    "Captured is what the server writes; make sure that it is the right one.",
                )
            )
        return found

    def start_from_slot(self, known: Lsn | None) -> Start:
        """Return the first segment that the slot keeps; `known` is the end of what is archived."""
        assert self.slot.restart is not None
        return start_from_slot(
            self.slot.restart,
            self.timeline,
            self.histories,
            known=known,
            segment_bytes=self.look.segment_bytes,
        )

    def open(self, start: Start) -> OpenSegment:
        """Return the segment of a start, to be filled."""
        return OpenSegment(
            start.segment,
            system_identifier=self.identity.source["system_identifier"],
            before=start.before,
            pool=self.pool,
            archived=start.archived,
            pieces=start.pieces,
        )


def attach(
    store: Store,
    identity: Identity,
    control: Connection,
    sender: Connection,
    *,
    slot: str,
    pool: Executor,
    on_event: OnEvent,
) -> Attached:
    """Make ready to stream from a server: its slot is there, its timeline's history archived.

    Raises IdentityMismatch for another cluster; SourceUnreachable, PrivilegeMissing,
    DatabaseRefused when no slot is free; StoreUnusable.
    """
    server = identify(sender)
    require_same_cluster(store, identity, server.system_identifier)
    looked = look(control, slot)
    ready = _ready_slot(control, slot, looked, on_event)
    histories = keep_histories(store, sender, server.timeline)
    return Attached(store, identity, server.timeline, ready, looked, histories, pool)


def _ready_slot(control: Connection, name: str, looked: Look, on_event: OnEvent) -> Slot:
    """Return the slot; made anew when it is not there or has lost its WAL."""
    found = looked.slot
    if found is not None and found.restart is not None and not found.is_lost:
        return found
    if found is not None:
        drop_slot(control, name)
        on_event(
            Event(
                Level.ERROR,
                f"the slot {name} is lost: the server removed WAL before it was archived",
                f"max_slot_wal_keep_size is {looked.slot_limit_bytes} bytes. The slot is made anew."
                " Run 'pitr backup': what comes after the gap needs a base of its own.",
            )
        )
    try:
        return create_slot(control, name)
    except DatabaseRefused as error:
        raise SourceUnusable(
            error.message,
            detail=error.detail,
            hint="Raise max_replication_slots, or drop a slot that nobody uses.",
        ) from None


def keep_histories(
    store: Store, sender: Connection, timeline: int
) -> dict[int, tuple[HistoryEntry, ...]]:
    """Archive the history of a timeline and of its ancestors, and return them.

    Those that neither the server nor the archive has are left out, the timeline's own excepted.
    Raises CorruptObject when the archive has another history of the same timeline.
    """
    own = _keep_history(store, sender, timeline) if timeline > 1 else ()
    histories = {timeline: own}
    for entry in own:
        if entry.timeline > 1:
            try:
                histories[entry.timeline] = _keep_history(store, sender, entry.timeline)
            except DatabaseRefused:
                continue
    return histories


def _keep_history(store: Store, sender: Connection, timeline: int) -> tuple[HistoryEntry, ...]:
    key = history_key(timeline)
    _, text = timeline_history(sender, timeline)
    put_text(store, key, text)
    return parse_history(timeline, text)
