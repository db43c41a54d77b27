"""Follow a live SQLite database into an archive until told to stop.

A capture is a row of sessions, nearly always one. Each has an outbox and a lease of its own and
begins as a fresh process would: deliver what is left in the spool, take the lease, compare the
live state with the archive. Nothing in the source ever waits for the store.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from pitr.archive.lease import Lease, acquire_when_free
from pitr.archive.outbox import Outbox
from pitr.archive.store import Store
from pitr.errors import SourceUnusable, StoreUnusable
from pitr.sqlite.capture.seen import Discontinuity
from pitr.sqlite.capture.session import CaptureOptions, Session, SpoolFull, Stopped
from pitr.sqlite.capture.source import Source
from pitr.sqlite.file.file_header import FileHeader
from pitr.sqlite.pagelog.segment import CommitKind
from pitr.vocabulary.event import Event, Level, OnEvent

_SHORT_SECONDS = 10.0
_PAUSE_SECONDS_MAX = 30.0
_ATTEMPTS_ONCE = 3


class Capture:
    """The capture of one database file into one archive."""

    def __init__(
        self,
        store: Store,
        path: Path,
        *,
        spool: Path,
        on_event: OnEvent,
        options: CaptureOptions | None = None,
    ) -> None:
        """Prepare a capture. `spool` is a folder for what the store does not take at the moment.

        `on_event` is called from capture's thread and from the outbox's.
        """
        self._store = store
        self._path = path
        self._spool = spool
        self._on_event = on_event
        self._options = options or CaptureOptions()
        self._lease: Lease | None = None

    def run(self, stop: threading.Event) -> None:
        """Capture until `stop` is set; then archive what is committed, and let go.

        Raises SourceUnusable; ArchiveHeld, also when another capture takes the archive over;
        StoreUnusable when capture cannot even begin.
        """
        kind: CommitKind | None = CommitKind.GAP
        pause_seconds = self._options.poll_seconds
        try:
            while kind is not None and not stop.is_set():
                began = time.monotonic()
                try:
                    kind = self._session(kind, stop, once=False)
                except StoreUnusable as error:
                    if self._lease is None:
                        raise
                    self._tell(Level.ERROR, error.message, error.detail)
                # Whatever ends one session after the other at once must not keep a core busy.
                is_short = time.monotonic() - began < _SHORT_SECONDS
                pause_seconds = 2 * pause_seconds if is_short else self._options.poll_seconds
                pause_seconds = min(pause_seconds, _PAUSE_SECONDS_MAX)
                if kind is not None:
                    stop.wait(pause_seconds * random.uniform(0.5, 1.0))
        finally:
            self._release()

    def once(self) -> None:
        """Archive everything that is committed now; return when the store has it.

        Raises as `run` does, and StoreUnusable when something could only be spooled.
        """
        kind = CommitKind.GAP
        try:
            for _ in range(_ATTEMPTS_ONCE):
                following = self._session(kind, threading.Event(), once=True)
                if following is None:
                    return
                kind = following
        finally:
            self._release()
        raise SourceUnusable(
            f"the database does not keep still: {self._path}",
            detail=f"Its file or its journal mode changed {_ATTEMPTS_ONCE} times in a row.",
            hint="Run the command again.",
        )

    def _session(self, kind: CommitKind, stop: threading.Event, *, once: bool) -> CommitKind | None:
        """Run one session; return how the next one is to call its difference, None to end."""
        outbox = Outbox(
            self._store, self._spool, self._on_event, bytes_max=self._options.spool_bytes_max
        )
        try:
            if not outbox.wait_until_stored(stop):
                return None
            source = Source(self._path)
            try:
                return self._capture(source, outbox, kind, stop, once=once)
            finally:
                source.close()
        finally:
            outbox.close()

    def _capture(
        self,
        source: Source,
        outbox: Outbox,
        kind: CommitKind,
        stop: threading.Event,
        *,
        once: bool,
    ) -> CommitKind | None:
        session: Session | None = None
        try:
            header = self._await_header(source, stop, once=once)
            if header is None:
                return None
            session = self._begin(source, header, outbox, stop, once=once)
            session.catch_up(kind, stop)
            if not once:
                session.follow(stop)
            session.poll()
            session.finish()
        except Discontinuity as found:
            source.close()
            if session is not None:
                session.abandon()
            self._tell(Level.WARNING, "capture begins anew", f"{found.reason}.")
            return CommitKind.COMMIT if found.is_coarse else CommitKind.GAP
        except SpoolFull:
            source.close()
            self._tell(
                Level.ERROR,
                "the spool is full: commits are no longer captured",
                f"{outbox.spooled_bytes} bytes wait for the store. When it takes them, capture "
                f"goes on with the state as it is then, as one gap.",
            )
            return CommitKind.GAP
        except Stopped:
            return None
        # The connections are closed last: while they are open nobody removes the WAL.
        outbox.close()
        outbox.check()
        if outbox.spooled_bytes:
            self._tell_unstored(outbox, once=once)
        self._release()
        return None

    def _tell_unstored(self, outbox: Outbox, *, once: bool) -> None:
        message = f"the store at {self._store.location} did not take everything"
        detail = f"{outbox.spooled_bytes} bytes wait in the spool. {outbox.last_error}"
        if once:
            hint = "Run the command again when the store can be reached."
            raise StoreUnusable(message, detail=detail, hint=hint)
        self._tell(Level.WARNING, message, f"{detail} The next capture delivers them first.")

    def _await_header(
        self, source: Source, stop: threading.Event, *, once: bool
    ) -> FileHeader | None:
        """Return the database header, waiting for it while the file is still empty."""
        header = source.header()
        if header is None:
            self._tell(Level.INFO, "the database file is empty; nothing is there to capture yet")
        while header is None and not once and not stop.wait(self._options.poll_seconds):
            if source.is_replaced():
                raise Discontinuity("another file lies under the name of the database")
            header = source.header()
        return header

    def _begin(
        self,
        source: Source,
        header: FileHeader,
        outbox: Outbox,
        stop: threading.Event,
        *,
        once: bool,
    ) -> Session:
        # A session that broke may have left half of a large commit behind. Under a new lease the
        # next one can write that commit's number again.
        if self._lease is not None:
            self._lease.release()
        self._lease = acquire_when_free(self._store, stop, self._on_event, brief=once)
        if self._lease is None:
            raise Stopped
        state = self._lease.state
        outbox.use(
            self._lease, head_commit=state.head_commit, current_until_us=state.current_until_us
        )
        return Session(
            self._store,
            source,
            header,
            outbox,
            lease=self._lease.epoch,
            known_until_us=state.current_until_us,
            options=self._options,
            on_event=self._on_event,
        )

    def _release(self) -> None:
        """Give the archive free; a lease that cannot be written now is seen to be dead later."""
        if self._lease is not None:
            try:
                self._lease.release()
            except StoreUnusable as error:
                self._tell(Level.WARNING, error.message, error.detail)
            self._lease = None

    def _tell(self, level: Level, message: str, detail: str | None = None) -> None:
        self._on_event(Event(level, message, detail))
