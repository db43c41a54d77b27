"""Follow a PostgreSQL cluster's WAL into an archive until told to stop.

One outbox and one lease for the whole run; a session for each connection. What breaks a connection
(network, restart, crash, failover) ends a session, and the next one goes on where it was. Nothing
in the source waits for the store; the slot keeps WAL there until the archive has it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from pitr.archive.archive import Identity
from pitr.archive.lease import acquire_when_free
from pitr.archive.outbox import Outbox
from pitr.archive.store import Store
from pitr.errors import (
    CorruptWal,
    PitrError,
    SourceUnreachable,
    SourceUnusable,
    StoreUnusable,
)
from pitr.postgres.capture.attach import Attached, attach
from pitr.postgres.capture.gap import WalGap, encode_gap
from pitr.postgres.capture.open_segment import OpenSegment, WalDamaged, WalDiverged
from pitr.postgres.capture.progress import Progress
from pitr.postgres.capture.session import CaptureOptions, OnScan, OnSegment, Session
from pitr.postgres.capture.stream import SlotTaken, WalRemoved
from pitr.postgres.capture.watch import Watch, look
from pitr.postgres.live.connection import Connection, connect, connect_replication
from pitr.postgres.live.faults import server_faults
from pitr.postgres.wal_store.object import is_same_content
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import Lsn

_PROGRAM = "pitr capture"
_FIRST_PAUSE_SECONDS = 0.25
_PAUSE_SECONDS_MAX = 30.0
_SHORT_SECONDS = 10.0
_STOP_SECONDS = 10.0
_WORKERS = 2
_ATTEMPTS_ONCE = 20
_PAUSE_SECONDS_ONCE = 0.5


class Capture:
    """The capture of one cluster into one archive."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        place: str,
        *,
        slot: str,
        spool: Path,
        on_event: OnEvent,
        options: CaptureOptions | None = None,
        on_segment: OnSegment = lambda _segment: [],
        on_scan: OnScan = lambda _scan, _version: None,
    ) -> None:
        """Prepare a capture. `spool` is a folder for what the store does not take at the moment.

        `on_segment` makes further objects of each finished segment, in a thread of its own; they
        are stored after it. `on_scan` gets what each scan found, in order; it must not wait.
        `on_event` is called from several threads.
        """
        self._store = store
        self._identity = identity
        self._place = place
        self._slot = slot
        self._spool = spool
        self._on_event = on_event
        self._on_segment = on_segment
        self._on_scan = on_scan
        self._options = options or CaptureOptions()
        self._segment: OpenSegment | None = None
        self._has_streamed = False
        self._sender_pids: set[int] = set()
        # The server has not kept what follows the archive: the next session begins with the slot.
        self._must_skip = False

    def run(self, stop: threading.Event) -> None:
        """Capture until `stop` is set; then archive what is committed, and let go.

        Raises ArchiveHeld, also when another capture takes the archive over; SourceUnusable and
        IdentityMismatch for a server that this archive is not of; what keeps it from beginning at
        all. Later a server or store that does not answer is waited for.
        """
        pause_seconds = _FIRST_PAUSE_SECONDS
        with self._writing(stop, brief=False) as outbox:
            while outbox is not None and not stop.is_set():
                began = time.monotonic()
                try:
                    self._session(outbox, stop, once=False)
                except _WORTH_A_RETRY as error:
                    if not self._has_streamed and not isinstance(error, SlotTaken):
                        raise _said(error) from None
                    self._tell_break(error)
                    outbox.report(_said(error).message)
                if time.monotonic() - began > _SHORT_SECONDS:
                    pause_seconds = _FIRST_PAUSE_SECONDS
                stop.wait(pause_seconds * random.uniform(0.5, 1.0))
                pause_seconds = min(2 * pause_seconds, _PAUSE_SECONDS_MAX)

    def once(self) -> None:
        """Archive everything that is committed now; return when the store has it.

        Raises as `run` does, and StoreUnusable when something could only be spooled.
        """
        with self._writing(threading.Event(), brief=True) as outbox:
            assert outbox is not None
            for attempt in range(1, _ATTEMPTS_ONCE + 1):
                try:
                    self._session(outbox, threading.Event(), once=True)
                    break
                except _WORTH_A_RETRY as error:
                    if attempt == _ATTEMPTS_ONCE or not self._has_streamed:
                        raise _said(error) from None
                    self._tell_break(error)
                    time.sleep(_PAUSE_SECONDS_ONCE)
        if outbox.spooled_bytes:
            raise StoreUnusable(
                f"the store at {self._store.location} did not take everything",
                detail=f"{outbox.spooled_bytes} bytes wait in the spool. {outbox.last_error}",
                hint="Run the command again when the store can be reached.",
            )

    @contextmanager
    def _writing(self, stop: threading.Event, *, brief: bool) -> Iterator[Outbox | None]:
        """Hold the archive while the block runs; None when `stop` came before it could be had."""
        outbox = Outbox(
            self._store,
            self._spool,
            self._on_event,
            bytes_max=self._options.spool_bytes_max,
            is_same=is_same_content,
        )
        try:
            if not outbox.wait_until_stored(stop):
                yield None
                return
            lease = acquire_when_free(self._store, stop, self._on_event, brief=brief)
            if lease is None:
                yield None
                return
            self._lease = lease
            self._progress = Progress(lease.state.current_until_us)
            self._use_lease(outbox, Lsn(lease.state.head_commit))
            try:
                with ThreadPoolExecutor(_WORKERS, "pitr-compress") as pool:
                    self._pool = pool
                    yield outbox
                outbox.close()
                outbox.check()
                self._tell_unstored(outbox)
            finally:
                outbox.close()
                self._release()
        finally:
            outbox.close()

    def _use_lease(self, outbox: Outbox, head: Lsn) -> None:
        outbox.use(self._lease, head_commit=head.value, current_until_us=self._progress.until_us)

    def _session(self, outbox: Outbox, stop: threading.Event, *, once: bool) -> None:
        """Stream over one pair of connections until `stop`, or to what the server has now."""
        with (
            closing(connect(self._place, program=_PROGRAM)) as control,
            closing(connect_replication(self._place, program=_PROGRAM)) as sender,
        ):
            server = attach(
                self._store,
                self._identity,
                control,
                sender,
                slot=self._slot,
                pool=self._pool,
                on_event=self._on_event,
            )
            self._free_slot(control, server)
            self._sender_pids.add(sender.info.backend_pid)
            segment, known = self._begin(server, outbox, stop)
            session = Session(
                server,
                sender,
                outbox,
                segment=segment,
                progress=self._progress,
                options=self._options,
                on_event=self._on_event,
                on_segment=self._on_segment,
                on_scan=self._on_scan,
            )
            self._progress.see(server.look)
            end = self._settled_end(control, server) if once else None
            watch = Watch(self._place, self._slot, self._progress.see)
            outbox.report(None)
            try:
                self._has_streamed = True
                session.follow(known, _Ending(self._place, self._slot, stop, end).is_reached)
                self._must_skip = False
            except WalDiverged as error:
                raise _diverged(error, self._store) from None
            except WalRemoved as error:
                if self._must_skip:
                    raise _nothing_kept(error) from None
                self._must_skip = True
                raise SourceUnreachable(
                    "the server no longer has WAL that follows what is archived",
                    detail=f"{error} Capture goes on with what the slot keeps.",
                ) from None
            finally:
                self._segment = session.segment
                watch.close()

    def _begin(
        self, server: Attached, outbox: Outbox, stop: threading.Event
    ) -> tuple[OpenSegment, Lsn | None]:
        """Return the segment to fill, and up to where its history is archived."""
        before = self._segment
        if before is not None and before.name.timeline == server.timeline and not self._must_skip:
            again = before.anew()
            return again, again.archived_end
        # What is on its way belongs to what the archive has.
        if not outbox.wait_until_stored(stop):
            raise StoreUnusable(
                "the archive cannot be read to go on from its end",
                detail="The store does not take what waits in the spool.",
            )
        start = server.start(self._on_event)
        if self._must_skip:
            start = server.start_from_slot(start.known)
        begin = Lsn(start.segment.begin)
        self._use_lease(outbox, start.known or begin)
        if start.known is not None and start.known < begin:
            self._note_gap(server, outbox, start.known, begin)
            return server.open(start), begin
        return server.open(start), start.known

    def _note_gap(self, server: Attached, outbox: Outbox, begin: Lsn, end: Lsn) -> None:
        gap = WalGap(
            timeline=server.timeline,
            begin=str(begin),
            end=str(end),
            from_us=self._progress.until_us,
            to_us=server.look.settled_us,
            reason="The server no longer had this WAL when capture asked for it.",
        )
        outbox.put(gap.key, encode_gap(gap))
        self._on_event(
            Event(
                Level.ERROR,
                f"WAL is missing: {begin} to {end} of timeline {server.timeline}",
                "The server no longer has it. Run 'pitr backup': what comes after the gap needs a "
                "base of its own.",
            )
        )

    def _settled_end(self, control: Connection, server: Attached) -> Lsn:
        """Return an LSN that covers all commits of before this call, asynchronous ones too."""
        time.sleep(server.look.unsettled_us / 1_000_000)
        second = look(control, server.slot.name)
        self._progress.see(second)
        return second.flushed

    def _free_slot(self, control: Connection, server: Attached) -> None:
        """End the WAL sender of a connection of ours that broke, if the server has not noticed.

        Nobody else's: another capture may use the slot by mistake, and must not be fought with.
        """
        pid = server.slot.active_pid
        if pid in self._sender_pids:
            with server_faults("cannot end the WAL sender of a broken connection"):
                control.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])

    def _tell_break(self, error: Exception) -> None:
        said = _said(error)
        detail = f"{said.detail or ''} Capture tries again.".strip()
        self._on_event(Event(Level.WARNING, said.message, detail))

    def _tell_unstored(self, outbox: Outbox) -> None:
        if outbox.spooled_bytes:
            self._on_event(
                Event(
                    Level.WARNING,
                    f"the store at {self._store.location} did not take everything",
                    f"{outbox.spooled_bytes} bytes wait in the spool. {outbox.last_error} "
                    "The next capture delivers them first.",
                )
            )

    def _release(self) -> None:
        """Give the archive free; a lease that cannot be written now is seen to be dead later."""
        try:
            self._lease.release()
        except StoreUnusable as error:
            self._on_event(Event(Level.WARNING, error.message, error.detail))


class _Ending:
    """When a session is to end: at an LSN, or once `stop` is set at what the server has then."""

    def __init__(self, place: str, slot: str, stop: threading.Event, end: Lsn | None) -> None:
        self._place = place
        self._slot = slot
        self._stop = stop
        self._end = end
        self._deadline: float | None = None

    def is_reached(self, reached: Lsn) -> bool:
        if self._end is None:
            if not self._stop.is_set():
                return False
            self._deadline = time.monotonic() + _STOP_SECONDS
            self._end = self._newest() or reached
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        return reached >= self._end or is_late

    def _newest(self) -> Lsn | None:
        try:
            with closing(connect(self._place, program=_PROGRAM)) as control:
                return look(control, self._slot).flushed
        except PitrError:
            return None


def _said(error: Exception) -> PitrError:
    """Return the error that tells a user of a break."""
    if isinstance(error, PitrError):
        return error
    if isinstance(error, WalDamaged):
        return CorruptWal(
            f"the server sent damaged WAL: at {error.at}, {error.meaning}",
            detail="It is not archived, and fetched again. The slot keeps it on the server.",
            hint="If it stays damaged, check the server's disk, then run 'pitr backup'.",
        )
    return SourceUnusable(
        "another process streams from the slot",
        detail=str(error),
        hint="Stop it; every archive has a slot of its own.",
    )


def _nothing_kept(error: WalRemoved) -> SourceUnusable:
    return SourceUnusable(
        "the server does not have the WAL that its slot is to keep",
        detail=str(error),
        hint="Drop the slot with 'pitr detach --yes', then run 'pitr capture' and 'pitr backup'.",
    )


def _diverged(error: WalDiverged, store: Store) -> CorruptWal:
    return CorruptWal(
        f"the server has other WAL than the archive: {error.begin} to {error.end}",
        detail=f"The archive at {store.location} has other bytes there. The server was restored "
        "from an older copy, or it is another one that was promoted.",
        hint="Begin a new archive with 'pitr init', then run 'pitr backup'.",
    )


_WORTH_A_RETRY = (SourceUnreachable, StoreUnusable, SlotTaken, WalDamaged)
