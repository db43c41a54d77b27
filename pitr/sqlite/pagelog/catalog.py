"""What the archive holds, by the names of its objects alone. Pure over a listing.

Several objects may hold the same commits: a compaction and the segments it replaces, or what a
writer wrote after it had lost its lease. The name of a segment says which commits it holds, under
which lease they were written, and the beginning of the chain before and after them. So segments
are links between states, and of all that is stored one line is the history: the line that ends
where the writer of the highest lease came to, followed backwards from state to state. A writer
without a lease can neither replace nor follow what its successor wrote, and which of several links
between the same states is taken makes no difference. Specification: docs/formats/archive.md, "The
line".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from pitr.archive.store import ObjectInfo
from pitr.sqlite.pagelog.segment import Note

_SEGMENT = re.compile(
    r"log/(\d{16})-(\d{16})\.(\d{4,16})(\+?)\.(\d{8})\.([0-9a-f]{8})-([0-9a-f]{8})"
    r"(?:\.(coarse|base|gap|fork))?"
)
_MAP = re.compile(r"map/(\d{16})\.[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class SegmentObject:
    """One object of the log: a whole commit segment, or a part of one large commit.

    `before` and `after` are the beginnings of the chain before and after it, in hexadecimal.
    Of parts, all have the same `note`.
    """

    key: str
    size: int
    modified_us: int
    first: int
    last: int
    part: int
    continued: bool
    lease: int
    before: str
    after: str
    note: Note


@dataclass(frozen=True, slots=True)
class MapObject:
    """One page map by its name."""

    key: str
    size: int
    commit: int
    modified_us: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of commits and the objects that hold it: one, or the parts of one large commit."""

    first: int
    last: int
    lease: int
    objects: tuple[SegmentObject, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all objects together."""
        return sum(item.size for item in self.objects)

    @property
    def modified_us(self) -> int:
        """Return when the tile became complete."""
        return max(item.modified_us for item in self.objects)

    @property
    def note(self) -> Note:
        """Return what its name says of its commits."""
        return self.objects[-1].note

    @property
    def begins_at(self) -> tuple[int, str]:
        """Return the state that the tile follows: a commit number and its chain."""
        return self.first - 1, self.objects[0].before

    @property
    def ends_at(self) -> tuple[int, str]:
        """Return the state that the tile leads to: a commit number and its chain."""
        return self.last, self.objects[-1].after


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tiles of the line in order, the commits missing between them, the page maps."""

    tiles: tuple[Tile, ...]
    holes: tuple[tuple[int, int], ...]  # inclusive commit ranges that no object covers
    maps: tuple[MapObject, ...]  # ascending by commit
    superseded: tuple[SegmentObject, ...]
    size: int  # bytes of all listed objects, superseded ones included

    @property
    def first_commit(self) -> int:
        """Return the first commit held, 0 when there is none."""
        return self.tiles[0].first if self.tiles else 0

    @property
    def last_commit(self) -> int:
        """Return the last commit held, 0 when there is none."""
        return self.tiles[-1].last if self.tiles else 0

    @classmethod
    def of(cls, listing: Iterable[ObjectInfo]) -> Catalog:
        """Read a listing of the prefixes log/ and map/; other names are left alone."""
        objects: list[SegmentObject] = []
        maps: list[MapObject] = []
        size = 0
        for info in listing:
            size += info.size
            if match := _SEGMENT.fullmatch(info.key):
                objects.extend(_segment_object(info, match))
            elif match := _MAP.fullmatch(info.key):
                maps.append(MapObject(info.key, info.size, int(match[1]), info.modified_us))
        tiles, holes = _line(_whole(objects))
        used = {item.key for tile in tiles for item in tile.objects}
        # Parts after the last tile may be a large commit on its way: unfinished, not superseded.
        # Under a lower lease than the line's they will never be of use.
        last, lease = (tiles[-1].last, tiles[-1].lease) if tiles else (0, 0)
        superseded = tuple(
            o for o in objects if o.key not in used and (o.first <= last or o.lease < lease)
        )
        maps.sort(key=lambda item: item.commit)
        return cls(tuple(tiles), tuple(holes), tuple(maps), superseded, size)

    @property
    def special(self) -> list[Tile]:
        """Return the tiles of the bases, gaps and forks of the line, ascending."""
        return [tile for tile in self.tiles if tile.note.is_special]

    def tile_of(self, number: int) -> Tile | None:
        """Return the tile that covers a commit."""
        at = bisect_left(self.tiles, number, key=lambda tile: tile.last)
        if at < len(self.tiles) and self.tiles[at].first <= number:
            return self.tiles[at]
        return None

    def tiles_between(self, first: int, last: int) -> list[Tile]:
        """Return the tiles that hold any commit of the inclusive range."""
        return [tile for tile in self.tiles if tile.last >= first and tile.first <= last]


def _segment_object(info: ObjectInfo, match: re.Match[str]) -> list[SegmentObject]:
    """Return the object of a name; nothing for a name that no writer gives."""
    first, last, part, lease = (int(match[group]) for group in (1, 2, 3, 5))
    if not 1 <= first <= last:
        return []
    return [
        SegmentObject(
            info.key, info.size, info.modified_us,
            first, last, part, bool(match[4]), lease, match[6], match[7], Note(match[8] or ""),
        )
    ]  # fmt: skip


def _whole(objects: list[SegmentObject]) -> list[Tile]:
    """Join parts to tiles, from the last part backwards; what is not whole is no tile."""
    continued = {
        (item.first, item.last, item.lease, item.part, item.after): item
        for item in objects
        if item.continued
    }
    tiles = []
    for end in objects:
        parts = [end]
        while parts[-1].part > 0:
            part = parts[-1]
            place = part.first, part.last, part.lease, part.part - 1, part.before
            if place not in continued:
                break
            parts.append(continued[place])
        if not end.continued and parts[-1].part == 0:
            tiles.append(Tile(end.first, end.last, end.lease, tuple(reversed(parts))))
    return tiles


def _line(tiles: list[Tile]) -> tuple[list[Tile], list[tuple[int, int]]]:
    """Return the tiles of the line, ascending, and the holes in it."""
    links = _best_links(tiles)
    chosen: list[Tile] = []
    holes: list[tuple[int, int]] = []
    tip = max(tiles, key=lambda tile: (tile.lease, tile.last), default=None)
    while tip is not None:
        tile = links[tip.ends_at]
        chosen.append(tile)
        tip = links.get(tile.begins_at)
        if tip is None and tile.first > 1:
            # The objects before are missing. What is below the hole is the line's as far as one
            # can tell, once more by the highest lease.
            below = (other for other in tiles if other.last < tile.first)
            tip = max(below, key=lambda other: (other.lease, other.last), default=None)
            if tip is not None:
                holes.append((tip.last + 1, tile.first - 1))
    return chosen[::-1], holes[::-1]


def _best_links(tiles: list[Tile]) -> dict[tuple[int, str], Tile]:
    """Return for each state the tile to come from: of several between the line's states, the one
    that reaches back farthest without a hole, then the longest, then the folded one.
    """
    links: dict[tuple[int, str], Tile] = {}
    ranks: dict[tuple[int, str], tuple[int, int, bool]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.last):
        reach = ranks[tile.begins_at][0] if tile.begins_at in ranks else tile.first
        rank = (reach, tile.first, tile.note is not Note.COARSE)
        if tile.ends_at not in ranks or rank < ranks[tile.ends_at]:
            ranks[tile.ends_at], links[tile.ends_at] = rank, tile
    return links
