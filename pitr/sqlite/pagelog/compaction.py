"""Merge small commit segments into larger ones, and thin out what is older than the fine window.

Within the window merging changes nothing but the number of objects: every commit stays addressable
by itself. Beyond it commits are folded, by default to one state an hour. Everything works on whole
objects and in an order that leaves every state readable at every moment: the merged object is
written first, and what it replaces is deleted only when readers that listed before have had time.

Only a settled line is touched: one whose end was written under the newest lease. Then no writer
will go on from a state inside it, whoever runs this and however long it was asleep. Specification:
docs/formats/archive.md, "Compaction".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise

from pitr.archive.lease import read_newest_lease
from pitr.archive.object import ObjectReader
from pitr.archive.store import ObjectExists, Store
from pitr.sqlite.pagelog import segment
from pitr.sqlite.pagelog.catalog import Catalog, MapObject, SegmentObject, Tile
from pitr.sqlite.pagelog.segment import (
    CommitKind,
    CommitRecord,
    Note,
    SegmentIndex,
    SegmentWriter,
    page_digest,
)
from pitr.sqlite.pagelog.verify import check_chain, checked_segment

FINE_WINDOW_US = 7 * 86_400_000_000
GRACE_US = 600_000_000
# How long the parts of a large commit may take to become whole, when a prune writes them.
_UNFINISHED_US = 86_400_000_000
COARSE_US = 3_600_000_000
_DAY_US = 86_400_000_000

_OUTPUT_BYTES_MAX = 32 << 20
# A run is merged when it has enough tiles of one tier; smaller ones between them come along. So a
# byte is copied about once a tier, and not each time that something small comes after it.
_TIER_BYTES = (0, 4 << 10, 64 << 10, 1 << 20, 16 << 20)
_RUN_TILES = 16
_MAPS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Merge:
    """One step of a plan: these adjacent tiles become one object.

    With `coarse`, commits are folded as well; no commit of `keep` is folded into a later one.
    """

    tiles: tuple[Tile, ...]
    coarse: bool
    keep: frozenset[int]

    @property
    def size(self) -> int:
        """Return the bytes of the objects to be read."""
        return sum(tile.size for tile in self.tiles)

    def __str__(self) -> str:
        """Return the step in words."""
        work = "fold" if self.coarse else "merge"
        commits = f"{self.tiles[0].first} to {self.tiles[-1].last}"
        return f"{work} commits {commits}: {len(self.tiles)} objects, {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one round of compaction did."""

    merges: int
    bytes_read: int
    bytes_written: int
    deleted: int


def compact(
    store: Store,
    *,
    now_us: int,
    keep: Collection[int] = (),
    fine_window_us: int = FINE_WINDOW_US,
    grace_us: int = GRACE_US,
    should_stop: Callable[[], bool] = lambda: False,
) -> Compacted:
    """Sweep, plan and run what is to be done now; one object after the other, safe to kill.

    `keep` are commit numbers that stay addressable for ever: those of the marks. `should_stop` is
    asked between two objects. Raises StoreUnusable, CorruptObject (nothing is lost: inputs are
    deleted only when their replacement has been written from verified bytes).
    """
    catalog = settled_catalog(store)
    if catalog is None:
        return Compacted(0, 0, 0, 0)
    deleted = sweep(store, catalog, now_us=now_us, grace_us=grace_us)
    coarse_until = _coarse_until(store, catalog, now_us - fine_window_us)
    merges = plan(catalog, coarse_until=coarse_until, keep=keep)
    done, read, written = 0, 0, 0
    for merge in merges:
        if should_stop():
            break
        written += run(store, merge)
        read += merge.size
        done += 1
    return Compacted(done, read, written, len(deleted))


def settled_catalog(store: Store) -> Catalog | None:
    """Return the catalog when the newest lease's holder has written the end of its line.

    Until then a writer may still go on from a state that it saw before the listing. The lease is
    read after the listing: a lease that comes later begins at what is listed here, or after it.
    """
    catalog = Catalog.of([*store.list("log/"), *store.list("map/")])
    lease = read_newest_lease(store)
    if not catalog.tiles or (lease and lease.epoch > catalog.tiles[-1].lease):
        return None
    return catalog


def _coarse_until(store: Store, catalog: Catalog, time_us: int) -> int:
    """Return the end of the tiles that lie wholly before a time, 0 when none does.

    Reads the indexes of those that are still to be folded, and of the one after them.
    """
    until = 0
    for tile in catalog.tiles:
        if tile.note is Note.COARSE or not _may_merge(tile):
            continue
        item = tile.objects[0]
        index = SegmentIndex(ObjectReader(store, item.key, item.size, segment.KIND))
        if index.records[-1].time_end_us > time_us:
            break
        until = tile.last
    return until


# --- the plan --------------------------------------------------------------------------------


def plan(catalog: Catalog, *, coarse_until: int, keep: Collection[int] = ()) -> list[Merge]:
    """Return the merges that are worth doing. Pure; each leaves the others possible.

    Tiles that end at or before the commit `coarse_until` are folded. Page maps keep their commits
    addressable, as `keep` does. Large commits in parts are left as they are, and so are bases, gaps
    and forks: they are to be found by their names.
    """
    kept = {*keep, *(item.commit for item in catalog.maps)}
    merges: list[Merge] = []
    for due, tiles in _adjacent(catalog.tiles, coarse_until):
        runs = _fitting(tiles) if due else _small_runs(tiles)
        for run_ in runs:
            first, last = run_[0].first, run_[-1].last
            inside = frozenset(number for number in kept if first <= number <= last)
            is_coarse = due or run_[0].note is Note.COARSE
            merges.append(Merge(tuple(run_), is_coarse, inside))
    return merges


def _adjacent(tiles: Sequence[Tile], coarse_until: int) -> Iterator[tuple[bool, list[Tile]]]:
    """Yield runs of tiles that can be merged with each other, and whether they are to be folded."""
    run_: list[Tile] = []
    for tile in tiles:
        may_merge = _may_merge(tile)
        joins = run_ and run_[-1].ends_at == tile.begins_at
        alike = run_ and _state(run_[-1], coarse_until) == _state(tile, coarse_until)
        if run_ and not (may_merge and joins and alike):
            yield _is_due(run_[0], coarse_until), run_
            run_ = []
        if may_merge:
            run_.append(tile)
    if run_:
        yield _is_due(run_[0], coarse_until), run_


def _may_merge(tile: Tile) -> bool:
    return len(tile.objects) == 1 and not tile.note.is_special


def _is_due(tile: Tile, coarse_until: int) -> bool:
    return tile.note is not Note.COARSE and tile.last <= coarse_until


def _state(tile: Tile, coarse_until: int) -> tuple[bool, bool]:
    return tile.note is Note.COARSE, _is_due(tile, coarse_until)


def _small_runs(tiles: list[Tile]) -> Iterator[list[Tile]]:
    """Yield runs of tiles to be merged, from the lowest tier on; each tile at most once."""
    used: set[int] = set()
    for low, high in pairwise(_TIER_BYTES):
        for small, group in groupby(
            tiles, key=lambda tile: tile.size < high and tile.first not in used
        ):
            for run_ in _fitting(list(group)) if small else ():
                if _is_worth_it(run_, low):
                    used.update(tile.first for tile in run_)
                    yield run_


def _is_worth_it(tiles: list[Tile], low: int) -> bool:
    size = sum(tile.size for tile in tiles)
    of_tier = sum(tile.size >= low for tile in tiles)
    return of_tier >= _RUN_TILES or (len(tiles) > 1 and size > _OUTPUT_BYTES_MAX // 2)


def _fitting(tiles: Sequence[Tile]) -> Iterator[list[Tile]]:
    """Cut a run of tiles so that each piece fits into one object."""
    piece: list[Tile] = []
    size = 0
    for tile in tiles:
        if piece and size + tile.size > _OUTPUT_BYTES_MAX:
            yield piece
            piece, size = [], 0
        piece.append(tile)
        size += tile.size
    if piece:
        yield piece


# --- running it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Input:
    index: SegmentIndex
    data: memoryview

    def frame(self, entry: int) -> memoryview:
        begin, end = self.index.extent(entry)
        return self.data[begin:end]


def run(store: Store, merge: Merge) -> int:
    """Write the object that replaces these tiles, and return its bytes. Deletes nothing.

    Raises CorruptObject when an input is damaged: then nothing is written. An object that is
    already there is the work of another run, and just as good.
    """
    written = 0

    def emit(key: str, data: bytes) -> None:
        nonlocal written
        with suppress(ObjectExists):
            store.put_new(key, data)
            written += len(data)

    _write(emit, [_read(store, tile) for tile in merge.tiles], merge)
    return written


def _read(store: Store, tile: Tile) -> _Input:
    key = tile.objects[0].key
    data = store.get(key)
    index = checked_segment(key, data)
    check_chain([index])
    return _Input(index, memoryview(data))


def _write(emit: Callable[[str, bytes], None], inputs: list[_Input], merge: Merge) -> None:
    page_size = inputs[0].index.page_size  # of all: another one begins with a base
    writer = SegmentWriter(
        emit,
        page_size=page_size,
        lease=inputs[-1].index.lease,
        chain=inputs[0].index.chain_before,
        bytes_max=sys.maxsize,  # what goes in decides what comes out
        note=Note.COARSE if merge.coarse else Note.NONE,
    )
    records = [
        (record, item, ordinal)
        for item in inputs
        for ordinal, record in enumerate(item.index.records)
    ]
    for begin, end in groups([record for record, _, _ in records], merge):
        _write_group(writer, records[begin:end], page_size)
    writer.flush()


def groups(records: Sequence[CommitRecord], merge: Merge) -> list[tuple[int, int]]:
    """Return the half-open ranges of records that become one; each alone unless folding."""
    cuts = [0]
    for at, (before, after) in enumerate(pairwise(records), start=1):
        same_hour = before.time_end_us // COARSE_US == after.time_end_us // COARSE_US
        if not merge.coarse or before.number in merge.keep or not same_hour:
            cuts.append(at)
    return list(pairwise([*cuts, len(records)]))


def _write_group(
    writer: SegmentWriter, records: Sequence[tuple[CommitRecord, _Input, int]], page_size: int
) -> None:
    first, last = records[0][0], records[-1][0]
    kind = last.kind if len(records) == 1 else CommitKind.MERGED
    writer.begin(
        number=last.number,
        kind=kind,
        fork=last.fork,
        time_begin_us=first.time_begin_us,
        time_end_us=last.time_end_us,
        page_count=last.page_count,
        wal=last.wal,
        change_counter=last.change_counter,
        first_covered=first.first_covered,
    )
    zeros = bytes(page_size)
    for page_number, place in sorted(_last_images(records).items()):
        if place is None:
            writer.page(page_number, zeros, page_digest(zeros))
        else:
            item, entry = place
            writer.page_frame(page_number, item.frame(entry), item.index.digests[entry])
    writer.end(chain=last.chain)


def _last_images(
    records: Sequence[tuple[CommitRecord, _Input, int]],
) -> dict[int, tuple[_Input, int] | None]:
    """Return where each page's last image of a group lies; None for one that became zeros.

    A page that was cut off and grew back unwritten reads as zeros. In the group's one record
    nothing shows that it was ever cut off, so the zeros are written.
    """
    images: dict[int, tuple[_Input, int] | None] = {}
    smallest, highest = records[0][0].page_count, 0
    for record, item, ordinal in records:
        entries = item.index.entries_of(ordinal)
        images.update((item.index.numbers[entry], (item, entry)) for entry in entries)
        highest = max(highest, item.index.numbers[entries[-1]] if entries else 0)
        smallest = min(smallest, record.page_count)
        if highest > record.page_count and len(records) > 1:
            highest = record.page_count
            for page_number in [number for number in images if number > highest]:
                del images[page_number]
    for page_number in range(smallest + 1, records[-1][0].page_count + 1):
        images.setdefault(page_number, None)
    return images


# --- what is no longer needed ----------------------------------------------------------------


def sweep(store: Store, catalog: Catalog, *, now_us: int, grace_us: int = GRACE_US) -> list[str]:
    """Delete what the line no longer needs, and return the keys. The catalog must be settled."""
    keys = unneeded(catalog, before_us=now_us - grace_us)
    for key in keys:
        store.delete(key)
    return keys


def unneeded(catalog: Catalog, *, before_us: int) -> list[str]:
    """Return the keys of what can be deleted from a settled catalog. Pure.

    Segments: superseded ones whose commits the line holds, when both they and what holds them were
    stored before this time. Page maps: all but the newest few and the last of each day.
    """
    superseded = [o.key for o in catalog.superseded if _is_replaced(o, catalog, before_us)]
    return superseded + [item.key for item in _old_maps(catalog.maps)]


def _is_replaced(item: SegmentObject, catalog: Catalog, before_us: int) -> bool:
    """Say whether the line has all commits of a superseded object, and has had them for long."""
    if item.note is Note.COARSE and (item.continued or item.part):
        before_us -= _UNFINISHED_US
    last = min(item.last, catalog.last_commit)  # what a fenced writer wrote may go beyond the line
    tiles = catalog.tiles_between(item.first, last)
    held = sum(min(tile.last, last) - max(tile.first, item.first) + 1 for tile in tiles)
    return held == max(0, last - item.first + 1) and all(
        at_us <= before_us for at_us in (item.modified_us, *(tile.modified_us for tile in tiles))
    )


def _old_maps(maps: Sequence[MapObject]) -> list[MapObject]:
    older = maps[: -_MAPS_KEPT or None]
    return [
        item
        for _day, group in groupby(older, key=lambda item: item.modified_us // _DAY_US)
        for item in list(group)[:-1]
    ]
