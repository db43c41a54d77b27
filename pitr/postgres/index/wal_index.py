"""The index of WAL records of an archive: questions about any stretch of a timeline.

Which objects hold the stretch is known from their names. What no object holds (the open segment,
or an object that is missing or damaged) is scanned from the archived WAL itself: the index is an
accelerator, the WAL is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.index.file import (
    FileSet,
    WantedFiles,
    clip,
    file_of,
    files_in,
    is_system,
)
from pitr.postgres.index.making import IndexedRows
from pitr.postgres.index.name import PREFIX, IndexObject, Tile, cover
from pitr.postgres.index.parquet import Group
from pitr.postgres.index.reading import IndexFiles
from pitr.postgres.index.rows import NAMES, RowKind, Rows, empty_rows, join_rows
from pitr.postgres.index.scanning import WalScans
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.vocabulary.position import Lsn

_NO_LIMIT = 1 << 64
_NEEDED = ("lsn", "length", "database", "relation", "tablespace")


@dataclass(frozen=True, slots=True)
class Part:
    """A part (begin, end] of the stretch asked for: held by an object, or to be scanned."""

    timeline: int
    begin: int
    end: int
    tile: Tile | None

    @property
    def times(self) -> tuple[int, int] | None:
        """Return the bounds of the commit times in it when its name tells them; 0, 0: none."""
        item = self.tile.object if self.tile else None
        return (item.first_time_us, item.last_time_us) if item else None


@dataclass(frozen=True, slots=True)
class FileEvent:
    """A relation file that a transaction made, or that the end of one, at `lsn`, dropped."""

    lsn: int
    xid: int
    file: RelationFile
    is_drop: bool


class WalIndex:
    """The records of an archive. Not safe for several threads at once.

    A stretch is given as timeline, begin and end: of the timeline and its ancestors, the records
    that end in (begin, end]. So begin and end are best the positions between two records; a record
    that lies across one of them belongs to the stretch after it.
    """

    def __init__(self, store: Store, wal: ArchivedWal) -> None:
        """Name the store and its WAL; nothing is read before the first question."""
        self._store = store
        self._wal = wal
        self._files = IndexFiles(store)
        self._scans = WalScans(wal)
        self._listed: list[IndexObject] | None = None
        self._tiles: dict[int, list[Tile]] = {}
        self._unusable: set[str] = set()

    @property
    def bytes_read(self) -> int:
        """Return how many stored bytes of index objects were read so far."""
        return self._files.bytes_read

    def refresh(self) -> None:
        """List the index again; the WAL is refreshed by its owner."""
        found = map(IndexObject.of, self._store.list(PREFIX))
        self._listed = [item for item in found if item is not None]
        self._tiles.clear()
        self._unusable.clear()
        self._scans.forget()

    # --- questions -----------------------------------------------------------------------------

    def system_rows(
        self, timeline: int, begin: Lsn, end: Lsn, names: Sequence[str] = NAMES
    ) -> Iterator[Rows]:
        """Yield the rows without a relation file, oldest part first, each in order of LSNs.

        Raises ArchiveGap when WAL is missing that is not indexed either, CorruptObject, CorruptWal.
        """
        for part in self.parts(timeline, begin.value, end.value):
            yield self.system_rows_of(part, names)

    def relation_rows(
        self,
        timeline: int,
        begin: Lsn,
        end: Lsn,
        files: WantedFiles | None,
        names: Sequence[str] = NAMES,
    ) -> Iterator[Rows]:
        """Yield the rows of relation files, oldest part first; each is of one file, by LSN.

        `files` None means all (then a piece is a row group, with rows of several files). For a file
        with block ranges (half-open) row groups without these blocks are passed over; rows of other
        blocks may still come. Raises what `system_rows` raises.
        """
        asked = None if files is None else FileSet(files)
        for part in self.parts(timeline, begin.value, end.value):
            yield from self.relation_rows_of(part, asked, names)

    def kept_records(
        self,
        timeline: int,
        begin: Lsn,
        end: Lsn,
        files: WantedFiles,
        is_kept: Callable[[int, int, int, int], bool],
    ) -> dict[int, tuple[int, int]]:
        """Return LSN: (length, xid) of records to keep, in the order of LSNs.

        Kept is a record that refers to one of the files (and there to one of its blocks, where
        ranges are given), creates or truncates it, and every record without a relation file for
        which `is_kept` (of rmgr, info, database, xid) says so. A row of a transaction's end names
        the transaction that ended. Raises what `system_rows` raises.
        """
        found: dict[int, tuple[int, int]] = {}
        system = ("lsn", "length", "kind", "rmgr", "info", "database", "xid")
        for rows in self.system_rows(timeline, begin, end, system):
            for lsn, length, kind, rmgr, info, database, xid in rows.select(*system):
                if kind == RowKind.RECORD and is_kept(rmgr, info, database, xid):
                    found[lsn] = (length, xid)
        of_file = ("lsn", "length", "kind", "xid", "block")
        for rows in self.relation_rows(timeline, begin, end, files, of_file):
            ranges = files[file_of(rows)]
            for lsn, length, kind, xid, block in rows.select(*of_file):
                is_inside = ranges is None or kind != RowKind.BLOCK or _is_in(block, ranges)
                if kind != RowKind.DROPPED and is_inside:
                    found[lsn] = (length, xid)
        return dict(sorted(found.items()))

    # --- parts ---------------------------------------------------------------------------------

    def parts(self, timeline: int, begin: int, end: int) -> Iterator[Part]:
        """Yield in order what makes up a stretch. Nothing is read but the listing."""
        position = begin
        for tile in self.tiles(timeline):
            if tile.end > position and tile.begin < end:
                yield from self._scanned_parts(timeline, position, tile.begin)
                position = max(position, tile.begin)
                yield Part(timeline, position, min(tile.end, end), tile)
                position = min(tile.end, end)
        yield from self._scanned_parts(timeline, position, end)

    def tiles(self, timeline: int) -> list[Tile]:
        """Return the tiles of a timeline and its ancestors."""
        if self._listed is None:
            self.refresh()
        assert self._listed is not None
        if timeline not in self._tiles:
            limits = {entry.timeline: entry.switch.value for entry in self._wal.history(timeline)}
            limits[timeline] = _NO_LIMIT
            self._tiles[timeline] = cover(
                (item, limits[item.timeline])
                for item in self._listed
                if item.timeline in limits and item.key not in self._unusable
            )
        return self._tiles[timeline]

    def _scanned_parts(self, timeline: int, begin: int, end: int) -> Iterator[Part]:
        """Yield what no object holds, segment by segment."""
        size = self._wal.segment_bytes if begin < end else 1
        while begin < end:
            upto = min(end, begin - begin % size + size)
            yield Part(timeline, begin, upto, None)
            begin = upto

    def system_rows_of(self, part: Part, names: Sequence[str] = NAMES) -> Rows:
        """Return the rows without a relation file of one part, in the order of LSNs."""
        wanted = tuple(dict.fromkeys([*names, "lsn", "length"]))
        found = self._read(part, is_system, wanted)
        rows = join_rows(found) if found is not None else self._scan(part).system
        if not len(rows):
            return empty_rows(wanted)
        return clip(rows, part.begin, part.end, self._wal.segment_bytes)

    def relation_rows_of(
        self, part: Part, files: FileSet | None, names: Sequence[str] = NAMES
    ) -> Iterator[Rows]:
        """Yield the rows of relation files of one part; see relation_rows."""
        wanted = tuple(dict.fromkeys([*names, *_NEEDED]))

        def is_wanted(group: Group) -> bool:
            return not is_system(group) if files is None else files.is_in(group)

        found = self._read(part, is_wanted, wanted)
        for rows in [self._scan(part).relations] if found is None else found:
            asked = FileSet(dict.fromkeys(files_in(rows))) if files is None else files
            for piece in asked.pieces(rows):
                clipped = clip(piece, part.begin, part.end, self._wal.segment_bytes)
                if len(clipped):
                    yield clipped

    def file_events_of(self, part: Part) -> Iterator[FileEvent]:
        """Yield which relation files were made and dropped in one part; main forks only."""
        names = ("lsn", "kind", "xid", "fork", "tablespace", "database", "relation")

        def is_wanted(group: Group) -> bool:
            return not is_system(group) and group.chunks["kind"].greatest >= RowKind.CREATED

        found = self._read(part, is_wanted, (*names, "length"))
        for rows in [self._scan(part).relations] if found is None else found:
            for lsn, kind, xid, fork, *file in rows.select(*names):
                is_event = kind in (RowKind.CREATED, RowKind.DROPPED) and not fork
                if is_event and part.begin <= lsn < part.end:
                    yield FileEvent(lsn, xid, RelationFile(*file), kind == RowKind.DROPPED)

    def _read(
        self, part: Part, is_wanted: Callable[[Group], bool], names: Sequence[str]
    ) -> list[Rows] | None:
        """Return row groups of the part's object, or None when it has to be scanned."""
        if part.tile is None or part.tile.object.key in self._unusable:
            return None
        try:
            file = self._files.open(part.tile.object)
            return [file.read(group, names) for group in file.groups if is_wanted(group)]
        except (CorruptObject, ObjectMissing):
            # Replaced by a compaction since the listing, or damaged: the WAL knows as much.
            self._unusable.add(part.tile.object.key)
            return None

    def _scan(self, part: Part) -> IndexedRows:
        return self._scans.rows(part.timeline, part.begin, part.end)


def _is_in(block: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(begin <= block < end for begin, end in ranges)
