"""The three states of a repair side by side on one connection: before, after, live.

    main     C, live, in one read transaction
    before   B, the sidecar
    after    D, the state after the damage, out of the archive; absent when it is not known

Live is read where it costs writers nothing:

| the live database                          | `main` is                                           |
| ------------------------------------------ | --------------------------------------------------- |
| WAL                                        | itself: a reader never blocks a writer              |
| rollback journal, archive proven current   | the archive's newest state: the same, and no lock   |
| rollback journal, archive behind           | a copy, made under a SHARED lock of at most 50 ms   |
| WAL, with nobody connected and empty       | itself, immutable; looked at again at the end       |

Which archived commit a WAL snapshot is follows from the wal-index, read before the snapshot is
taken and again after: when nothing was committed in between, the snapshot is that commit. SQLite's
locks are lost when any descriptor of `-shm` or the database is closed in this process, so `Source`
opens both before the connection and closes them after it. For the same reason this must not run
in a process that has other connections to the database open.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import apsw

from pitr.errors import ArchiveLacks, Corrupt, PreconditionFailed, SourceUnusable
from pitr.sqlite.faults import sqlite_faults
from pitr.sqlite.history import PageArchive
from pitr.sqlite.live import is_current
from pitr.sqlite.live_reading import LOCK_SECONDS_MAX, LiveAccess, LiveUnreadable, live_access
from pitr.sqlite.replay import attach, connect, open_past, past_uri
from pitr.sqlite.segment import CommitRecord
from pitr.sqlite.source import Source
from pitr.sqlite.span import Span
from pitr.sqlite.wal.index import WalIndex

BEFORE, AFTER, LIVE = "before", "after", "main"
_BUSY_MILLISECONDS = 500
_CACHE_KIB = 16_000  # of each database: what a sort may hold before it goes to a file
_ATTEMPTS = 200
_PAUSE_SECONDS = 0.05
_PAGES_A_STEP = 256
_COMMITS_LOOKED_BACK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSources:
    """Where the states are. `tables` are their names in the sidecar.

    `before_commit` is the commit that the sidecar was restored at, `has_condition` whether only
    some rows were. Without `archive` nothing is known of what happened in between, and there is no
    `after_commit`.
    """

    live: Path
    sidecar: Path
    tables: tuple[str, ...]
    before_commit: int
    after_commit: int | None = None
    has_condition: bool = False
    archive: PageArchive | None = None


class States:
    """The states, open. `live_commit` is the archived commit proven equal to live, if any."""

    def __init__(
        self,
        sources: StateSources,
        connection: apsw.Connection,
        live_commit: int | None,
    ) -> None:
        self.sources = sources
        self.connection = connection
        self.live_commit = live_commit

    @property
    def after(self) -> str | None:
        """Return the schema name of the state after the damage, None when it is not known."""
        return None if self.sources.after_commit is None else AFTER

    @cached_property
    def span(self) -> Span | None:
        """Return the archived commits from before to live, or as near to it as is archived.

        None when the archive does not hold them.
        """
        archive, first = self.sources.archive, self.sources.before_commit
        if archive is None:
            return None
        try:
            last = self.live_commit or archive.last_commit().number
            return Span(archive, first, max(first, last))
        except (ArchiveLacks, Corrupt):
            return None


@contextmanager
def open_states(
    sources: StateSources, *, wait_seconds: float = 2.0, writable: bool = False
) -> Iterator[States]:
    """Open the states for reading, in one read transaction of the live database.

    With `writable` the live database can be written, and the caller begins the transaction; then
    `live_commit` is not known. `wait_seconds` is how long to wait for the archive to catch up with
    live: give 0 when nothing captures. Raises SourceUnusable, PreconditionFailed, and what reading
    the archive raises.
    """
    with ExitStack() as stack, sqlite_faults("cannot compare with the live database"):
        if writable:
            connection, live_commit = _open_for_writing(stack, sources.live), None
        else:
            connection, live_commit = _open_for_reading(stack, sources, wait_seconds)
        yield States(sources, connection, live_commit)


def _open_for_writing(stack: ExitStack, live: Path) -> apsw.Connection:
    raise NotImplementedError
