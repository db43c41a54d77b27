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
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from pitr.archive.object import ObjectReader
from pitr.archive.store import Store
from pitr.errors import ArchiveGap, ArchiveLacks, CorruptObject, ObjectMissing, OutsideWindow
from pitr.sqlite import pagemap, segment
from pitr.sqlite.catalog import Catalog, SegmentObject, Tile
from pitr.sqlite.images import ImageReader, Place, each
from pitr.sqlite.pagemap import CurrentPages, PageMap
from pitr.sqlite.segment import CommitKind, CommitRecord, SegmentIndex

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
        self._distrusted: set[str] = set()
        self.images = ImageReader(store, self._relocate)
        self.refresh()

    @property
    def bytes_read(self) -> int:
        """Return the bytes fetched from the store so far, listings not counted."""
        return self._index_bytes_read + self.images.bytes_read

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
        return self._tile_indexes(self._last_tile())[-1].page_size

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
        return self._tile_indexes(self._last_tile())[-1].records[-1]

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
            for index in self._tile_indexes(tile)
            for record in index.records
            if record.number >= first and record.first_covered <= last
        ]

    @_relisting
    def record_of(self, number: int) -> CommitRecord:
        """Return the record that covers a commit number.

        Raises OutsideWindow before the first and after the last commit, ArchiveGap in a hole.
        """
        tile = self.catalog.tile_of(number)
        if tile is None:
            raise self._not_held(number)
        index = self._tile_indexes(tile)[-1]
        return index.records[index.ordinal_of(number)]

    @_relisting
    def commit_at_time(self, time_us: int) -> CommitRecord | None:
        """Return the last commit with time_end_us <= `time_us`, None when all came later."""
        tiles = self.catalog.tiles
        self._last_tile()
        low, high = 0, len(tiles)  # tiles[:low] begin at or before the time
        while low < high:
            middle = (low + high) // 2
            if self._tile_indexes(tiles[middle])[-1].records[0].time_end_us <= time_us:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return None
        records = self._tile_indexes(tiles[low - 1])[-1].records
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

    def _tile_indexes(self, tile: Tile) -> list[SegmentIndex]:
        self._load_indexes(tile.objects)
        return [self._indexes[item.key] for item in tile.objects]

    def _nearest_map(self, number: int) -> PageMap | None:
        """Return the newest page map at or before a commit that agrees with the log's chain."""
        for item in reversed(self.catalog.maps):
            if not self.catalog.first_commit <= item.commit <= number:
                continue
            if item.key in self._distrusted:
                continue
            try:
                reader = ObjectReader(self._store, item.key, item.size, pagemap.KIND)
                found = PageMap(reader)
            except (CorruptObject, ObjectMissing):
                continue  # a map can be done without: an older one, or the log itself, will do
            self._index_bytes_read += reader.bytes_read
            if self._chain_at(item.commit) == found.chain:
                return found
        return None

    def distrust(self, map_key: str) -> None:
        """Use a page map no more: it turned out to be gone or damaged."""
        self._distrusted.add(map_key)

    def _chain_at(self, number: int) -> bytes | None:
        tile = self.catalog.tile_of(number)
        if tile is None:
            return None
        index = self._tile_indexes(tile)[-1]
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
        indexes = [index for tile in tiles for index in self._tile_indexes(tile)]
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

    @_relisting
    def locate(self, number: int, page_number: int) -> Place:
        """Return where the image lies that commit `number` gave a page, by the log's own index."""
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
        for index in self._tile_indexes(tile):
            entry = index.find(number, page_number)
            if entry is not None:
                return Place(index, entry)
        return None

    @_relisting
    def _relocate(self, place: Place) -> Place:
        """Return where the image of a place lies since its object is gone.

        Raises ArchiveGap when the objects that replace it no longer have this state.
        """
        if place.index.key in self._keys:
            self.refresh()
        number = place.index.commit_of(place.entry)
        found = self._find(number, place.index.numbers[place.entry])
        if found is None or found.index.digests[found.entry] != place.index.digests[place.entry]:
            raise self.not_addressable(number)
        return found


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
            if not is_base or place.index.commit_of(place.entry) != record.number:
                del self._base[page_number]

    def _was_cut_off(self, page_number: int, since: int, number: int) -> bool:
        if page_number <= self._smallest:
            return False
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
        return HistoryPages(self, record)

    def place(self, page_number: int, number: int) -> Place | None:
        """Return where a page's image after commit `number` lies; None if it was never written."""
        commits, places = self._later.get(page_number, ((), ()))
        at = bisect_right(commits, number)
        if self._was_cut_off(page_number, commits[at - 1] if at else 0, number):
            return None
        place = places[at - 1] if at else self._base.get(page_number)
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

    def image(self, page_number: int, number: int) -> bytes | None:
        """Return a page's image after a commit, None when it was never written."""
        place = self.place(page_number, number)
        return None if place is None else self._archive.images.image(place)

    def prefetch(self, page_numbers: Iterable[int], number: int) -> None:
        """Fetch pages together when the store is remote."""
        places = (self.place(page_number, number) for page_number in page_numbers)
        self._archive.images.prefetch(place for place in places if place is not None)


class HistoryPages:
    """The pages of the database after one commit (a PageSource)."""

    def __init__(self, history: PageHistory, record: CommitRecord) -> None:
        self._history = history
        self.record = record

    @property
    def page_size(self) -> int:
        """Return the page size in bytes."""
        return self._history.page_size_of(self.record.number)

    @property
    def page_count(self) -> int:
        """Return the size of the database in pages."""
        return self.record.page_count

    def page(self, page_number: int) -> bytes:
        """Return a page's image; see PageSource."""
        if not 1 <= page_number <= self.record.page_count:
            raise ValueError(f"page {page_number} of {self.record.page_count}")
        image = self._history.image(page_number, self.record.number)
        return bytes(self.page_size) if image is None else image

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        """Fetch pages together; see PageSource."""
        inside = (n for n in page_numbers if 1 <= n <= self.record.page_count)
        self._history.prefetch(inside, self.record.number)
