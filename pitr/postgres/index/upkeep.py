"""Make the index objects that are missing: of segments archived without one, or damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from pitr.archive.store import ObjectExists, Store
from pitr.postgres.index.name import PREFIX, IndexObject, cover
from pitr.postgres.index.scanning import WalScans
from pitr.postgres.index.segment import index_segment
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.spans import ArchivedWal


def complete_index(
    store: Store, wal: ArchivedWal, *, should_stop: Callable[[], bool] = lambda: False
) -> int:
    """Index every whole segment of the archive that no object holds; return how many were made.

    Anyone may run it at any time, beside a capture too: the objects of one segment are the same,
    whoever makes them. Raises StoreUnusable, CorruptObject, CorruptWal.
    """
    scans = WalScans(wal)
    version = version_of_major(wal.major)
    made = 0
    for timeline, begin in missing_segments(store, wal):
        if should_stop():
            break
        end = begin + wal.segment_bytes
        key, data = index_segment(
            scans.scan(timeline, begin, end),
            timeline=timeline,
            begin=begin,
            end=end,
            version=version,
            segment_bytes=wal.segment_bytes,
        )
        with suppress(ObjectExists):
            store.put_new(key, data)
        made += 1
    return made


def missing_segments(store: Store, wal: ArchivedWal) -> Iterator[tuple[int, int]]:
    """Yield timeline and begin of each whole archived segment that no index object holds."""
    objects = list(filter(None, map(IndexObject.of, store.list(PREFIX))))
    size = wal.segment_bytes
    for timeline in wal.timelines():
        own = [(item, item.end) for item in objects if item.timeline == timeline]
        tiles = cover(own)
        history = wal.history(timeline)
        # A timeline's own WAL begins with a copy of the segment in which it left its parent.
        start = history[-1].switch.value if history else 0
        for low, high in wal.ranges(timeline):
            begin = max(-(-low.value // size) * size, start - start % size)
            while begin + size <= high.value:
                if not any(tile.begin <= begin and begin + size <= tile.end for tile in tiles):
                    yield timeline, begin
                begin += size
