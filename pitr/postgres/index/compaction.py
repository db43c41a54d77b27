"""Merge index objects of segments into those of hours and days; sweep what they replace.

Of the hour that is not over, sixteen of one length become one: a busy cluster writes hundreds of
segments in an hour, and a reader opens each object.

An object says what the WAL of its stretch says, and nothing else. So it does not matter which of
several that hold the same is read, nor who compacts, nor when, nor whether two do it at once: all
that can happen is work done twice. New objects are written first, whole and from verified inputs;
old ones are deleted by a later run. Specification: docs/formats/postgres-index.md, "Compaction".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from pitr.archive.store import ObjectExists, Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.index.file import (
    GROUP_ROWS_MAX,
    Stretch,
    cut_groups,
    encode_index,
    files_in,
    is_system,
    rows_of_file,
)
from pitr.postgres.index.name import PREFIX, IndexObject, Tile, cover
from pitr.postgres.index.packing import sort_rows
from pitr.postgres.index.parquet import Group
from pitr.postgres.index.reading import IndexFile
from pitr.postgres.index.rows import Rows, join_rows, sort_by_lsn
from pitr.postgres.wal.record import RelationFile

GRACE_US = 600_000_000
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
OBJECT_BYTES_MAX = 64 << 20
# The current row group of every input is in memory at once.
_INPUTS_MAX = 16
_NO_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class IndexCompacted:
    """What one run did. `unreadable` are inputs that are damaged: their stretch was left alone."""

    merges: int
    bytes_read: int
    bytes_written: int
    deleted: int
    unreadable: tuple[str, ...]


def compact_index(
    store: Store,
    *,
    now_us: int,
    grace_us: int = GRACE_US,
    should_stop: Callable[[], bool] = lambda: False,
) -> IndexCompacted:
    """Sweep, then merge what can be merged now. `now_us` is the machine's clock.

    `should_stop` is asked between two objects. Safe to kill. Raises StoreUnusable.
    """
    objects = list(filter(None, map(IndexObject.of, store.list(PREFIX))))
    swept = replaced(objects, before_us=now_us - grace_us)
    for item in swept:
        store.delete(item.key)
    merges, read, written, unreadable = 0, 0, 0, []
    left = set(objects) - set(swept)
    for inputs in _plans(left):
        if should_stop():
            break
        try:
            written += merge(store, inputs)
        except CorruptObject as error:
            unreadable.append(error.key)
            continue
        except ObjectMissing:
            continue  # another run has swept it already
        merges += 1
        read += sum(item.size for item in inputs)
    return IndexCompacted(merges, read, written, len(swept), tuple(unreadable))


def replaced(objects: Sequence[IndexObject], *, before_us: int) -> list[IndexObject]:
    """Return the objects that a larger one, there since before a time, holds. Pure."""
    found = []
    largest: IndexObject | None = None
    ordered = sorted(objects, key=lambda item: (item.timeline, item.begin, -item.end))
    for item in ordered:
        holder = largest
        if holder is None or holder.timeline != item.timeline or holder.end < item.end:
            if item.modified_us <= before_us:
                largest = item
            continue
        if (holder.begin, holder.end) != (item.begin, item.end):
            found.append(item)
    return found


# --- the plan --------------------------------------------------------------------------------


def _plans(objects: set[IndexObject]) -> Iterator[list[IndexObject]]:
    for timeline in sorted({item.timeline for item in objects}):
        own = [(item, _NO_LIMIT) for item in objects if item.timeline == timeline]
        yield from plan(cover(own))


def plan(tiles: Sequence[Tile]) -> list[list[IndexObject]]:
    """Return runs of objects of one timeline to be merged, each into one. Pure.

    Of a day that is over everything is merged, of the last day what is of hours that are over, of
    the last hour what is full.
    """
    merges: list[list[IndexObject]] = []
    times = list(_times(tiles))
    if not times:
        return []
    newest = times[-1]

    def period(entry: tuple[int, Tile]) -> tuple[int, int] | None:
        time_us = entry[0]
        if time_us // DAY_US < newest // DAY_US:
            return DAY_US, time_us // DAY_US
        if time_us // HOUR_US < newest // HOUR_US:
            return HOUR_US, time_us // HOUR_US
        return None

    for key, entries in groupby(zip(times, tiles, strict=True), key=period):
        for run in _adjacent([tile for _, tile in entries]):
            merges += _fitting(run) if key is not None else _full(run)
    return merges


def _times(tiles: Sequence[Tile]) -> Iterator[int]:
    """Yield the time that a tile counts for: never earlier than that of the tile before it."""
    newest = next((t.object.last_time_us for t in tiles if t.object.last_time_us), 0)
    for tile in tiles:
        newest = max(newest, tile.object.last_time_us)
        yield newest


def _adjacent(tiles: Sequence[Tile]) -> Iterator[list[IndexObject]]:
    """Yield runs of objects that follow each other, each read as a whole."""
    run: list[IndexObject] = []
    for tile in tiles:
        item = tile.object
        is_whole = (tile.begin, tile.end) == (item.begin, item.end)
        if run and not (is_whole and run[-1].end == item.begin):
            yield run
            run = []
        if is_whole:
            run.append(item)
    if run:
        yield run


def _fitting(run: Sequence[IndexObject]) -> Iterator[list[IndexObject]]:
    """Cut a run so that each piece fits into one object and can be merged at once."""
    piece: list[IndexObject] = []
    for item in run:
        size = sum(each.size for each in piece) + item.size
        if piece and (size > OBJECT_BYTES_MAX or len(piece) == _INPUTS_MAX):
            if len(piece) > 1:
                yield piece
            piece = []
        piece.append(item)
    if len(piece) > 1:
        yield piece


def _full(run: Sequence[IndexObject]) -> Iterator[list[IndexObject]]:
    """Cut out of a run what is as many objects, each of as much WAL, as are merged at once."""
    for _, items in groupby(run, key=lambda item: item.end - item.begin):
        alike = list(items)
        for first in range(0, len(alike) - _INPUTS_MAX + 1, _INPUTS_MAX):
            piece = alike[first : first + _INPUTS_MAX]
            if sum(item.size for item in piece) <= OBJECT_BYTES_MAX:
                yield piece


# --- merging ---------------------------------------------------------------------------------


def merge(store: Store, inputs: Sequence[IndexObject]) -> int:
    """Write the object that holds what adjacent ones hold; return its bytes, 0 when it is there.

    Deletes nothing. Raises CorruptObject, ObjectMissing: then nothing is written.
    """
    files = [IndexFile(store, item) for item in inputs]
    last = files[-1].stretch
    stretch = Stretch(
        last.timeline, files[0].stretch.begin, last.end, last.next_lsn, last.segment_bytes
    )
    key, data = encode_index(stretch, _merged(files), _bounds(inputs))
    with suppress(ObjectExists):
        store.put_new(key, data)
        return len(data)
    return 0


def _bounds(inputs: Sequence[IndexObject]) -> tuple[int, int]:
    timed = [item for item in inputs if item.last_time_us]
    if not timed:
        return 0, 0
    return min(item.first_time_us for item in timed), max(item.last_time_us for item in timed)


def _merged(files: Sequence[IndexFile]) -> Iterator[Rows]:
    """Yield the row groups of the merged object."""
    yield from _batched(
        file.read(group) for file in files for group in file.groups if is_system(group)
    )
    yield from _batched(_of_files([_Cursor(file) for file in files]))


def _batched(pieces: Iterator[Rows]) -> Iterator[Rows]:
    """Put pieces together to row groups; a piece is never torn but where it is too large alone."""
    waiting: list[Rows] = []
    count = 0
    for piece in pieces:
        if waiting and count + len(piece) > GROUP_ROWS_MAX:
            yield join_rows(waiting)
            waiting, count = [], 0
        waiting.append(piece)
        count += len(piece)
    if waiting:
        yield from cut_groups(join_rows(waiting))


class _Cursor:
    """Reads the rows of one input, file after file, holding one row group at a time."""

    def __init__(self, file: IndexFile) -> None:
        self._file = file
        self._groups: list[Group] = [group for group in file.groups if not is_system(group)][::-1]
        self._parts: dict[RelationFile, Rows] = {}
        self._advance()

    def first(self) -> RelationFile | None:
        """Return the file that comes next, None at the end."""
        return min(self._parts, key=_order, default=None)

    def take(self, wanted: RelationFile) -> Iterator[Rows]:
        """Yield the rows of a file that comes next, which may go on in further row groups."""
        while wanted in self._parts:
            yield self._parts.pop(wanted)
            if not self._parts:
                self._advance()

    def _advance(self) -> None:
        if self._groups:
            rows = self._file.read(self._groups.pop())
            self._parts = {file: rows_of_file(rows, file) for file in files_in(rows)}


def _order(file: RelationFile) -> tuple[int, int, int]:
    return file.database, file.number, file.tablespace


def _of_files(cursors: Sequence[_Cursor]) -> Iterator[Rows]:
    """Yield the rows of one file after the other, those of a large one in pieces by block."""
    while True:
        firsts = [first for cursor in cursors if (first := cursor.first()) is not None]
        if not firsts:
            return
        wanted = min(firsts, key=_order)
        parts = [rows for cursor in cursors for rows in cursor.take(wanted)]
        yield from by_block(sort_by_lsn(join_rows(parts)))


def by_block(rows: Rows) -> Iterator[Rows]:
    """Yield the rows of one file, given in the order of LSNs, in pieces that become row groups.

    Few rows are one piece. Many are cut by block, so that bounds tell which row groups matter; in
    each they are in the order of LSNs again, as everywhere.
    """
    if len(rows) <= GROUP_ROWS_MAX:
        yield rows
        return
    none = bytes(4 * len(rows))
    for piece in cut_groups(rows.take(sort_rows(none, rows["block"]))):
        yield sort_by_lsn(piece)
