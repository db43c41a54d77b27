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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import apsw

from pitr.errors import ArchiveLacks, Corrupt, PreconditionFailed, SourceUnusable, StoreUnusable
from pitr.sqlite.capture.live import is_current
from pitr.sqlite.capture.source import Source
from pitr.sqlite.diff.span import Span
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.sqlite.past.live_reading import LOCK_SECONDS_MAX, LiveAccess, LiveUnreadable, live_access
from pitr.sqlite.past.replay import attach, connect, open_past, past_pages, past_uri
from pitr.sqlite.statement.faults import sqlite_faults
from pitr.sqlite.wal.index import WalIndex

BEFORE, AFTER, LIVE = "before", "after", "main"
_BUSY_MILLISECONDS = 500
_CACHE_KIB = 8_000  # of each database: what a sort may hold before it goes to a file
_ATTEMPTS = 200
_PAUSE_SECONDS = 0.05
_PAGES_A_STEP = 256
_ARCHIVE_FAULTS = (ArchiveLacks, Corrupt, StoreUnusable)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSources:
    """Where the states are. `tables` are their names in the sidecar.

    `before_commit` is the commit that the sidecar was restored at, `has_condition` whether only
    some rows were. `columns` has, by table, those that alone are to be compared and set back; all
    of them where it has nothing. Without `archive` nothing is known of what happened in between,
    and there is no `after_commit`.
    """

    live: Path
    sidecar: Path
    tables: tuple[str, ...]
    before_commit: int
    after_commit: int | None = None
    has_condition: bool = False
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    archive: PageArchive | None = None


class States:
    """The states, open. `live_commit` is the archived commit proven equal to live, if any."""

    def __init__(
        self,
        sources: StateSources,
        connection: apsw.Connection,
        live_commit: int | None,
        pasts: Mapping[str, apsw.Connection],
    ) -> None:
        self.sources = sources
        self.connection = connection
        self.live_commit = live_commit
        self._pasts = pasts
        self._attached = 0
        self.has_ended = False

    def end(self) -> None:
        """End the read transaction: from here on `main` may be another state."""
        self.connection.execute("COMMIT")
        self.has_ended = True

    @property
    def after(self) -> str | None:
        """Return the schema name of the state after the damage, None when it is not known."""
        return None if self.sources.after_commit is None else AFTER

    @cached_property
    def span(self) -> Span | None:
        """Return the archived commits from before to live, or as near to live as is archived.

        None when the archive does not hold them.
        """
        archive, first = self.sources.archive, self.sources.before_commit
        if archive is None:
            return None
        try:
            last = self.live_commit or archive.last_commit().number
            return Span(archive, first, max(first, last))
        except _ARCHIVE_FAULTS:
            return None

    @contextmanager
    def attached_past(self, number: int) -> Iterator[str]:
        """Attach one more archived state; yield its schema name."""
        archive = self.sources.archive
        assert archive is not None, "asked only of states in the archive"
        self._attached += 1
        schema = f"pitr_past_{self._attached}"
        with open_past(archive.at(number)) as past:
            self.connection.execute(f"ATTACH ? AS {schema}", (past_uri(past),))
            try:
                yield schema
            finally:
                with suppress(apsw.SQLError):  # inside a transaction it stays until the end
                    self.connection.execute(f"DETACH {schema}")

    def expect(self, schema: str, root_page: int) -> None:
        """Announce that all rows of a b-tree of a state will be read, so that pages come in runs.

        Does nothing for a state that does not come out of the archive.
        """
        past = self._pasts.get(schema)
        if past is not None and root_page:
            pages = past_pages(past)
            pages.expect(Snapshot(pages.source).row_pages(root_page))


@contextmanager
def open_states(
    sources: StateSources, *, wait_seconds: float = 2.0, writable: bool = False
) -> Iterator[States]:
    """Open the states for reading, in one read transaction of the live database.

    With `writable` the live database itself is opened to be written and the caller begins the
    transaction; then `live_commit` is not known. `wait_seconds` is how long to wait for the archive
    to catch up with live: give 0 when nothing captures. Raises SourceUnusable, PreconditionFailed,
    and what reading the archive raises.
    """
    with ExitStack() as stack:
        opening = _Opening(stack, sources, wait_seconds)
        with sqlite_faults(f"cannot read the live database {sources.live}"):
            try:
                states = opening.for_writing() if writable else opening.for_reading()
            except LiveUnreadable as reason:
                raise _unreadable(sources.live, str(reason)) from reason
        yield states


class _Opening:
    """Opens the databases, in an order in which the stack may close them again."""

    def __init__(self, stack: ExitStack, sources: StateSources, wait_seconds: float) -> None:
        self._stack = stack
        self._sources = sources
        self._archive = sources.archive
        self._path = sources.live.absolute()
        self._deadline = time.monotonic() + wait_seconds
        self._pasts: dict[str, apsw.Connection] = {}

    def for_writing(self) -> States:
        connection = self._connect(self._live_uri("mode=rw"), writable=True)
        connection.wal_autocheckpoint(0)
        return self._states(connection, None)

    def for_reading(self) -> States:
        access = live_access(self._path)
        if access.is_bounded:
            return self._rollback_journal()
        if access.unchanged is not None:
            self._stack.callback(self._check_unchanged, access)
            return self._begun(self._live_uri(access.parameters), None)
        source = Source(self._path)
        self._stack.callback(source.close)
        states = self._states(self._connect(self._live_uri(access.parameters)), None)
        position = _begin_at_known_place(states.connection, source)
        if self._sources.after_commit is not None:
            self._deadline = 0.0  # what the damage left tells which rows to look at: live need not
        states.live_commit = self._commit_at(position) if position else None
        return states

    def _rollback_journal(self) -> States:
        number = self._current_commit()
        if number is not None and self._archive is not None:
            past = self._stack.enter_context(open_past(self._archive.at(number)))
            self._pasts[LIVE] = past
            return self._begun(past_uri(past), number)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pitr-")))
        copy = _copied(self._live_uri("mode=ro"), folder / "live.db", self._path)
        return self._begun(copy.as_uri(), None)

    def _begun(self, uri: str, live_commit: int | None) -> States:
        states = self._states(self._connect(uri), live_commit)
        _begin(states.connection)
        return states

    def _states(self, connection: apsw.Connection, live_commit: int | None) -> States:
        return States(self._sources, connection, live_commit, self._pasts)

    def _live_uri(self, parameters: str) -> str:
        return f"{self._path.as_uri()}?{parameters}"

    def _connect(self, uri: str, *, writable: bool = False) -> apsw.Connection:
        """Open `main` and attach the other states, all of them read-only."""
        after = None
        if self._archive is not None and self._sources.after_commit is not None:
            pages = self._archive.at(self._sources.after_commit)
            after = self._pasts[AFTER] = self._stack.enter_context(open_past(pages))
        connection = connect(uri, writable_others=writable)
        self._stack.callback(connection.close, True)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.pragma("temp_store", 1)
        attach(connection, self._sources.sidecar, BEFORE, writable=False)
        if after is not None:
            connection.execute(f"ATTACH ? AS {AFTER}", (past_uri(after),))
        for schema in (LIVE, "temp"):  # what a sort may hold goes by the size of main's cache
            connection.pragma("cache_size", -_CACHE_KIB, schema=schema)
        return connection

    def _check_unchanged(self, access: LiveAccess) -> None:
        if not access.is_valid(self._path):
            raise _unreadable(self._path, "It was changed while it was read.")

    # --- which archived commit live is ------------------------------------------------------------

    def _current_commit(self) -> int | None:
        """Return the newest archived commit once it is proven to be what live is."""
        while self._archive is not None:
            try:
                newest = self._archive.last_commit()
                if is_current(self._path, newest):
                    return newest.number
            except (*_ARCHIVE_FAULTS, SourceUnusable):
                return None
            if not self._waited():
                return None
        return None

    def _commit_at(self, position: WalIndex) -> int | None:
        """Return the archived commit that left the WAL at a place, waiting until it is archived.

        The archive was listed before the place was read, so that the commit is not older than the
        newest one that was known then; there may be thousands of newer ones by the time it comes.
        """
        known = 0
        while self._archive is not None:
            try:
                known = known or self._archive.last_commit().number
                found = _find_commit(self._archive, position, known)
            except _ARCHIVE_FAULTS:
                return None
            if found is not None:
                return found
            if not self._waited():
                return None
        return None

    def _waited(self) -> bool:
        """Let the archive grow; return False when the time is over."""
        if self._archive is None or time.monotonic() >= self._deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
        self._archive.refresh()
        return True


def _begin(connection: apsw.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM main.sqlite_schema").fetchall()


def _begin_at_known_place(connection: apsw.Connection, source: Source) -> WalIndex | None:
    """Begin the read transaction, and return the place in the WAL that it sees.

    None when that could not be made out, because writers left no moment between two commits.
    """
    _begin(connection)
    for _ in range(_ATTEMPTS):
        connection.execute("ROLLBACK")
        place = source.index()
        _begin(connection)
        # While this connection is open nobody puts another -shm file in the place of this one.
        if place is not None and place == source.index() and not source.is_replaced():
            return place
    return None


def _find_commit(archive: PageArchive, position: WalIndex, first: int) -> int | None:
    """Return the commit that left the WAL at a place, of those from `first` on."""
    newest = archive.last_commit()
    mark = newest.wal
    if mark and (mark.salt1, mark.salt2) == position.salts and mark.frame < position.max_frame:
        return None  # the archive is behind
    found = (record for record in archive.commits(first) if _is_at(record, position))
    return next((record.number for record in found), None)


def _is_at(record: CommitRecord, position: WalIndex) -> bool:
    mark = record.wal
    if mark is None or not position.max_frame:
        return False
    same_place = (mark.salt1, mark.salt2, mark.frame) == (*position.salts, position.max_frame)
    same_sum = (mark.checksum1, mark.checksum2) == (position.checksum1, position.checksum2)
    return same_place and same_sum


def _copied(live_uri: str, path: Path, live: Path) -> Path:
    """Copy a database in rollback-journal mode within the time for which it may be locked."""
    with (
        closing(connect(live_uri, writable_others=False)) as source,
        closing(apsw.Connection(str(path))) as copy,
    ):
        copy.pragma("journal_mode", "off")
        copy.pragma("synchronous", 0)
        source.set_busy_timeout(_BUSY_MILLISECONDS)
        _begin(source)
        deadline = time.monotonic() + LOCK_SECONDS_MAX
        with copy.backup("main", source, "main") as backup:
            while not backup.step(_PAGES_A_STEP):
                if time.monotonic() > deadline:
                    raise _too_large(live)
    return path


def _too_large(live: Path) -> PreconditionFailed:
    return PreconditionFailed(
        f"cannot read the live database {live}",
        detail="It is in rollback-journal mode, where reading holds up writers, and the archive is "
        f"behind; {LOCK_SECONDS_MAX * 1000:.0f} ms were not enough to copy it.",
        hint="Run 'pitr capture --once', then this command again: the archive is read instead.",
    )


def _unreadable(live: Path, detail: str) -> SourceUnusable:
    return SourceUnusable(
        f"cannot read the live database {live}",
        detail=detail,
        hint="Run the command again; 'pitr check' says what is amiss.",
    )
