"""One uninterrupted stretch of capture: find out where the archive stands, then follow the source.

Everything that breaks the thread leaves through an exception; the next session begins as a fresh
process would.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from pitr.archive.outbox import SPOOL_BYTES_MAX, Outbox
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import ArchiveLacks, Corrupt
from pitr.sqlite.capture.capability import has_reset_bug, version_text
from pitr.sqlite.capture.difference import LiveImage, differing_pages
from pitr.sqlite.capture.handover import RESET_FRAMES, WAL_BYTES_MAX, WalFollower
from pitr.sqlite.capture.recorder import Recorder
from pitr.sqlite.capture.rollback import JournalFollower
from pitr.sqlite.capture.seen import Discontinuity, PollClock, SeenCommit
from pitr.sqlite.capture.source import Source
from pitr.sqlite.file.file_header import FileHeader, decode_file_header
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.pagemap import CurrentPages
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord
from pitr.vocabulary.event import Event, Level, OnEvent

# How often it is looked whether a checkpoint of the application waits for us, and how long it may
# wait for the store.
_TICK_SECONDS = 0.025
_AWAITED_SECONDS_MAX = 0.1


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How a capture paces itself.

    `bytes_max` is the size of an object, `spool_bytes_max` what may wait on disk while the store
    fails, `reset_frames` the size of the WAL from which on capture makes it restart. Beyond
    `wal_bytes_max` of WAL, commits of writers faster than capture are folded.
    """

    poll_seconds: float = 0.25
    flush_seconds: float = 1.0
    bytes_max: int = 32 << 20
    spool_bytes_max: int = SPOOL_BYTES_MAX
    reset_frames: int = RESET_FRAMES
    wal_bytes_max: int = WAL_BYTES_MAX


class Stopped(Exception):
    """Say that the stop was asked for while a large difference was being recorded."""


class SpoolFull(Exception):
    """Say that the store has failed for so long that the source has to be let go."""


class Session:
    """Capture from the state that the archive has, under one lease."""

    def __init__(
        self,
        store: Store,
        source: Source,
        header: FileHeader,
        outbox: Outbox,
        *,
        lease: int,
        known_until_us: int,
        options: CaptureOptions,
        on_event: OnEvent,
    ) -> None:
        """Read the archive's state and connect to the source.

        `known_until_us` is the time up to which the archive is proven to hold everything.
        """
        self._source = source
        self._outbox = outbox
        self._options = options
        self._on_event = on_event
        self._archive = PageArchive(store)
        self._is_bulk = True
        self._has_told_unsealed = False
        self._stop = threading.Event()
        self._last: CommitRecord | None = None
        self._is_lost = False
        current, entries = CurrentPages(header.page_size), 0
        begin_us = end_us = now_us()
        if self._archive.catalog.tiles:
            self._last = self._archive.last_commit()
            current, entries = self._newest_state(self._last)
            current.page_size = self._archive.page_size
            end_us = max(known_until_us, self._last.time_end_us)
            # The end of a commit's interval is when it had been seen; another one may have come
            # a moment before that and not have been seen any more.
            is_known = known_until_us > self._last.time_end_us
            begin_us = known_until_us if is_known else self._last.time_begin_us
        self._recorder = Recorder(
            self._emit,
            current,
            lease=lease,
            number=self._last.number if self._last else 0,
            end_us=self._last.time_end_us if self._last else 0,
            fork=self._last.fork if self._last else 0,
            entries_since_map=entries,
            flush_seconds=options.flush_seconds,
            bytes_max=options.bytes_max,
        )
        self._clock = PollClock(begin_us, end_us)
        self._follower = self._connect(header)

    def _newest_state(self, last: CommitRecord) -> tuple[CurrentPages, int]:
        """Return the state to go on from, and the entries since its map.

        Production is captured also where the archive has lost what that state is made of: then
        an empty one comes back, on which a base follows.
        """
        try:
            return self._archive.current_pages(), self._entries_since_map()
        except (ArchiveLacks, Corrupt) as error:
            self._tell(
                Level.WARNING,
                f"the archived state of commit:{last.number} cannot be read: a new base follows it",
                f"{error.message}. {error.detail or ''}".strip(),
            )
        self._is_lost = True
        empty = CurrentPages(self._archive.page_size)
        empty.commit, empty.chain = last.number, last.chain
        return empty, 0

    def _entries_since_map(self) -> int:
        last = self._archive.catalog.last_commit
        return sum(len(index.numbers) for index in self._archive.window(last, last).indexes)

    def _connect(self, header: FileHeader) -> WalFollower | JournalFollower:
        if not header.is_wal:
            return JournalFollower(self._source, self._clock, header.page_size)
        if has_reset_bug(header):
            self._tell(
                Level.WARNING,
                "the database was last written by a SQLite library with the WAL-reset bug",
                f"Version {version_text(header.library_version)}; mended in 3.51.3. The bug can "
                f"corrupt a database when one process writes while another one checkpoints.",
            )
        return WalFollower(
            self._source,
            self._clock,
            header.page_size,
            reset_frames=self._options.reset_frames,
            wal_bytes_max=self._options.wal_bytes_max,
        )

    # --- catching up -------------------------------------------------------------------------

    def catch_up(self, kind: CommitKind, stop: threading.Event) -> None:
        """Bring the archive to a state from which the source can be followed.

        A page difference is recorded as `kind` unless production turns out to have fallen behind
        the archive. Raises Stopped, SpoolFull, Discontinuity.
        """
        self._stop = stop
        recorder, follower, last = self._recorder, self._follower, self._last
        other_size = follower.page_size != recorder.current.page_size
        if last is None or self._is_lost or other_size:
            self._record_base(follower.image())
        elif (held := follower.holds(last.wal)) is True:
            self._tell(Level.INFO, f"goes on after commit:{last.number}")
        else:
            image = follower.image()
            is_fork = held is False or self._is_older(image, last)
            self._record_difference(CommitKind.FORK if is_fork else kind, image)
        follower.follow(recorder.current)
        recorder.flush()
        self._is_bulk = False
        self._note()

    def _record_base(self, image: LiveImage) -> None:
        self._tell(Level.INFO, f"takes a base of {image.page_count} pages")
        pages = differing_pages(image, None, lambda page: self._progress(page, image))
        record = self._recorder.base(image.state(pages), image.page_size)
        self._tell(Level.INFO, f"the base is commit:{record.number}")

    def _record_difference(self, kind: CommitKind, image: LiveImage) -> None:
        pages = differing_pages(
            image, self._recorder.current, lambda page: self._progress(page, image)
        )
        record = self._recorder.difference(kind, image.state(pages))
        if record is None:
            self._tell(Level.INFO, "the database is as the archive left it")
        elif kind is CommitKind.FORK:
            self._tell(
                Level.WARNING,
                f"production had fallen behind the archive: fork {record.fork} begins",
                f"Its first state is commit:{record.number}; what was archived before stays.",
            )
        elif kind is CommitKind.GAP:
            self._tell(
                Level.WARNING,
                f"commits were missed; the state after them is commit:{record.number}",
                "Targets between it and the commit before are not available.",
            )

    def _is_older(self, image: LiveImage, last: CommitRecord) -> bool:
        """Return whether the live file precedes what the archive holds, as a copy put back does.

        The change counter and the schema cookie of the header only ever grow.
        """
        live = decode_file_header(next(image.pages())[1])
        archived = decode_file_header(self._archive.at(last.number).page(1))
        if live is None or archived is None:
            return False
        return _precedes(live.change_counter, archived.change_counter) or _precedes(
            live.schema_cookie, archived.schema_cookie
        )

    def _progress(self, page_number: int, image: LiveImage) -> None:
        if self._stop.is_set():
            raise Stopped
        self._on_event(
            Event(Level.PROGRESS, "pages compared", done=page_number, total=image.page_count)
        )

    # --- following ---------------------------------------------------------------------------

    def follow(self, stop: threading.Event) -> None:
        """Poll until `stop` is set.

        Raises SpoolFull, Discontinuity, ArchiveHeld, SourceUnusable.
        """
        awaited_since: float | None = None
        while not self._pause(stop):
            is_awaited = self._follower.is_awaited()
            awaited_since = (awaited_since or time.monotonic()) if is_awaited else None
            if awaited_since is not None:
                self._recorder.flush()
            must_let_go = (
                awaited_since is not None
                and time.monotonic() - awaited_since > _AWAITED_SECONDS_MAX
            )
            self.poll(must_let_go=must_let_go)
            self._recorder.flush_if_due()
            self._note()
            self._outbox.check()

    def _pause(self, stop: threading.Event) -> bool:
        """Wait for the next poll, or until somebody waits for us. Return whether to stop."""
        end = time.monotonic() + self._options.poll_seconds
        tick_seconds = (
            _TICK_SECONDS if self._follower.can_be_awaited else self._options.poll_seconds
        )
        while (rest := end - time.monotonic()) > 0:
            if stop.wait(min(rest, tick_seconds)):
                return True
            if self._follower.is_awaited():
                return False
        return stop.is_set()

    def poll(self, *, must_let_go: bool = False) -> None:
        """Record what was committed since the last time.

        What was read and is not durable elsewhere is kept in the WAL, so that a kill of this
        process loses nothing; but not with `must_let_go`, when production waits for it, and not
        while the WAL is made to restart under load.
        """
        if self._source.is_replaced():
            raise Discontinuity("another file lies under the name of the database or its -shm")
        is_durable = not self._recorder.has_pending and self._outbox.is_durable
        self._follower.poll(self._record, may_let_go=must_let_go or is_durable)
        if self._follower.unsealed_frames and not self._has_told_unsealed:
            self._has_told_unsealed = True
            self._tell(
                Level.WARNING,
                "the application's SQLite has committed WAL frames without their checksum",
                "A bug of older versions, after ROLLBACK TO in a transaction larger than the "
                "page cache. A crash would lose those commits and all after them; the archive "
                "has them. Update the application's SQLite.",
            )

    def _record(self, seen: SeenCommit) -> None:
        if seen.commits > 1:
            self._tell(
                Level.WARNING,
                f"{seen.commits} commits were folded into one",
                "Writers were faster than capture for so long that their WAL grew dangerously.",
            )
        self._recorder.commit(seen)

    def finish(self) -> None:
        """Emit what is recorded, and leave the database file complete."""
        self._recorder.flush()
        self._note()
        self._follower.finish()

    def abandon(self) -> None:
        """Emit what can be emitted of a session that broke."""
        self._recorder.flush()

    def _note(self) -> None:
        if not self._recorder.has_pending:
            self._outbox.note(
                head_commit=self._recorder.number,
                current_until_us=max(self._clock.complete_until_us, self._recorder.end_us),
            )

    def _emit(self, key: str, data: bytes) -> None:
        self._outbox.put(key, data)
        if self._is_bulk:
            self._outbox.wait_for_room()
        if self._outbox.is_full:
            raise SpoolFull

    def _tell(self, level: Level, message: str, detail: str | None = None) -> None:
        self._on_event(Event(level, message, detail))


def _precedes(live: int, archived: int) -> bool:
    """Compare two counters of 32 bits that may have wrapped."""
    return (live - archived) & 0xFFFFFFFF > 0x7FFFFFFF
