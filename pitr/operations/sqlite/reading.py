"""Open an archive for the verbs that only read it: log, when, sql, restore, status, verify.

They work from the archive alone. Only when the source happens to be at hand is it asked one
thing, whether anything was committed since the last archived commit: if not, the archive is
proven current up to now, and not just up to what capture noted last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pitr.archive.archive import Identity, open_archive, read_mark
from pitr.archive.lease import LeaseState, read_newest_lease
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import CorruptObject, SourceUnusable, UsageError
from pitr.operations.opening import open_archive_store
from pitr.sqlite.capture.live import is_current
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.past.target import ResolvedCommit, Resolver
from pitr.target_text import parse_target
from pitr.vocabulary.target import Window


@dataclass(frozen=True, slots=True)
class Reading:
    """One archive, open for reading, and what is known about its end.

    `lease_fault` says why there is no lease to be read: without one everything that is archived
    can still be gone back to, only the end of the window is not known as well.
    """

    store: Store
    identity: Identity
    pages: PageArchive
    lease: LeaseState | None
    lease_fault: CorruptObject | None
    live: Path | None
    now_us: int

    def resolver(self) -> Resolver:
        """Return the resolver of targets. Raises OutsideWindow when nothing is archived yet."""
        self.pages.last_commit()
        return Resolver(
            self.pages,
            window_to_us=self.current_until_us(),
            now_us=self.now_us,
            find_mark=partial(read_mark, self.store),
        )

    def resolve(self, target_text: str) -> ResolvedCommit:
        """Return the commit that a target's text means; see Resolver.resolve for the errors."""
        resolver = self.resolver()
        return resolver.resolve(parse_target(target_text, now_us=self.now_us))

    def window(self) -> Window | None:
        """Return the recoverable window, None when nothing is archived yet."""
        return self.resolver().window if self.pages.catalog.tiles else None

    def current_until_us(self) -> int:
        """Return the moment up to which the archive is proven to hold everything."""
        if self.is_current():
            return self.now_us
        return self.lease.current_until_us if self.lease else 0

    def is_current(self) -> bool:
        """Return whether the live database is proven to be what was archived last."""
        if self.live is None or not self.pages.catalog.tiles:
            return False
        proven_us = self.lease.current_until_us if self.lease else 0
        try:
            return is_current(self.live, self.pages.last_commit(), proven_us=proven_us)
        except SourceUnusable:
            return False


def open_reading(settings: Settings) -> Reading:
    """Open the archive of the settings, and its source when that is a file at hand.

    Raises NotConfigured, StoreUnusable, PreconditionFailed for an archive of a later format.
    """
    store = open_archive_store(settings)
    identity = open_archive(store)
    now = now_us()
    lease, fault = None, None
    try:
        lease = read_newest_lease(store)
    except CorruptObject as error:
        fault = error
    pages, live = PageArchive(store), live_path(settings, identity)
    return Reading(store, identity, pages, lease, fault, live, now)


def refuse_database(name: str | None) -> None:
    """Raise UsageError for a database that was named: a SQLite source is one."""
    if name is not None:
        raise UsageError(
            f"there is no database {name} to choose",
            detail="The archive is of a SQLite file, which is one database.",
            hint="Leave --database out.",
        )


def live_path(settings: Settings, identity: Identity) -> Path | None:
    """Return the live database of an archive when it can be found on this machine."""
    path = Path(identity.source["path"])
    if settings.source is not None and settings.source.location != str(path):
        return None
    return path if path.is_file() else None
