"""Bring the packs of a base backup into the store, beside the reading, and no faster than it takes.

A store that fails is asked again with growing pauses; one that takes nothing for `PATIENCE_SECONDS`
ends the backup. Until then the server waits for us: it keeps the WAL since the start and writes
full pages meanwhile, which must not go on for ever.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from pitr.archive.store import ObjectExists, Store
from pitr.errors import StoreUnusable
from pitr.postgres.base.object import encode_pack
from pitr.vocabulary.event import Event, Level, OnEvent

PATIENCE_SECONDS = 300.0
_UPLOADS = 2
_FIRST_PAUSE_SECONDS = 0.25
_PAUSE_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True)
class FullPack:
    """A pack that is ready: its frames, digests and lengths, and what to do with its key."""

    frames: list[bytes]
    digests: bytes
    lengths: array[int]
    on_stored: Callable[[str], None]


class Uploader:
    """Threads that store packs. `put`, `finish` and `close` are for one thread."""

    def __init__(
        self, store: Store, on_event: OnEvent, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Start the threads; they end with `close`, or with the process."""
        self._store = store
        self._on_event = on_event
        self._patience = patience_seconds
        # As many packs wait as are on their way: that bounds the memory.
        self._waiting: queue.Queue[FullPack | None] = queue.Queue(_UPLOADS)
        self._changed = threading.Condition()
        self._unstored = 0
        self._is_closing = threading.Event()
        self._last_success = time.monotonic()
        self._last_fault: StoreUnusable | None = None
        self._fatal: BaseException | None = None
        # Daemons: a request that never returns must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._run, name=f"pitr-upload-{number}", daemon=True)
            for number in range(_UPLOADS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def bytes_stored(self) -> int:
        """Return the bytes of the packs that are stored and were not there before."""
        return self._bytes_stored

    _bytes_stored = 0

    def put(self, pack: FullPack) -> None:
        """Hand over a pack, waiting while the store is behind. Raises StoreUnusable."""
        if not self._unstored:
            self._last_success = time.monotonic()  # an idle store is not a slow one
        with self._changed:
            self._unstored += 1
        while True:
            self._check()
            with contextlib.suppress(queue.Full):
                self._waiting.put(pack, timeout=0.5)
                return

    def finish(self) -> None:
        """Wait until all packs are stored. Raises StoreUnusable."""
        while True:
            with self._changed:
                if not self._unstored:
                    return
                self._check()
                self._changed.wait(0.5)

    def close(self) -> None:
        """End the threads; what they are storing may or may not get there."""
        self._is_closing.set()
        for _ in self._threads:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
        for thread in self._threads:
            thread.join(timeout=1.0)

    def store_last(self, key: str, data: bytes) -> None:
        """Store one more object as the packs were, in this thread. Raises StoreUnusable."""
        self._last_success = time.monotonic()
        self._deliver(key, data)

    def _check(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        silent = time.monotonic() - self._last_success
        if self._unstored and silent > self._patience:
            raise self._too_slow(silent)

    def _run(self) -> None:
        while not self._is_closing.is_set():
            try:
                pack = self._waiting.get(timeout=0.5)
            except queue.Empty:
                continue
            if pack is None:
                return
            try:
                key, data = encode_pack(pack.frames, pack.digests, pack.lengths)
                self._deliver(key, data)
            except BaseException as error:  # raised in the thread that hands over
                self._fatal = error
                return
            pack.on_stored(key)
            with self._changed:
                self._unstored -= 1
                self._changed.notify_all()

    def _deliver(self, key: str, data: bytes) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._store.put_new(key, data)
                with self._changed:
                    self._bytes_stored += len(data)
            except ObjectExists:
                pass  # the key is made of the bytes: an attempt before this one stored them
            except StoreUnusable as fault:
                self._note(fault)
                silent = time.monotonic() - self._last_success
                if silent > self._patience:
                    raise self._too_slow(silent) from None
                if self._is_closing.wait(min(pause, self._patience) * random.uniform(0.8, 1.2)):
                    raise
                pause = min(2 * pause, _PAUSE_SECONDS_MAX)
                continue
            self._last_success = time.monotonic()
            self._note(None)
            return

    def _note(self, fault: StoreUnusable | None) -> None:
        """Tell the first failure, and that it is over."""
        with self._changed:
            before, self._last_fault = self._last_fault, fault
        if fault is not None and before is None:
            self._on_event(Event(Level.WARNING, f"{fault.message}; trying again", fault.detail))
        elif fault is None and before is not None:
            self._on_event(Event(Level.INFO, "the store works again"))

    def _too_slow(self, silent: float) -> StoreUnusable:
        last = self._last_fault
        return StoreUnusable(
            f"the backup was given up: the archive took nothing for {silent:.0f} s",
            detail=last.detail if last else f"Packs wait for {self._store.location}.",
            hint="Mend the store and run 'pitr backup' again: what is stored is not sent twice.",
        )
