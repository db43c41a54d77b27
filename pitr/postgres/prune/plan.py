"""What is to be dropped from an archive: found from its listing and the manifests that stay."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pitr.archive.object import ObjectReader
from pitr.archive.store import ObjectInfo, Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.object import BASE_KIND, BASE_PREFIX, PACK_PREFIX, BaseManifest
from pitr.postgres.catalog.reading import PREFIX as CATALOG_PREFIX
from pitr.postgres.catalog.reading import ReadingObject, decode_reading
from pitr.postgres.index.name import PREFIX as INDEX_PREFIX
from pitr.postgres.index.name import IndexObject
from pitr.postgres.prune.needs import Needs, find_needs
from pitr.postgres.wal.segment_name import SegmentName
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn

# Packs that no manifest refers to: of a backup that was killed, which the next one uses, or of one
# by a version without claims.
PACK_AGE_US = 86_400_000_000
_READERS = 16
_BACKUP_HISTORY = re.compile(r"wal/[0-9A-F]{8}/([0-9A-F]{24})\.[0-9A-F]{8}\.backup")
_GAP = re.compile(r"gap/([0-9A-F]{8})/([0-9A-F]{16})-([0-9A-F]{16})")


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What goes, in the order in which it has to: objects (key, bytes) of each kind.

    `known_bases` are the manifests that were there when the plan was made.
    """

    needs: Needs
    bases: tuple[tuple[str, int], ...]
    index: tuple[tuple[str, int], ...]
    catalog: tuple[tuple[str, int], ...]
    gaps: tuple[tuple[str, int], ...]
    wal: tuple[tuple[str, int], ...]
    packs: tuple[tuple[str, int], ...]
    known_bases: frozenset[str]

    @property
    def deleted(self) -> tuple[tuple[str, int], ...]:
        """Return all of it."""
        return self.bases + self.index + self.catalog + self.gaps + self.wal + self.packs


def plan_prune(store: Store, *, from_us: int, marks: Iterable[Lsn], now_us: int) -> PrunePlan:
    """Return what no target from a time on needs, nor any of `marks`.

    Raises CorruptObject when a manifest cannot be read: what it needs is not known then.
    """
    wal = WalArchive(store)
    wal.refresh()
    bases = BaseArchive(store).bases()
    manifests = {info.key: info for info in store.list(BASE_PREFIX)}
    size = wal.segment_bytes
    needs = find_needs(wal.spans, bases, segment_bytes=size, from_us=from_us, marks=marks)
    gone = [base for base in bases if base.id not in needs.bases]
    doomed = [manifests[key] for base in gone if (key := BASE_PREFIX + base.id) in manifests]
    kept = [info for key, info in manifests.items() if key.removeprefix(BASE_PREFIX) in needs.bases]
    return PrunePlan(
        needs,
        _sized(doomed),
        _sized(_unneeded_index(store, needs)),
        _sized(_unneeded_readings(store, needs.first)),
        _sized(_unneeded_gaps(store, needs)),
        _sized(_unneeded_wal(store, wal, needs)),
        _sized(_unneeded_packs(store, kept, doomed, now_us=now_us)),
        frozenset(manifests),
    )


def packs_of(store: Store, manifests: Sequence[ObjectInfo]) -> set[str]:
    """Return the keys of the packs that manifests refer to. Raises CorruptObject, ObjectMissing."""

    def packs(info: ObjectInfo) -> list[str]:
        return BaseManifest(ObjectReader(store, info.key, info.size, BASE_KIND)).packs()

    with ThreadPoolExecutor(_READERS) as readers:
        return {key for keys in readers.map(packs, manifests) for key in keys}


def _sized(infos: Iterable[ObjectInfo]) -> tuple[tuple[str, int], ...]:
    return tuple((info.key, info.size) for info in infos)


def _unneeded_index(store: Store, needs: Needs) -> Iterator[ObjectInfo]:
    for info in store.list(INDEX_PREFIX):
        item = IndexObject.of(info)
        if item is not None and not needs.covers(item.timeline, item.begin, item.end):
            yield info


def _unneeded_gaps(store: Store, needs: Needs) -> Iterator[ObjectInfo]:
    for info in store.list("gap/"):
        match = _GAP.fullmatch(info.key)
        if match and not needs.covers(*(int(part, 16) for part in match.groups())):
            yield info


def _unneeded_wal(store: Store, wal: WalArchive, needs: Needs) -> Iterator[ObjectInfo]:
    spans = {
        span.name: span for timeline in wal.timelines() for span in wal.spans.of_timeline(timeline)
    }
    for info in store.list("wal/"):
        span = spans.get(info.key)
        if span is not None:
            begin, end, timeline = span.begin, span.end, span.timeline
        elif match := _BACKUP_HISTORY.fullmatch(info.key):
            name = SegmentName.parse(match[1], needs.segment_bytes)
            begin, end, timeline = name.begin, name.end, name.timeline
        else:
            continue
        if not needs.covers(timeline, begin, end):
            yield info


def _unneeded_readings(store: Store, first: int) -> list[ObjectInfo]:
    """Return the catalog readings that no LSN from `first` on is looked up in.

    Of each database and timeline the last reading before it stays, with those that it rests on.
    """
    infos = {info.key: info for info in store.list(CATALOG_PREFIX)}
    readings = [item for info in infos.values() if (item := ReadingObject.of(info)) is not None]
    newest_before: dict[tuple[int, int], ReadingObject] = {}
    for item in sorted(readings, key=lambda item: (item.position, item.key)):
        if item.position <= first:
            newest_before[item.database, item.timeline] = item
    kept = {item.key for item in readings if item.position > first}
    kept |= {item.key for item in newest_before.values()}
    if len(kept) < len(readings):
        kept |= _rested_on(store, kept)
    return [infos[item.key] for item in readings if item.key not in kept]


def _rested_on(store: Store, keys: Collection[str]) -> set[str]:
    """Return the readings that others rest on, directly or not."""
    found: set[str] = set()
    wanted = list(keys)
    with ThreadPoolExecutor(_READERS) as readers:
        while wanted:
            bases = {base for base in readers.map(partial(_base_of, store), wanted) if base}
            wanted = [key for key in bases if key not in found and key not in keys]
            found |= bases
    return found


def _base_of(store: Store, key: str) -> str | None:
    return decode_reading(key, store.get(key)).base


def _unneeded_packs(
    store: Store, kept: Sequence[ObjectInfo], doomed: Sequence[ObjectInfo], *, now_us: int
) -> list[ObjectInfo]:
    """Return the packs that only bases refer to which go, and old ones that none refers to."""
    used = packs_of(store, kept)
    freed: set[str] = set()
    for info in doomed:
        try:
            freed |= packs_of(store, [info])
        except (CorruptObject, ObjectMissing):
            continue  # its packs go when they are old enough
    return [
        info
        for info in store.list(PACK_PREFIX)
        if info.key not in used and (info.key in freed or info.modified_us <= now_us - PACK_AGE_US)
    ]
