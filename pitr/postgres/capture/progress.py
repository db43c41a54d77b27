"""What is proven of an archive: from looks at the server, and how far its WAL was stored.

No I/O. A look says that all commits before a time lie before an LSN; once the archive has the WAL
up to there, it is proven current until that time.
"""

from __future__ import annotations

import threading
from collections import deque

from pitr.postgres.capture.watch import Look
from pitr.vocabulary.position import Lsn

# One look a second: a store that is out for longer is behind by hours, and the alarm has told.
_LOOKS_MAX = 10_000


class Progress:
    """How far a capture has come. `see` may be called from another thread."""

    def __init__(self, until_us: int) -> None:
        """Begin with the time up to which the archive was proven current before."""
        self._lock = threading.Lock()
        self._unput: deque[Look] = deque(maxlen=_LOOKS_MAX)
        self._unstored: deque[Look] = deque(maxlen=_LOOKS_MAX)
        # The proof of before may be old: a killed capture noted it up to a minute ago. What was not
        # stored before this run began is no lag of this run.
        self._stored_us = 0
        self.until_us = until_us
        self.newest: Look | None = None

    def see(self, look: Look) -> None:
        """Take what a look found."""
        with self._lock:
            self.newest = look
            self._stored_us = self._stored_us or look.settled_us
            self._unput.append(look)
            self._unstored.append(look)

    def put(self, end: Lsn) -> bool:
        """Note that WAL before `end` is with the outbox; return whether `until_us` moved."""
        with self._lock:
            before = self.until_us
            while self._unput and self._unput[0].flushed <= end:
                self.until_us = max(self.until_us, self._unput.popleft().settled_us)
            return self.until_us > before

    def lag(self, stored: Lsn) -> tuple[int, float]:
        """Return how many bytes, and seconds of this run, the store is behind the server."""
        with self._lock:
            while self._unstored and self._unstored[0].flushed <= stored:
                self._stored_us = max(self._stored_us, self._unstored.popleft().settled_us)
            if self.newest is None or not self._unstored:
                return 0, 0.0
            behind = max(0, self.newest.flushed.value - stored.value)
            return behind, max(0, self.newest.settled_us - self._stored_us) / 1_000_000
