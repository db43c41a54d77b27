"""Which WAL is there: spans of timelines, put together along a timeline's ancestry. No I/O.

The same for an archive and for a plain folder of WAL files: both give names and bounds of what
they hold, and ask which of it serves a stretch of WAL, and where something is missing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pitr.errors import ArchiveGap, ArchiveLacks
from pitr.postgres.wal.history import HistoryEntry
from pitr.vocabulary.position import Lsn

_END = 1 << 64


class ArchivedWal(Protocol):
    """Stored WAL of one cluster: an archive, or a plain folder.

    A timeline includes what its ancestors wrote before it left them, as the `.history` files say.
    """

    @property
    def segment_bytes(self) -> int:
        """Return the size of a WAL segment. Raises ArchiveLacks when there is no WAL."""

    @property
    def major(self) -> int:
        """Return the major version of the server that wrote it. Raises ArchiveLacks."""

    @property
    def system_identifier(self) -> str:
        """Return the cluster's system identifier. Raises ArchiveLacks."""

    @property
    def bytes_read(self) -> int:
        """Return how many stored bytes were read so far."""

    def refresh(self) -> None:
        """Look again at what is there."""

    def timelines(self) -> list[int]:
        """Return the timelines that have WAL or a `.history` file, ascending."""

    def history(self, timeline: int) -> tuple[HistoryEntry, ...]:
        """Return the ancestors of a timeline, oldest first; none for one without `.history`."""

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        """Return the stretches of WAL that `read` can serve, ascending, none touching the next."""

    def read(self, timeline: int, begin: Lsn, end: Lsn) -> bytes:
        """Return the WAL bytes [begin, end) of a timeline.

        Raises ArchiveGap naming the first stretch that is missing; CorruptObject.
        """


@dataclass(frozen=True, slots=True)
class WalSpan:
    """Bytes [begin, end) of one timeline, held under `name`: an object's key or a file's path.

    `size` is what the object or file takes, `stored_us` when it was written.
    """

    begin: int
    end: int
    timeline: int
    name: str
    size: int
    stored_us: int


@dataclass(frozen=True, slots=True)
class _Tile:
    begin: int
    end: int
    span: WalSpan


class WalSpans:
    """The spans of every timeline and the `.history` of each: what can be read, and from where."""

    def __init__(
        self, spans: Iterable[WalSpan], histories: Mapping[int, tuple[HistoryEntry, ...]]
    ) -> None:
        """Take the spans in any order; they may overlap."""
        self._by_timeline: dict[int, list[WalSpan]] = {}
        for span in spans:
            self._by_timeline.setdefault(span.timeline, []).append(span)
        self.histories = dict(histories)
        self._tiles: dict[int, list[_Tile]] = {}

    def timelines(self) -> list[int]:
        """Return the timelines that have WAL or a history, ascending."""
        return sorted({*self._by_timeline, *self.histories})

    def history(self, timeline: int) -> tuple[HistoryEntry, ...]:
        """Return the ancestors of a timeline, oldest first; none for one without a history."""
        return self.histories.get(timeline, ())

    def of_timeline(self, timeline: int) -> Sequence[WalSpan]:
        """Return the spans that the timeline itself has, without its ancestors'."""
        return self._by_timeline.get(timeline, [])

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        """Return the contiguous stretches of a timeline and its ancestors, ascending."""
        merged: list[tuple[int, int]] = []
        for tile in self._tiles_of(timeline):
            if merged and merged[-1][1] == tile.begin:
                merged[-1] = (merged[-1][0], tile.end)
            else:
                merged.append((tile.begin, tile.end))
        return [(Lsn(begin), Lsn(end)) for begin, end in merged]

    def pieces(self, timeline: int, begin: Lsn, end: Lsn) -> list[tuple[WalSpan, int, int]]:
        """Return, in order, which bytes [low, high) of which span make up [begin, end).

        Raises ArchiveGap naming the first stretch that is missing.
        """
        tiles = self._tiles_of(timeline)
        at = max(0, bisect_right(tiles, begin.value, key=lambda tile: tile.begin) - 1)
        position = begin.value
        found: list[tuple[WalSpan, int, int]] = []
        while position < end.value:
            while at < len(tiles) and tiles[at].end <= position:
                at += 1
            if at == len(tiles) or tiles[at].begin > position:
                missing_end = min(end.value, tiles[at].begin) if at < len(tiles) else end.value
                raise self._gap(timeline, Lsn(position), Lsn(missing_end))
            high = min(tiles[at].end, end.value)
            found.append((tiles[at].span, position, high))
            position = high
        return found

    def _gap(self, timeline: int, begin: Lsn, end: Lsn) -> ArchiveGap:
        ranges = self.ranges(timeline)
        there = ", ".join(f"{low} to {high}" for low, high in ranges[-3:])
        return ArchiveGap(
            f"WAL is missing: {begin} to {end} of timeline {timeline}",
            detail=f"There is {'WAL of ' + there if ranges else 'no WAL'} of this timeline.",
            hint="Run 'pitr status' to see the gaps and which targets remain.",
        )

    def _tiles_of(self, timeline: int) -> list[_Tile]:
        if timeline not in self._tiles:
            self._tiles[timeline] = _cover(
                (span, min(span.end, end))
                for ancestor, end in _lineage(timeline, self.histories)
                for span in self.of_timeline(ancestor)
            )
        return self._tiles[timeline]


def _lineage(
    timeline: int, histories: Mapping[int, tuple[HistoryEntry, ...]]
) -> list[tuple[int, int]]:
    """Return each timeline whose WAL is this timeline's, and up to where.

    Only ends are cut: a timeline begins with a copy of the segment in which it left its parent, so
    what it has from before that point is its parent's, byte for byte.
    """
    ancestors = [(entry.timeline, entry.switch.value) for entry in histories.get(timeline, ())]
    return [*ancestors, (timeline, _END)]


def _cover(spans: Iterable[tuple[WalSpan, int]]) -> list[_Tile]:
    """Return tiles that follow each other and cover all that any of the spans covers."""
    ordered = sorted(
        ((span.begin, end, span) for span, end in spans if span.begin < end),
        key=lambda item: (item[0], -item[1]),
    )
    tiles: list[_Tile] = []
    position, best_end, best, at = 0, 0, None, 0
    while True:
        while at < len(ordered) and ordered[at][0] <= position:
            if ordered[at][1] > best_end:
                _, best_end, best = ordered[at]
            at += 1
        if best is not None and best_end > position:
            tiles.append(_Tile(position, best_end, best))
            position = best_end
        elif at < len(ordered):
            position = ordered[at][0]
        else:
            return tiles


def no_wal(place: str) -> ArchiveLacks:
    """Return the error for a place that holds no WAL at all."""
    return ArchiveLacks(
        f"no WAL is archived at {place}",
        detail="Nothing says which version of PostgreSQL its source has.",
        hint="Run 'pitr capture', or name another place.",
    )
