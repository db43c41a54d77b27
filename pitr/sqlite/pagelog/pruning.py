"""Drop the states before a horizon, and keep what later ones need of them.

Commits up to the horizon are folded into one that holds the last image of every page; those that
are kept by name stay as commits of their own before it. The new objects are written first, whole
and from verified images; then the old ones go, oldest first. From the first deletion on the line
leads over the new objects, so a reader that finds an object gone finds the state there, and a kill
at any moment leaves every kept state readable. Specification: docs/formats/archive.md, "Pruning".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pitr.archive.lease import read_newest_lease
from pitr.archive.store import ObjectExists, Store
from pitr.errors import PreconditionFailed
from pitr.sqlite.pagelog.catalog import Catalog, Tile
from pitr.sqlite.pagelog.compaction import GRACE_US, unneeded
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.images import Place, checked_image
from pitr.sqlite.pagelog.segment import (
    FIRST_CHAIN,
    CommitKind,
    CommitRecord,
    Note,
    SegmentIndex,
    SegmentWriter,
    page_digest,
)

_OBJECT_BYTES = 32 << 20
# Images that are fetched together: in the order of the pages they lie all over the archive.
_FETCH_PAGES = 2048


class PrunePlanStale(PreconditionFailed):
    """Report an archive that somebody else worked on since the plan; make another one."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Commits that become one: the last of `records`; the place of each page's last image.

    None stands for a page that reads as zeros and has to say so.
    """

    records: tuple[CommitRecord, ...]
    images: dict[int, Place | None]


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would do. `horizon` is the first commit that stays a target (marks aside).

    `replaced` are the keys of objects whose place others take, `leftovers` those that nobody needs;
    both with their bytes. `written_bytes` is what has to be written for it.
    """

    horizon: CommitRecord | None
    kept_marks: tuple[int, ...]
    replaced: tuple[tuple[str, int], ...]
    leftovers: tuple[tuple[str, int], ...]
    written_bytes: int
    groups: tuple[_Group, ...] = ()
    tiles: tuple[Tile, ...] = ()
    page_size: int = 0

    @property
    def deleted(self) -> tuple[tuple[str, int], ...]:
        """Return the keys that go, and their bytes."""
        return self.replaced + self.leftovers


def plan_prune(store: Store, *, horizon_us: int, marks: Collection[int], now_us: int) -> PrunePlan:
    """Return what is to be done so that states from a time on stay, and those of `marks`.

    The horizon is the last commit at or before the time: the state of that moment. Reads the
    indexes up to it. Raises PreconditionFailed when a capture might still go on from a state before
    it, ArchiveGap, CorruptObject, StoreUnusable.
    """
    archive = PageArchive(store)
    catalog = archive.catalog
    leftovers = _sizes(store, unneeded(catalog, before_us=now_us - GRACE_US))
    record = archive.commit_at_time(horizon_us) if catalog.tiles else None
    if record is None:
        return PrunePlan(None, (), (), leftovers, 0)
    records = archive.commits(end=record.number + 1)
    kept = [each.number for each in records if each.number in marks and each is not records[-1]]
    boundaries, record, page_size = _within_one_page_size(archive, records, [*kept, record.number])
    if [each.number for each in records if each.number <= record.number] == boundaries:
        return PrunePlan(record, tuple(boundaries[:-1]), (), leftovers, 0)
    last = catalog.tile_of(record.number)
    assert last is not None
    tiles = tuple(tile for tile in catalog.tiles if tile.first <= last.first)
    _require_settled(store, catalog, tiles)
    groups = tuple(_groups(archive, tiles, boundaries))
    maps = [
        item.key
        for item in catalog.maps
        if item.commit < record.number and item.commit not in boundaries
    ]
    objects = [item.key for tile in tiles for item in tile.objects]
    images = (place for group in groups for place in group.images.values() if place is not None)
    return PrunePlan(
        record,
        tuple(boundaries[:-1]),
        _sizes(store, [*maps, *objects]),
        tuple(item for item in leftovers if item[0] not in maps),
        sum(segment.lengths[entry] for segment, entry in images),
        groups,
        tiles,
        page_size,
    )


def run_prune(
    store: Store, plan: PrunePlan, *, before_each: Callable[[], None] = lambda: None
) -> None:
    """Do what a plan says.

    Raises PrunePlanStale, ObjectMissing and CorruptObject when nothing was deleted, StoreUnusable.
    `before_each` is called before each deletion; what it raises ends the prune.
    """
    new = _write(store, plan) if plan.groups else []
    _require_line(store, plan, new)
    for key, _ in plan.deleted:
        if key in new:
            continue
        before_each()
        store.delete(key)


def _sizes(store: Store, keys: Sequence[str]) -> tuple[tuple[str, int], ...]:
    sizes = {info.key: info.size for prefix in ("log/", "map/") for info in store.list(prefix)}
    return tuple((key, sizes[key]) for key in keys if key in sizes)


def _within_one_page_size(
    archive: PageArchive, records: Sequence[CommitRecord], boundaries: list[int]
) -> tuple[list[int], CommitRecord, int]:
    """Return the boundaries that one object can hold, the record of the last, the page size.

    Between the first one and the last the page size must not change: a base of another one keeps
    what was before it apart.
    """
    first = next(record for record in records if record.number == boundaries[0])
    size = archive.window(first.number, first.number).page_size_of(first.number)
    by_number = {record.number: record for record in records}
    for record in records:
        if record.kind is not CommitKind.BASE or record.number <= first.number:
            continue
        window = archive.window(record.number, record.number)
        if window.page_size_of(record.number) != size:
            boundaries = [number for number in boundaries if number < record.number]
            break
    return boundaries, by_number[boundaries[-1]], size


def _require_settled(store: Store, catalog: Catalog, tiles: Sequence[Tile]) -> None:
    """Raise PreconditionFailed when a capture may yet go on from a state inside these tiles.

    Whoever takes the lease lists the archive after it, and goes on from the end that it finds. So
    no capture will, when the newest lease's holder has written the end of the line, or has given
    the lease up, or when all these objects were there before it was taken.
    """
    lease = read_newest_lease(store)
    if lease is None or lease.released or lease.epoch <= catalog.tiles[-1].lease:
        return
    newest_us = max(tile.modified_us for tile in tiles)
    if newest_us > lease.acquired_us - GRACE_US:
        raise PreconditionFailed(
            "the capture that holds the archive has stored nothing yet",
            detail=f"It runs as {lease.holder}; until its first object it may go on from any "
            "state that it found.",
            hint="Run 'pitr prune' again after the next commit was captured.",
        )


# ---- which image of which page -------------------------------------------------------------------


def _groups(
    archive: PageArchive, tiles: Sequence[Tile], boundaries: Sequence[int]
) -> Iterator[_Group]:
    """Yield the groups up to the last boundary, and each commit after it by itself."""
    found = list(_entries(archive, tiles))
    numbers = [record.number for record, _ in found]
    ends = [numbers.index(number) + 1 for number in boundaries]
    cuts = [0, *ends, *range(ends[-1] + 1, len(found) + 1)]
    for begin, end in pairwise(cuts):
        records = tuple(record for record, _ in found[begin:end])
        images = _last_images(found[begin:end], is_first=begin == 0)
        yield _Group(records, images)


def _entries(
    archive: PageArchive, tiles: Sequence[Tile]
) -> Iterator[tuple[CommitRecord, list[tuple[SegmentIndex, range]]]]:
    """Yield each commit with its entries, which lie in several objects for one in parts."""
    for tile in tiles:
        indexes = archive.tile_indexes(tile)
        for ordinal, record in enumerate(indexes[-1].records):
            yield record, [(index, index.entries_of(ordinal)) for index in indexes]


def _last_images(
    commits: Sequence[tuple[CommitRecord, list[tuple[SegmentIndex, range]]]], *, is_first: bool
) -> dict[int, Place | None]:
    """Return the place of each page's last image in these commits.

    A base forgets what was before it; pages that were cut off are gone, and where they came back
    unwritten they read as zeros. Before the first group there is nothing that could shine through,
    in later ones zeros have to be written.
    """
    images: dict[int, Place | None] = {}
    smallest = commits[0][0].page_count
    for record, parts in commits:
        if record.kind is CommitKind.BASE:
            images, smallest = {}, 0
        for index, entries in parts:
            for entry in entries:
                images[index.numbers[entry]] = Place(index, entry)
        smallest = min(smallest, record.page_count)
        for page_number in [number for number in images if number > record.page_count]:
            del images[page_number]
    if not is_first and (len(commits) > 1 or commits[0][0].kind is CommitKind.BASE):
        for page_number in range(smallest + 1, commits[-1][0].page_count + 1):
            images.setdefault(page_number, None)
    return dict(sorted(images.items()))


# ---- writing -------------------------------------------------------------------------------------


def _write(store: Store, plan: PrunePlan) -> list[str]:
    """Write the objects that take the place of the plan's tiles, and return their keys."""
    try:
        return _write_noted(store, plan, Note.COARSE)
    except _KeyTaken:
        # By a prune up to the same commit that kept more marks. The note is part of the key, and
        # without it compaction merely looks at the object again.
        return _write_noted(store, plan, Note.NONE)


class _KeyTaken(Exception):
    """Say that an object of this name is there, with other commits in it."""


def _write_noted(store: Store, plan: PrunePlan, note: Note) -> list[str]:
    keys: list[str] = []

    def emit(key: str, data: bytes) -> None:
        keys.append(key)
        try:
            store.put_new(key, data)
        except ObjectExists:  # by a run that was killed, and just as good
            if store.get(key) != data:
                raise _KeyTaken from None

    assert plan.horizon is not None
    first, chain = 1, FIRST_CHAIN
    lease, horizon = plan.tiles[-1].lease, plan.horizon.number
    until = [group for group in plan.groups if group.records[-1].number <= horizon]
    for groups, noted in ((until, note), (plan.groups[len(until) :], Note.NONE)):
        writer = SegmentWriter(
            emit, page_size=plan.page_size, lease=lease, chain=chain, bytes_max=_OBJECT_BYTES,
            note=noted,
        )  # fmt: skip
        for group in groups:
            _write_group(store, writer, group, first, plan.page_size)
            first, chain = group.records[-1].number + 1, group.records[-1].chain
        writer.flush()
    return keys


def _write_group(
    store: Store, writer: SegmentWriter, group: _Group, first: int, page_size: int
) -> None:
    """Write one commit: those up to the horizon as merged ones, so that none is a base or a gap."""
    begins, last = group.records[0], group.records[-1]
    is_alone = len(group.records) == 1 and first > 1 and last.kind is CommitKind.COMMIT
    writer.begin(
        number=last.number,
        kind=last.kind if is_alone else CommitKind.MERGED,
        fork=last.fork,
        time_begin_us=begins.time_begin_us,
        time_end_us=last.time_end_us,
        page_count=last.page_count,
        wal=last.wal,
        change_counter=last.change_counter,
        first_covered=first,
    )
    zeros = bytes(page_size)
    for page_number, index, entry, frame in _frames(store, group.images):
        if index is None:
            writer.page(page_number, zeros, page_digest(zeros))
        else:
            checked_image(index, entry, frame)
            writer.page_frame(page_number, frame, index.digests[entry])
    writer.end(chain=last.chain)


def _frames(
    store: Store, images: dict[int, Place | None]
) -> Iterator[tuple[int, SegmentIndex | None, int, bytes]]:
    """Yield page number, index, entry and zstd frame of each image, in the order of the pages."""
    numbers = list(images)
    for begin in range(0, len(numbers), _FETCH_PAGES):
        window = numbers[begin : begin + _FETCH_PAGES]
        of_object: dict[SegmentIndex, list[tuple[int, int]]] = {}
        for number in window:
            place = images[number]
            if place is not None:
                of_object.setdefault(place.segment, []).append((number, place.entry))
        frames: dict[int, bytes] = {}
        for index, wanted in of_object.items():
            extents = [index.extent(entry) for _, entry in wanted]
            pieces = store.get_ranges(index.key, extents)
            frames |= {number: piece for (number, _), piece in zip(wanted, pieces, strict=True)}
        for number in window:
            place = images[number]
            if place is None:
                yield number, None, 0, b""
            else:
                yield number, place.segment, place.entry, frames[number]


def _require_line(store: Store, plan: PrunePlan, new: Sequence[str]) -> None:
    """Make sure, before anything goes, that what stays is one line over the new objects.

    A compaction may have been at work since the plan was made: then the plan is of no use. Raises
    PrunePlanStale.
    """
    doomed = {key for key, _ in plan.deleted} - set(new)
    listing = [*store.list("log/"), *store.list("map/")]
    left = Catalog.of(info for info in listing if info.key not in doomed)
    end = plan.tiles[-1].last if plan.tiles else 0
    used = {item.key for tile in left.tiles for item in tile.objects}
    straddling = [o for o in left.superseded if o.first <= end < o.last]
    is_whole = left.tiles and left.tiles[0].first == 1 and not left.holes and used.issuperset(new)
    if plan.tiles and (not is_whole or straddling):
        raise PrunePlanStale(
            "the archive changed while the prune was at work",
            detail="Nothing was deleted.",
            hint="Run 'pitr prune' again.",
        )
