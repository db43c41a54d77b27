"""Read every object of an archive again and hold it against its checksums and its neighbours.

Three circles. Each object alone: its frame, and every page image against its digest. The line:
every commit's chain recomputed from its pages, every segment following the one before, nothing
missing up to the commit that the newest lease says was stored. The page maps: each equal to what
the log gives for its commit. One object is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pitr.archive.lease import read_newest_lease
from pitr.archive.object import ObjectReader, verify_object
from pitr.archive.store import ObjectInfo, Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.sqlite.pagelog import pagemap, segment
from pitr.sqlite.pagelog.catalog import Catalog, Tile
from pitr.sqlite.pagelog.images import checked_image
from pitr.sqlite.pagelog.pagemap import CurrentPages, PageMap, map_key
from pitr.sqlite.pagelog.segment import (
    CommitKind,
    SegmentIndex,
    begin_chain,
    extend_chain,
    page_digest,
)

_PROBE = "probe/"  # left behind when a test of the store was killed; holds nothing
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was read, what is wrong with it, and up to which commit everything is right.

    `damaged` has the key and the reason of each damaged object, `holes` the inclusive ranges of
    the commits that no object holds.
    """

    objects: int
    bytes: int
    damaged: tuple[tuple[str, str], ...]
    holes: tuple[tuple[int, int], ...]
    last_good_commit: int

    @property
    def ok(self) -> bool:
        """Return whether nothing is damaged and nothing is missing."""
        return not self.damaged and not self.holes


def verify_archive(store: Store) -> VerifyReport:
    """Read everything that a store holds of one archive. Raises StoreUnusable, ObjectMissing when
    the store lists an object that it does not give.

    Runs beside capture and compaction: what they add or replace meanwhile is no fault.
    """
    found = _Findings()
    stored = _stored_commit(store)
    _verify_objects(store, found)
    for attempt in range(_ATTEMPTS):
        catalog = Catalog.of([*store.list("log/"), *store.list("map/")])
        try:
            _verify_line(store, catalog, found)
            break
        except ObjectMissing:  # compaction replaced it since the listing
            if attempt == _ATTEMPTS - 1:
                raise
    if stored > catalog.last_commit:
        found.hole(catalog.last_commit + 1, stored)
    last_good = min([catalog.last_commit, *found.last_good])
    damaged = tuple(sorted(found.damaged.items()))
    return VerifyReport(found.objects, found.bytes, damaged, tuple(found.holes), last_good)


def checked_segment(key: str, data: bytes) -> SegmentIndex:
    """Verify a commit segment as a whole and every page image in it. Raises CorruptObject."""
    verify_object(key, data, segment.KIND)
    index = SegmentIndex(ObjectReader.of_bytes(key, data, segment.KIND))
    index.check_key()
    whole = memoryview(data)
    for entry in range(len(index.numbers)):
        begin, end = index.extent(entry)
        checked_image(index, entry, whole[begin:end])
    return index


def check_chain(indexes: Sequence[SegmentIndex]) -> None:
    """Compute the chain of a tile's commits again from their pages. Raises CorruptObject.

    The chain of a merged commit cannot be computed any more; it is taken as it is.
    """
    chain = indexes[0].chain_before
    for ordinal, record in enumerate(indexes[-1].records):
        computed = begin_chain(chain, record)
        previous = 0
        for index in indexes:
            entries = index.entries_of(ordinal)
            numbers = index.numbers[entries.start : entries.stop]
            ascending = all(a < b for a, b in zip([previous, *numbers], numbers, strict=False))
            if not ascending:
                raise CorruptObject(index.key, f"Pages of commit {record.number} are out of order.")
            previous = numbers[-1] if numbers else previous
            extend_chain(computed, numbers, index.digests[entries.start : entries.stop])
            chain = record.chain if index.records else index.chain_after
            if record.kind is not CommitKind.MERGED and computed.digest() != chain:
                raise CorruptObject(
                    index.key, f"The chain of commit {record.number} does not match its pages."
                )


@dataclass(slots=True)
class _Findings:
    objects: int = 0
    bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    holes: list[tuple[int, int]] = field(default_factory=list)
    last_good: list[int] = field(default_factory=list)

    def damage(self, key: str, reason: str) -> None:
        self.damaged.setdefault(key, reason)

    def hole(self, first: int, last: int) -> None:
        self.holes.append((first, last))
        self.last_good.append(first - 1)


def _stored_commit(store: Store) -> int:
    try:
        lease = read_newest_lease(store)
    except (CorruptObject, ObjectMissing):
        return 0  # that it is damaged will be found with all other objects
    return lease.head_commit if lease else 0


def _verify_objects(store: Store, found: _Findings) -> None:
    seen: set[str] = set()
    for _ in range(2):  # once more, for what was stored during the first round
        for info in list(store.list()):
            if info.key not in seen and not info.key.startswith(_PROBE):
                seen.add(info.key)
                _verify_one(store, info, found)


def _verify_one(store: Store, info: ObjectInfo, found: _Findings) -> None:
    try:
        data = store.get(info.key)
    except ObjectMissing:
        return  # deleted since the listing; whether it is missed, the line will show
    except CorruptObject as error:  # of an encrypted archive
        found.objects += 1
        found.damage(info.key, error.reason)
        return
    found.objects += 1
    found.bytes += len(data)
    try:
        if info.key.startswith("log/"):
            index = checked_segment(info.key, data)
            if index.part == 0 and not index.continued:
                check_chain([index])
        elif info.key.startswith("map/"):
            _checked_map(info.key, data)
        else:
            verify_object(info.key, data, data[8:12])
    except CorruptObject as error:
        found.damage(info.key, error.reason)


def _checked_map(key: str, data: bytes) -> CurrentPages:
    verify_object(key, data, pagemap.KIND)
    current = PageMap(ObjectReader.of_bytes(key, data, pagemap.KIND)).load()
    if map_key(current.commit, current.chain) != key:
        raise CorruptObject(key, f"Its content belongs to {map_key(current.commit, current.chain)}")
    return current


def _verify_line(store: Store, catalog: Catalog, found: _Findings) -> None:
    """Follow the line through the indexes alone, and hold the maps against it."""
    found.holes, found.last_good = [], []
    for hole in catalog.holes:
        found.hole(*hole)
    follower = _Follower(store, catalog, found)
    for tile in catalog.tiles:
        follower.follow(tile)


class _Follower:
    """The state of the database while the line is followed from its beginning."""

    def __init__(self, store: Store, catalog: Catalog, found: _Findings) -> None:
        self._store = store
        self._found = found
        self._maps: dict[int, list[str]] = {}
        for item in catalog.maps:
            self._maps.setdefault(item.commit, []).append(item.key)
        self._current: CurrentPages | None = None
        self._merged: dict[int, int] = {}  # merged commit -> the first one that it covers
        self._next = 1

    def follow(self, tile: Tile) -> None:
        try:
            indexes = [self._index(item.key, item.size) for item in tile.objects]
            self._check_links(tile, indexes)
        except CorruptObject as error:
            self._found.damage(error.key, error.reason)
        if any(item.key in self._found.damaged for item in tile.objects):
            self._found.last_good.append(tile.first - 1)
            self._current = None
        else:
            self._apply_whole(indexes)
        self._next = tile.last + 1

    def _index(self, key: str, size: int) -> SegmentIndex:
        index = SegmentIndex(ObjectReader(self._store, key, size, segment.KIND))
        index.check_key()
        return index

    def _check_links(self, tile: Tile, indexes: list[SegmentIndex]) -> None:
        first = indexes[-1].records[0]
        if len(indexes) > 1:
            check_chain(indexes)
        if self._next == 1 and tile.first > 1 and first.kind is not CommitKind.BASE:
            self._found.hole(1, tile.first - 1)
        elif self._next == 1:
            self._current = CurrentPages(indexes[0].page_size)
        elif self._current is not None and self._next != tile.first:
            self._current = None
        elif self._current is not None and indexes[0].chain_before != self._current.chain:
            raise CorruptObject(indexes[0].key, "It does not follow the commits before it.")

    def _apply_whole(self, indexes: list[SegmentIndex]) -> None:
        try:
            self._apply(indexes)
        except CorruptObject as error:
            self._found.damage(error.key, error.reason)
            self._current = None

    def _apply(self, indexes: list[SegmentIndex]) -> None:
        if self._current is None:
            return  # after damage only the objects themselves can be judged
        for index in indexes:
            for ordinal in range(len(index.records) or 1):
                self._current.apply(index, ordinal)
                if index.records:
                    record = index.records[ordinal]
                    if record.kind is CommitKind.MERGED:
                        self._merged[record.number] = record.first_covered
                    for key in self._maps.get(record.number, ()):
                        self._check_map(key, self._current)

    def _check_map(self, key: str, current: CurrentPages) -> None:
        try:
            stored = _checked_map(key, self._store.get(key))
        except (CorruptObject, ObjectMissing):
            return  # noted before, or deleted since
        if stored.chain == current.chain and not self._is_equal(stored, current):
            self._found.damage(key, f"It contradicts the log as of commit {current.commit}.")

    def _is_equal(self, stored: CurrentPages, current: CurrentPages) -> bool:
        """Compare a map with the log, which may have folded commits since the map was made."""
        if (stored.page_size, stored.page_count) != (current.page_size, current.page_count):
            return False
        if (stored.commits, stored.digests) == (current.commits, current.digests):
            return True
        zeros = page_digest(bytes(current.page_size))
        pages = zip(stored.commits, stored.digests, current.commits, current.digests, strict=True)
        return all(
            (self._merged.get(commit, commit) <= mapped <= commit and mapped_digest == digest)
            # Growth that nobody wrote is never written in a map, and zeros in a folded commit.
            or (not mapped and digest in (0, zeros))
            for mapped, mapped_digest, commit, digest in pages
        )
