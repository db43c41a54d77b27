"""What the archive holds, by the names of its objects alone. Pure over a listing.

The commit segments are tiled from the first commit on. Several objects may begin at the same
commit: a compaction and the segments it replaces, or what a writer wrote after it had lost its
lease. The rule: at each commit take the segment of the highest lease not below the one taken
before, and among those the longest; the rest is superseded. So a writer without a lease can never
replace, nor follow, what its successor wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pitr.archive.store import ObjectInfo

_SEGMENT = re.compile(r"log/(\d{16})-(\d{16})\.(\d{4})(\+?)\.(\d{8})")
_MAP = re.compile(r"map/(\d{16})\.[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class SegmentObject:
    """One object of the log: a whole commit segment, or a part of one large commit."""

    key: str
    size: int
    modified_us: int
    first: int
    last: int
    part: int
    continued: bool
    lease: int


@dataclass(frozen=True, slots=True)
class MapObject:
    """One page map by its name."""

    key: str
    size: int
    commit: int


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


@dataclass(frozen=True, slots=True)
class Catalog:
    """The authoritative tiles in order, the commits missing between them, the page maps."""

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
                first, last, part, more, lease = match.groups()
                objects.append(
                    SegmentObject(
                        info.key, info.size, info.modified_us,
                        int(first), int(last), int(part), bool(more), int(lease),
                    )
                )  # fmt: skip
            elif match := _MAP.fullmatch(info.key):
                maps.append(MapObject(info.key, info.size, int(match.group(1))))
        tiles, holes = _tile(_whole(objects))
        used = {item.key for tile in tiles for item in tile.objects}
        # Parts after the last tile may be a large commit on its way: unfinished, not superseded.
        last = tiles[-1].last if tiles else 0
        superseded = tuple(o for o in objects if o.key not in used and o.first <= last)
        maps.sort(key=lambda item: item.commit)
        return cls(tuple(tiles), tuple(holes), tuple(maps), superseded, size)

    def tile_of(self, number: int) -> Tile | None:
        """Return the tile that covers a commit."""
        low, high = 0, len(self.tiles)
        while low < high:
            middle = (low + high) // 2
            if self.tiles[middle].last < number:
                low = middle + 1
            else:
                high = middle
        if low < len(self.tiles) and self.tiles[low].first <= number:
            return self.tiles[low]
        return None

    def tiles_between(self, first: int, last: int) -> list[Tile]:
        """Return the tiles that hold any commit of the inclusive range."""
        return [tile for tile in self.tiles if tile.last >= first and tile.first <= last]


def _whole(objects: list[SegmentObject]) -> list[Tile]:
    """Join parts to tiles; parts whose chain does not end are no tile."""
    runs: dict[tuple[int, int, int], dict[int, SegmentObject]] = {}
    for item in objects:
        runs.setdefault((item.first, item.last, item.lease), {})[item.part] = item
    tiles = []
    for (first, last, lease), parts in runs.items():
        ordered = [parts[part] for part in sorted(parts)]
        expected = list(range(len(ordered)))
        complete = [o.part for o in ordered] == expected and not ordered[-1].continued
        if complete and all(o.continued for o in ordered[:-1]):
            tiles.append(Tile(first, last, lease, tuple(ordered)))
    return tiles


def _tile(tiles: list[Tile]) -> tuple[list[Tile], list[tuple[int, int]]]:
    by_first: dict[int, list[Tile]] = {}
    for tile in tiles:
        by_first.setdefault(tile.first, []).append(tile)
    chosen: list[Tile] = []
    holes: list[tuple[int, int]] = []
    wanted, lease = 0, 0
    for first in sorted(by_first):
        candidates = [tile for tile in by_first[first] if tile.lease >= lease]
        if first < wanted or not candidates:
            continue
        if wanted and first > wanted:
            holes.append((wanted, first - 1))
        best = max(candidates, key=lambda tile: (tile.lease, tile.last))
        chosen.append(best)
        wanted, lease = best.last + 1, best.lease
    return chosen, holes
