"""One connection's worth of capture: from the end of the archive on, while the stream lasts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from pitr.archive.outbox import Outbox
from pitr.errors import PitrError, SourceUnreachable
from pitr.postgres.capture.alarm import LagAlarm
from pitr.postgres.capture.attach import Attached, keep_histories
from pitr.postgres.capture.open_segment import OpenSegment, Stored
from pitr.postgres.capture.progress import Progress
from pitr.postgres.capture.stream import TimelineEnd, WalBytes, WalStream
from pitr.postgres.live.connection import Connection
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.versions import WalVersion
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import Lsn

_WAIT_SECONDS = 0.1
# How long messages are taken before the rest of the work gets its turn.
_BUSY_SECONDS = 0.05
_DRAIN_SECONDS = 10.0
_PROGRAM = "pitr capture"

# From a finished segment to further objects that are made of it: its index.
OnSegment = Callable[[OpenSegment], list[tuple[str, bytes]]]
OnScan = Callable[[Scan, WalVersion], None]
# How many segments may wait for theirs, each with its bytes.
_MAKING_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """What a user may choose. `flush_seconds`: how long WAL of an open segment waits at most."""

    flush_seconds: float = 1.0
    spool_bytes_max: int = 1 << 30


class Session:
    """A capture over one pair of connections; `follow` may be called once."""

    def __init__(
        self,
        server: Attached,
        sender: Connection,
        outbox: Outbox,
        *,
        segment: OpenSegment,
        progress: Progress,
        options: CaptureOptions,
        on_event: OnEvent,
        on_segment: OnSegment,
        on_scan: OnScan,
    ) -> None:
        """Prepare to fill `segment` and those that follow it."""
        self._server = server
        self._sender = sender
        self._outbox = outbox
        self._progress = progress
        self._options = options
        self._on_event = on_event
        self._on_segment = on_segment
        self._on_scan = on_scan
        self._making: deque[tuple[OpenSegment, Future[list[tuple[str, bytes]]]]] = deque()
        self._alarm = LagAlarm(on_event)
        self._news_since: float | None = None
        self._put_until = segment.end
        self._is_held = False
        self._is_pressed = False
        self.segment = segment

    def follow(self, known: Lsn | None, should_end: Callable[[Lsn], bool]) -> None:
        """Archive WAL until `should_end` says so of the LSN that was reached.

        `known` is the end of what the archive has. Raises WalRemoved when the server no longer has
        what follows; SourceUnreachable, SlotTaken, WalDamaged, WalDiverged, CorruptWal,
        DatabaseRefused, StoreUnusable, CorruptObject.
        """
        if known is not None:
            self._put_until = known
        while True:
            name = self.segment.name
            stream = WalStream(
                self._sender,
                slot=self._server.slot.name,
                timeline=name.timeline,
                begin=Lsn(name.begin),
            )
            self._tell(Level.INFO, f"following timeline {name.timeline} from {Lsn(name.begin)}")
            end = self._stream(stream, should_end)
            if end is None:
                return
            self._change_timeline(end)

    # --- the stream --------------------------------------------------------------------------

    def _stream(self, stream: WalStream, should_end: Callable[[Lsn], bool]) -> TimelineEnd | None:
        """Take WAL until the timeline ends, or None when `should_end`."""
        while stream.end is None:
            self._outbox.check()
            if self._outbox.is_full:
                self._hold()
            else:
                self._is_held = False
                self._take_for_a_while(stream)
            is_end = should_end(self.segment.end)
            if is_end or self._is_due():
                self._emit(self.segment.flush())
            self._take_what_is_made(waiting_max=0 if is_end else _MAKING_MAX)
            self._note()
            stream.confirm(self._confirmable())
            if is_end:
                self._drain(stream)
                return None
        return stream.end

    def _take_for_a_while(self, stream: WalStream) -> None:
        busy_until = time.monotonic() + _BUSY_SECONDS
        timeout_seconds = _WAIT_SECONDS
        while time.monotonic() < busy_until:
            message = stream.receive(timeout_seconds)
            if message is None:
                return
            self._take(message)
            timeout_seconds = 0.0

    def _take(self, message: WalBytes) -> None:
        if message.begin != self.segment.end.value:
            raise SourceUnreachable(
                f"the server sent WAL from {Lsn(message.begin)}, not from {self.segment.end}",
                hint="Capture connects again and asks once more.",
            )
        rest = message.data
        while rest:
            rest = self.segment.add(rest)
            if self.segment.is_full:
                self._finish_segment()
        if self._news_since is None and self.segment.has_news:
            self._news_since = time.monotonic()

    def _finish_segment(self) -> None:
        full = self.segment
        self._emit(full.finish())
        self._making.append((full, self._server.pool.submit(self._on_segment, full)))
        self._take_what_is_made(waiting_max=_MAKING_MAX)
        self.segment = full.following()

    def _take_what_is_made(self, *, waiting_max: int) -> None:
        """Put what was made of finished segments; wait while more than so many are waited for."""
        while self._making:
            segment, future = self._making[0]
            if not future.done() and len(self._making) <= waiting_max:
                return
            self._making.popleft()
            try:
                made = future.result()
            except PitrError as error:
                self._tell(Level.WARNING, f"no index was made: {error.message}", error.detail)
                made = []
            segment.retire()
            for key, data in made:
                self._outbox.put(key, data)

    def _is_due(self) -> bool:
        since = self._news_since
        return since is not None and time.monotonic() - since >= self._options.flush_seconds

    def _emit(self, stored: Stored | None) -> None:
        self._news_since = None
        for scan in self.segment.take_scans():
            self._on_scan(scan, self.segment.version)
        if stored is not None:
            self._outbox.put(stored.key, stored.data, supersedes=stored.supersedes)
            self._put_until = max(self._put_until, stored.end)
            self._progress.put(self._put_until)
            self._note_now()

    def _note(self) -> None:
        if self._progress.put(self._put_until):
            self._note_now()

    def _note_now(self) -> None:
        self._outbox.note(
            head_commit=self._put_until.value, current_until_us=self._progress.until_us
        )

    def _hold(self) -> None:
        """Leave WAL with the server: the spool is full."""
        if not self._is_held:
            self._is_held = True
            self._tell(
                Level.WARNING,
                "the spool is full: WAL stays on the server until the store takes some",
                f"{self._outbox.spooled_bytes} bytes wait.",
            )
        time.sleep(_WAIT_SECONDS)

    def _confirmable(self) -> Lsn:
        """Return the LSN before which the server may remove WAL.

        That is what the store holds; and what the spool holds on this machine's disk once the
        server has used half of what it keeps for the slot, since beyond its limit it would remove
        WAL that nobody has.
        """
        stored = Lsn(self._outbox.stored_head)
        newest = self._progress.newest
        limit = newest.slot_limit_bytes if newest else None
        lag_bytes, lag_seconds = self._progress.lag(stored)
        self._alarm.judge(lag_bytes, lag_seconds, limit)
        slot = newest.slot if newest else None
        is_pressed = limit is not None and slot is not None and slot.kept_bytes > limit // 2
        if is_pressed and not self._is_pressed:
            self._tell(
                Level.WARNING,
                "the server may soon remove WAL: what this machine has spooled is given free there",
                f"It keeps {slot.kept_bytes if slot else 0} of at most {limit} bytes for the slot. "
                "Until the store takes it, that WAL lies in the spool alone.",
            )
        self._is_pressed = is_pressed
        return max(stored, Lsn(self._outbox.durable_head)) if is_pressed else stored

    def _drain(self, stream: WalStream) -> None:
        """Wait a while for the store, so that the server learns what it need not keep."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._outbox.stored_head < self._put_until.value and time.monotonic() < deadline:
            self._outbox.check()
            if self._outbox.spooled_bytes:
                return  # the store does not answer
            time.sleep(_BUSY_SECONDS)
            stream.confirm(self._confirmable())
        stream.confirm(self._confirmable())

    # --- breaks ------------------------------------------------------------------------------

    def _change_timeline(self, end: TimelineEnd) -> None:
        """Go on with the next timeline, in the segment in which it left this one."""
        left = self.segment
        self._emit(left.close())
        histories = keep_histories(self._server.store, self._sender, end.next_timeline)
        self._server.histories.update(histories)
        self._tell(Level.INFO, f"timeline {end.next_timeline} began at {end.switch}", "A failover.")
        self.segment = left.on_timeline(end.next_timeline, end.switch)
        self._put_until = end.switch

    def _tell(self, level: Level, message: str, detail: str | None = None) -> None:
        self._on_event(Event(level, message, detail))
