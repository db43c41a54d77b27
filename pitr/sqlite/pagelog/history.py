"""Every page of every archived commit, read lazily from the archive.

`PageArchive` answers which commits there are; `PageArchive.window` gives a `PageHistory`, which
serves the pages of each commit of a range. A page is looked up in the commits since the nearest
page map, then in the map.

Compaction may delete what a listing named. Whoever finds an object gone lists again, once, and
looks for what took its place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Concatenate, ParamSpec, TypeVar

from pitr.archive.object import ObjectReader
from pitr.archive.store import Store
from pitr.errors import ArchiveGap, ArchiveLacks, CorruptObject, ObjectMissing, OutsideWindow
from pitr.sqlite.pagelog import pagemap, segment
from pitr.sqlite.pagelog.catalog import Catalog, MapObject, SegmentObject, Tile
from pitr.sqlite.pagelog.images import AHEAD_BYTES_MAX, ImageReader, Place, each
from pitr.sqlite.pagelog.pagemap import CurrentPages, PageMap
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord, SegmentIndex

# Reading ahead begins after so many steps from page to page: neighbours that nobody wants cost more
# than they save where a page is cheap to have.
_STEPS_LOCAL = 4
_STEPS_REMOTE = 1
_NEAR_PAGES = 4  # a step may pass over pages that belong to something else
_AHEAD_PAGES_MIN = 16
_AHEAD_BYTES = 4 << 20

P = ParamSpec("P")
T = TypeVar("T")


def _relisting(
    method: Callable[Concatenate[PageArchive, P], T],
) -> Callable[Concatenate[PageArchive, P], T]:
    """Try a method of PageArchive once more over a new listing when an object is gone."""

    @wraps(method)
    def attempt(archive: PageArchive, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(archive, *args, **kwargs)
        except ObjectMissing:
            archive.refresh()
            return method(archive, *args, **kwargs)

    return attempt


class PageArchive:
    """The page log of one archive, opened for reading. Use from one thread."""

    def __init__(self, store: Store) -> None:
        """List the archive. Raises StoreUnusable."""
        self._store = store
        self._index_bytes_read = 0
        self._indexes: dict[str, SegmentIndex] = {}
        self._maps: dict[str, PageMap] = {}
        self._distrusted: set[str] = set()
        self._run: _Run | None = None
        self.images = ImageReader(store, self._relocate)
        self.refresh()

    @property
    def bytes_read(self) -> int:
        """Return the bytes fetched from the store so far, listings not counted."""
        map_bytes_read = sum(found.bytes_read for found in self._maps.values())
        return self._index_bytes_read + map_bytes_read + self.images.bytes_read

    def refresh(self) -> None:
        """List the archive again, to see what capture and compaction did meanwhile."""
        self.catalog = self._list()
        if self.catalog.holes:
            # A listing takes time: what was stored while it ran may be missing from its middle.
            self.catalog = self._list()
        kept = self._keys & self._indexes.keys()
        self._indexes = {key: self._indexes[key] for key in kept}

    def _list(self) -> Catalog:
        listing = [*self._store.list("log/"), *self._store.list("map/")]
        self._keys = {info.key for info in listing}
        return Catalog.of(listing)

    # --- commits -----------------------------------------------------------------------------

    @property
    @_relisting
    def page_size(self) -> int:
        """Return the page size of the newest commit."""
        return self._last_index(self._last_tile()).page_size

    def _last_tile(self) -> Tile:
        if not self.catalog.tiles:
            raise OutsideWindow(
                "nothing is archived yet",
                detail=f"The archive at {self._store.location} holds no commit.",
                hint="Run 'pitr capture --once' to take the first base.",
            )
        return self.catalog.tiles[-1]

    @_relisting
    def last_commit(self) -> CommitRecord:
        """Return the newest commit. Raises OutsideWindow when nothing is archived yet."""
        return self._last_index(self._last_tile()).records[-1]

    @_relisting
    def commits(self, begin: int | None = None, end: int | None = None) -> list[CommitRecord]:
        """Return the records of the commits begin <= number < end, ascending.

        Raises CorruptObject, ObjectMissing. Commits in a hole of the catalog are simply absent.
        """
        first = begin if begin is not None else self.catalog.first_commit
        last = end - 1 if end is not None else self.catalog.last_commit
        tiles = self.catalog.tiles_between(first, last)
        self._load_indexes([item for tile in tiles for item in tile.objects])
        return [
            record
            for tile in tiles
            for index in self.tile_indexes(tile)
            for record in index.records
            if record.number >= first and record.first_covered <= last
        ]

    @_relisting
    def special_commits(self) -> list[CommitRecord]:
        """Return the records of all bases, gaps and forks, ascending; reads only their indexes."""
        tiles = self.catalog.special
        self._load_indexes([tile.objects[-1] for tile in tiles])
        return [self._last_index(tile).records[-1] for tile in tiles]

    @_relisting
    def record_of(self, number: int) -> CommitRecord:
        """Return the record that covers a commit number.

        Raises OutsideWindow before the first and after the last commit, ArchiveGap in a hole.
        """
        tile = self.catalog.tile_of(number)
        if tile is None:
            raise self._not_held(number)
        index = self._last_index(tile)
        return index.records[index.ordinal_of(number)]

    @_relisting
    def commit_at_time(self, time_us: int) -> CommitRecord | None:
        """Return the last commit with time_end_us <= `time_us`, None when all came later."""
        tiles = self.catalog.tiles
        self._last_tile()
        low, high = 0, len(tiles)  # tiles[:low] begin at or before the time
        while low < high:
            middle = (low + high) // 2
            if self._last_index(tiles[middle]).records[0].time_end_us <= time_us:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return None
        records = self._last_index(tiles[low - 1]).records
        at = bisect_right(records, time_us, key=lambda record: record.time_end_us)
        return records[at - 1]

    def _not_held(self, number: int) -> ArchiveLacks:
        catalog = self.catalog
        for first, last in catalog.holes:
            if first <= number <= last:
                return ArchiveGap(
                    f"archive does not hold commit:{number}",
                    detail=f"The objects of commits {first} to {last} are missing.",
                    hint=f"The last good commit before is commit:{first - 1}, "
                    f"the first after is commit:{last + 1}.",
                )
        return OutsideWindow(
            f"archive does not hold commit:{number}",
            detail=f"It holds commit:{catalog.first_commit} to commit:{catalog.last_commit}.",
            hint="Run 'pitr status' to see the recoverable window.",
        )

    def not_addressable(self, number: int) -> ArchiveGap:
        """Return the error for a commit that compaction folded into a later one."""
        record = self.record_of(number)
        return ArchiveGap(
            f"archive no longer holds commit:{number} by itself",
            detail=f"Commits {record.first_covered} to {record.number} were merged; only the state "
            f"after the last of them is kept.",
            hint=f"The nearest targets are commit:{record.first_covered - 1} and "
            f"commit:{record.number}.",
        )

    # --- indexes and maps --------------------------------------------------------------------

    def _load_indexes(self, objects: Iterable[SegmentObject]) -> None:
        missing = [item for item in objects if item.key not in self._indexes]
        for index, size in each(self._store, missing, self._read_index):
            self._indexes[index.key] = index
            self._index_bytes_read += size

    def _read_index(self, item: SegmentObject) -> tuple[SegmentIndex, int]:
        reader = ObjectReader(self._store, item.key, item.size, segment.KIND)
        index = SegmentIndex(reader)
        index.check_key()
        return index, reader.bytes_read

    def tile_indexes(self, tile: Tile) -> list[SegmentIndex]:
        """Return the indexes of a tile's objects. Raises ObjectMissing, CorruptObject."""
        self._load_indexes(tile.objects)
        return [self._indexes[item.key] for item in tile.objects]

    def _index(self, item: SegmentObject) -> SegmentIndex:
        self._load_indexes([item])
        return self._indexes[item.key]

    def _last_index(self, tile: Tile) -> SegmentIndex:
        """Return the index that has the records; of a large commit, that of the last part."""
        return self._index(tile.objects[-1])

    def _nearest_map(self, number: int) -> PageMap | None:
        """Return the newest page map at or before a commit that agrees with the log's chain."""
        for item in reversed(self.catalog.maps):
            if not self.catalog.first_commit <= item.commit <= number:
                continue
            if item.key in self._distrusted:
                continue
            try:
                found = self._map(item)
            except (CorruptObject, ObjectMissing):
                continue  # a map can be done without: an older one, or the log itself, will do
            if self._chain_at(item.commit) == found.chain:
                return found
        return None

    def _map(self, item: MapObject) -> PageMap:
        if item.key not in self._maps:
            reader = ObjectReader(self._store, item.key, item.size, pagemap.KIND)
            self._maps[item.key] = PageMap(reader)
        return self._maps[item.key]

    def distrust(self, map_key: str) -> None:
        """Use a page map no more: it turned out to be gone or damaged."""
        self._distrusted.add(map_key)

    def _chain_at(self, number: int) -> bytes | None:
        tile = self.catalog.tile_of(number)
        if tile is None:
            return None
        index = self._last_index(tile)
        record = index.records[index.ordinal_of(number)]
        return record.chain if record.number == number else None

    # --- states ------------------------------------------------------------------------------

    def at(self, number: int) -> HistoryPages:
        """Return the pages of the database after a commit; see `window` for the errors."""
        return self.window(number, number).at(number)

    @_relisting
    def window(self, first: int, last: int) -> PageHistory:
        """Return the states after each commit of an inclusive range.

        Raises OutsideWindow, ArchiveGap when the archive lacks what the range needs,
        CorruptObject when an index is damaged or the chain of commits is broken.
        """
        self.record_of(first)
        self.record_of(last)
        nearest = self._nearest_map(first)
        begin = nearest.commit + 1 if nearest else self.catalog.first_commit
        for hole_first, hole_last in self.catalog.holes:
            if begin <= hole_last and hole_first <= last:
                raise self._not_held(hole_first)
        tiles = self.catalog.tiles_between(min(begin, first), last)
        self._load_indexes([item for tile in tiles for item in tile.objects])
        indexes = [index for tile in tiles for index in self.tile_indexes(tile)]
        _check_chain(indexes, nearest)
        if nearest is None:
            self._check_beginning(indexes)
        return PageHistory(self, nearest, indexes, first=first, last=last)

    def _check_beginning(self, indexes: Sequence[SegmentIndex]) -> None:
        first = next(record for index in indexes for record in index.records)
        if first.first_covered > 1 and first.kind is not CommitKind.BASE:
            raise ArchiveGap(
                f"archive does not hold the states from commit:{first.first_covered} on",
                detail=f"The objects before commit {first.first_covered} are missing, and with "
                "them the base of the states after it.",
                hint="Run 'pitr verify' to see what is missing and which targets remain.",
            )

    def current_pages(self) -> CurrentPages:
        """Return the newest state for capture to go on from. Reads every index since the map."""
        last = self.last_commit()
        history = self.window(last.number, last.number)
        nearest = history.nearest_map
        try:
            current = nearest.load() if nearest else CurrentPages(history.page_size_of(last.number))
        except (CorruptObject, ObjectMissing):
            if nearest:
                self.distrust(nearest.key)
            return self.current_pages()
        for index in history.indexes:
            for ordinal in range(len(index.records) or 1):
                if current.commit < index.commit_at(ordinal):  # else the map already has it
                    current.apply(index, ordinal)
        return current

    def locate(self, number: int, page_number: int) -> Place:
        """Return where the image lies that commit `number` gave a page, by the log's own index."""
        run = self._run
        if run is None or run.number != number or not run.has_next(page_number):
            index, entry = self._locate(number, page_number)
            end = index.entries_of(index.ordinal_of(number) if index.records else 0).stop
            run = self._run = _Run(number, index, entry, end)
        run.entry += 1
        return Place(run.index, run.entry - 1)

    @_relisting
    def _locate(self, number: int, page_number: int) -> Place:
        place = self._find(number, page_number)
        if place is None:
            tile = self.catalog.tile_of(number)
            key = tile.objects[-1].key if tile else ""
            raise CorruptObject(key, f"Page {page_number} of commit {number} is not in its index.")
        return place

    def _find(self, number: int, page_number: int) -> Place | None:
        tile = self.catalog.tile_of(number)
        if tile is None:
            raise self._not_held(number)
        items = tile.objects
        if len(items) > 1:  # the parts of one commit, which has its pages in ascending order
            at = bisect_right(items, page_number, key=lambda item: self._index(item).numbers[0])
            items = items[max(0, at - 1) :]
        index = self._index(items[0])
        entry = index.find(number, page_number)
        return None if entry is None else Place(index, entry)

    @_relisting
    def _relocate(self, place: Place) -> Place:
        """Return where the image of a place lies since its object is gone.

        Raises ArchiveGap when the objects that replace it no longer have this state.
        """
        if place.segment.key in self._keys:
            self.refresh()
        segment, entry = place
        number = segment.commit_of(entry)
        found = self._find(number, segment.numbers[entry])
        if found is None or found.segment.digests[found.entry] != segment.digests[entry]:
            raise self.not_addressable(number)
        return found


@dataclass(slots=True)
class _Run:
    """A reading that goes on from entry to entry of one commit."""

    number: int
    index: SegmentIndex
    entry: int  # the next one
    end: int

    def has_next(self, page_number: int) -> bool:
        return self.entry < self.end and self.index.numbers[self.entry] == page_number


def _check_chain(indexes: Sequence[SegmentIndex], nearest: PageMap | None) -> None:
    chain = None
    for index in indexes:
        if chain is not None and index.chain_before != chain:
            raise CorruptObject(
                index.key,
                "It does not follow the commits before it: the chain of commits is broken.",
                hint=f"The last good commit is commit:{index.first - 1}.",
            )
        chain = index.chain_after
    if nearest and indexes and indexes[0].first == nearest.commit + 1:
        first = indexes[0]
        if first.chain_before != nearest.chain:
            raise CorruptObject(first.key, "It does not follow the page map before it.")


class PageHistory:
    """The pages of a run of commits: one state each, sharing what they share."""

    def __init__(
        self,
        archive: PageArchive,
        nearest: PageMap | None,
        indexes: Sequence[SegmentIndex],
        *,
        first: int,
        last: int,
    ) -> None:
        self._archive = archive
        self.nearest_map = nearest
        self.indexes = indexes
        self.records: list[CommitRecord] = []
        self._page_sizes: dict[int, int] = {}
        self._changed: dict[int, list[tuple[SegmentIndex, range]]] = {}
        self._base: dict[int, int] = {}  # page -> place as of the first state
        self._later: dict[int, tuple[list[int], list[int]]] = {}  # page -> commits, places
        self._cuts: list[tuple[int, int]] = []  # after the first state: commit, pages it left
        self._smallest = 1 << 32  # of those
        self._map_pages = self._page_count = nearest.page_count if nearest else 0
        self._beneath: PageHistory | None = None  # in place of a map that turned out damaged
        self._first = first
        after = nearest.commit if nearest else 0
        for ordinal, index in enumerate(indexes):
            self._read(ordinal, index, after=after, first=first, last=last)
        self._by_number = {record.number: record for record in self.records}

    def _read(
        self, ordinal: int, index: SegmentIndex, *, after: int, first: int, last: int
    ) -> None:
        """Take in one index. A place is (ordinal of the index) << 32 | entry: one int a page."""
        base = ordinal << 32
        for position in range(len(index.records) or 1):
            number = index.commit_at(position)
            covered = index.records[position].first_covered if index.records else index.first
            if covered > last:
                break
            entries = index.entries_of(position)
            pages = index.numbers[entries.start : entries.stop]
            if after < number and covered <= first:
                places = range(base + entries.start, base + entries.stop)
                self._base.update(zip(pages, places, strict=True))
            elif after < number:
                for page_number, entry in zip(pages, entries, strict=True):
                    commits, later = self._later.setdefault(page_number, ([], []))
                    commits.append(number)
                    later.append(base + entry)
            if after < number and index.records:
                self._forget(index.records[position], late=covered > first)
            if number >= first:
                self._changed.setdefault(number, []).append((index, entries))
                if index.records:
                    self.records.append(index.records[position])
                    self._page_sizes[number] = index.page_size

    def _forget(self, record: CommitRecord, *, late: bool) -> None:
        """Forget what a commit cut off, for growth that is not written reads as zeros.

        A base forgets everything that it did not write itself.
        """
        is_base = record.kind is CommitKind.BASE and record.number > 1
        before, self._page_count = self._page_count, record.page_count
        limit = 0 if is_base else record.page_count
        if limit >= before:
            return
        if late:
            self._cuts.append((record.number, limit))
            self._smallest = min(self._smallest, limit)
            return
        self._map_pages = min(self._map_pages, limit)
        for page_number in [number for number in self._base if number > limit]:
            place = self._place(self._base[page_number])
            if not is_base or place.segment.commit_of(place.entry) != record.number:
                del self._base[page_number]

    def _was_cut_off(self, page_number: int, since: int, number: int) -> bool:
        return any(
            since < at <= number and page_number > page_count for at, page_count in self._cuts
        )

    def page_size_of(self, number: int) -> int:
        """Return the page size in bytes as of a commit of the window."""
        return self._page_sizes[number]

    def changed(self, number: int) -> frozenset[int]:
        """Return the numbers of the pages that a commit of the window wrote."""
        runs = self._changed.get(number, [])
        return frozenset(
            page for index, entries in runs for page in index.numbers[entries.start : entries.stop]
        )

    def at(self, number: int) -> HistoryPages:
        """Return the pages after a commit of the window."""
        record = self._by_number.get(number)
        if record is None:
            raise self._archive.not_addressable(number)
        return HistoryPages(self, record, self._archive.images)

    def place(self, page_number: int, number: int) -> Place | None:
        """Return where a page's image after commit `number` lies; None if it was never written."""
        place: int | None = None
        if page_number in self._later or page_number > self._smallest:
            commits, places = self._later.get(page_number, ((), ()))
            at = bisect_right(commits, number)
            if self._was_cut_off(page_number, commits[at - 1] if at else 0, number):
                return None
            place = places[at - 1] if at else None
        if place is None:
            place = self._base.get(page_number)
        if place is not None:
            return self._place(place)
        return self._place_beneath(page_number) if page_number <= self._map_pages else None

    def _place(self, place: int) -> Place:
        return Place(self.indexes[place >> 32], place & 0xFFFFFFFF)

    def _place_beneath(self, page_number: int) -> Place | None:
        """Return the place as of the first state of a page that no commit since the map wrote."""
        if self._beneath is None and self.nearest_map is not None:
            try:
                commit = self.nearest_map.commit_of(page_number)
            except (CorruptObject, ObjectMissing):
                # A map can be done without: an older one, or the log itself, will do.
                self._archive.distrust(self.nearest_map.key)
                self._beneath = self._archive.window(self._first, self._first)
            else:
                return self._archive.locate(commit, page_number) if commit else None
        return self._beneath.place(page_number, self._first) if self._beneath else None


class HistoryPages:
    """The pages of the database after one commit (a PageSource).

    While the reading goes on from page to page, other threads fetch and decompress what follows.
    """

    def __init__(self, history: PageHistory, record: CommitRecord, images: ImageReader) -> None:
        self.record = record
        self.page_size = history.page_size_of(record.number)
        self.page_count = record.page_count
        self._history = history
        self._images = images
        self._announced: dict[int, Place] = {}
        self._pages_max = AHEAD_BYTES_MAX // self.page_size
        self._last = 0
        self._steps = 0  # from page to page, up to the last one that was not announced
        self._ahead = range(0)  # the pages fetched ahead last

    def page(self, page_number: int) -> bytes:
        """Return a page's image; see PageSource."""
        if not 1 <= page_number <= self.page_count:
            raise ValueError(f"page {page_number} of {self.page_count}")
        place = self._announced.pop(page_number, None)
        if place is None or page_number in self._ahead:
            self._read_ahead(page_number)
        if place is None:
            place = self._history.place(page_number, self.record.number)
        return bytes(self.page_size) if place is None else self._images.image(place)

    def _read_ahead(self, page_number: int) -> None:
        """Fetch what follows: the more, the longer the reading goes on from page to page."""
        if page_number in self._ahead:
            begin, count = self._ahead.stop, 2 * len(self._ahead)
        else:
            is_near = 0 < page_number - self._last <= _NEAR_PAGES
            self._steps = self._steps + 1 if is_near else 0
            self._last = page_number
            if self._steps < (_STEPS_REMOTE if self._images.is_remote else _STEPS_LOCAL):
                return
            begin, count = page_number + 1, _AHEAD_PAGES_MIN
        count = min(count, _AHEAD_BYTES // self.page_size, self.page_count + 1 - begin)
        self._ahead = range(begin, begin + max(0, count))
        self.prefetch(self._ahead)

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        """Begin to fetch pages together; see PageSource."""
        number = self.record.number
        places: dict[int, Place] = {}
        inside = (page for page in page_numbers if 1 <= page <= self.page_count)
        for page_number in islice(inside, self._pages_max):
            place = self._history.place(page_number, number)
            if place is not None:
                places[page_number] = place
        if len(self._announced) + len(places) > self._pages_max:
            self._announced.clear()
        self._announced.update(places)
        self._images.prefetch(places.values())
