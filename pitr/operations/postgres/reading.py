"""Open an archive of PostgreSQL for the verbs that only read it. They need no server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pitr.archive.archive import Identity, open_archive, read_mark
from pitr.archive.lease import LeaseState, read_newest_lease
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import ArchiveGap, ArchiveLacks, CorruptObject
from pitr.operations.opening import open_archive_store
from pitr.operations.postgres.reachable import gap_around, in_gap
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.target.by_index import ResolvedLsn, Resolver, Stretch
from pitr.postgres.wal_store.archive import WalArchive
from pitr.source_text import POSTGRES, database_of
from pitr.target_text import parse_target
from pitr.vocabulary.target import Target


@dataclass(frozen=True, slots=True)
class Reading:
    """One archive, open for reading.

    `timeline` is the newest one, `stretches` its contiguous WAL, oldest first: it includes what
    its ancestors wrote. `database` is the one that names without a database are about.
    """

    store: Store
    identity: Identity
    wal: WalArchive
    index: WalIndex
    catalog: CatalogMap
    lease: LeaseState | None
    timeline: int
    stretches: tuple[Stretch, ...]
    database: str | None
    now_us: int

    @property
    def current_until_us(self) -> int:
        """Return the moment up to which the archive is proven to hold everything, 0: unknown."""
        return self.lease.current_until_us if self.lease else 0

    def resolve(self, target_text: str) -> ResolvedLsn:
        """Return the position that a target's text means; see Resolver.resolve for the errors.

        Looked for in the newest stretch of WAL without a gap first, then in those before it.
        """
        target = parse_target(target_text, now_us=self.now_us)
        refusal: ArchiveLacks | None = None
        for stretch in reversed(self.stretches):
            try:
                return self.resolver(stretch).resolve(target)
            except ArchiveLacks as error:  # an xid may be of an earlier stretch, too
                refusal = refusal or error
        assert refusal is not None, "there is a stretch"
        raise self._gap(target_text, target) or refusal

    def _gap(self, text: str, target: Target) -> ArchiveGap | None:
        """Return the error for a target in a gap between two stretches, None in no gap."""
        resolvers = [(stretch, self.resolver(stretch)) for stretch in self.stretches]
        found = gap_around(target, resolvers, self.now_us)
        if found is None:
            return None
        older, newer = found
        first = next(self.resolver(newer).ends_from(newer.begin), None)
        bases = BaseArchive(self.store).bases(lambda _: None)
        return in_gap(text, older, newer, bases, first.time_us if first else None)

    def resolver(self, stretch: Stretch) -> Resolver:
        """Return the resolver of targets in one stretch."""
        return Resolver(
            self.index,
            stretch,
            window_to_us=self.current_until_us if stretch == self.stretches[-1] else 0,
            now_us=self.now_us,
            find_mark=partial(read_mark, self.store),
        )


def open_reading(settings: Settings) -> Reading:
    """Open the archive of the settings.

    Raises NotConfigured, StoreUnusable, PreconditionFailed for an archive of a later format,
    ArchiveLacks when there is no WAL in it.
    """
    store = open_archive_store(settings)
    identity = open_archive(store)
    wal = WalArchive(store)
    wal.refresh()
    timelines = [timeline for timeline in wal.timelines() if wal.ranges(timeline)]
    timeline = timelines[-1] if timelines else 0
    ranges = wal.ranges(timeline) if timelines else []
    if not ranges:
        _ = wal.segment_bytes  # says that there is no WAL
    try:
        lease = read_newest_lease(store)
    except CorruptObject:
        lease = None
    limits = {entry.timeline: entry.switch.value for entry in wal.history(timeline)}
    limits[timeline] = 1 << 64
    return Reading(
        store=store,
        identity=identity,
        wal=wal,
        index=WalIndex(store, wal),
        catalog=CatalogMap(store, limits),
        lease=lease,
        timeline=timeline,
        stretches=tuple(Stretch(timeline, begin, end) for begin, end in ranges),
        database=settings.database or _database(settings),
        now_us=now_us(),
    )


def _database(settings: Settings) -> str | None:
    source = settings.source_of(POSTGRES)
    return database_of(source.location) if source else None
