"""The names of index objects, and which of them to read: from a listing alone, no I/O.

    index/TTTTTTTT/BBBBBBBBBBBBBBBB-EEEEEEEEEEEEEEEE.SSSSSSSSSSSSSS-UUUUUUUUUUUUUU.CCCCCCCC.parquet

in hexadecimal: the timeline; the stretch of WAL, whose records end in (begin, end]; the first and
the last time of a commit in it, in microseconds since the epoch (0 and 0: none); the CRC-32 of the
footer, which bounds what the checksums of the pages do not. Specification:
docs/formats/postgres-index.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pitr.archive.store import ObjectInfo

PREFIX = "index/"
_NAME = re.compile(
    r"index/([0-9A-F]{8})/([0-9A-F]{16})-([0-9A-F]{16})"
    r"\.([0-9A-F]{14})-([0-9A-F]{14})\.([0-9A-F]{8})\.parquet"
)


@dataclass(frozen=True, slots=True)
class IndexObject:
    """One object of the index by its name; `size` and `modified_us` as the store lists them."""

    timeline: int
    begin: int
    end: int
    first_time_us: int
    last_time_us: int
    crc: int
    size: int = 0
    modified_us: int = 0

    @property
    def key(self) -> str:
        """Return the object's key."""
        return (
            f"{PREFIX}{self.timeline:08X}/{self.begin:016X}-{self.end:016X}"
            f".{self.first_time_us:014X}-{self.last_time_us:014X}.{self.crc:08X}.parquet"
        )

    @classmethod
    def of(cls, info: ObjectInfo) -> IndexObject | None:
        """Read a listed name; None for one that is not of the index."""
        match = _NAME.fullmatch(info.key)
        if match is None:
            return None
        timeline, begin, end, first, last, crc = (int(part, 16) for part in match.groups())
        found = cls(timeline, begin, end, first, last, crc, info.size, info.modified_us)
        return found if found.begin < found.end else None


@dataclass(frozen=True, slots=True)
class Tile:
    """The stretch (begin, end] that is read from an object, which may hold more on either side."""

    begin: int
    end: int
    object: IndexObject


def cover(objects: Iterable[tuple[IndexObject, int]]) -> list[Tile]:
    """Return tiles that hold as much as the objects do, each up to its limit, none of it twice.

    Of objects that hold the same, the larger one is taken: whatever is derived from the same WAL
    says the same. Of several that begin alike and are as long, the last one written.
    """
    tiles: list[Tile] = []
    position = 0
    ends = ((item, min(item.end, limit)) for item, limit in objects)
    for item, end in sorted(ends, key=lambda pair: (pair[0].begin, -pair[1], -pair[0].modified_us)):
        if end > max(position, item.begin):
            # One that began before and reaches farther takes over where the last one ended.
            tiles.append(Tile(max(item.begin, position), end, item))
            position = end
    return tiles
