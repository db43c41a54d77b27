"""Names of WAL files: segments, partial segments, timeline histories, backup histories.

Source: src/include/access/xlog_internal.h (XLogFileName and its neighbours). The 24 digits of a
segment are timeline, high and low part of its number, eight each; the low part counts the segments
in 4 GiB, so a name has a meaning only together with the segment size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEGMENT_BYTES_DEFAULT = 16 << 20
SEGMENT_BYTES_MIN = 1 << 20
SEGMENT_BYTES_MAX = 1 << 30
_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_BACKUP = re.compile(r"([0-9A-F]{24})\.([0-9A-F]{8})\.backup")
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """One segment of one timeline; `number` counts segments of the given size from LSN 0."""

    timeline: int
    number: int
    segment_bytes: int = SEGMENT_BYTES_DEFAULT

    @classmethod
    def parse(cls, text: str, segment_bytes: int = SEGMENT_BYTES_DEFAULT) -> SegmentName:
        """Read 24 upper-case hex digits. Raises ValueError, also when the size rules them out."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"not the name of a WAL segment: {text!r}")
        timeline, high, low = (int(part, 16) for part in match.groups())
        if low >= (1 << 32) // segment_bytes or timeline == 0:
            raise ValueError(f"no segment of {segment_bytes} bytes has the name {text}")
        return cls(timeline, high * ((1 << 32) // segment_bytes) + low, segment_bytes)

    @classmethod
    def at(cls, timeline: int, lsn: int, segment_bytes: int = SEGMENT_BYTES_DEFAULT) -> SegmentName:
        """Return the segment that holds the byte at `lsn`."""
        return cls(timeline, lsn // segment_bytes, segment_bytes)

    @property
    def begin(self) -> int:
        """Return the LSN of the segment's first byte."""
        return self.number * self.segment_bytes

    @property
    def end(self) -> int:
        """Return the LSN after the segment's last byte."""
        return self.begin + self.segment_bytes

    @property
    def next(self) -> SegmentName:
        """Return the segment after it on the same timeline."""
        return SegmentName(self.timeline, self.number + 1, self.segment_bytes)

    @property
    def previous(self) -> SegmentName:
        """Return the segment before it on the same timeline; number 0 has none."""
        return SegmentName(self.timeline, self.number - 1, self.segment_bytes)

    @property
    def partial(self) -> str:
        """Return the name of the segment as a promoted server archives its unfinished last one."""
        return f"{self}{_PARTIAL}"

    def __str__(self) -> str:
        high, low = divmod(self.number, (1 << 32) // self.segment_bytes)
        return f"{self.timeline:08X}{high:08X}{low:08X}"


def is_segment_bytes(size: int) -> bool:
    """Return whether a segment can have this size: a power of two from 1 MiB to 1 GiB."""
    return SEGMENT_BYTES_MIN <= size <= SEGMENT_BYTES_MAX and size & (size - 1) == 0


def is_segment_name(text: str) -> bool:
    """Return whether this is the name of a whole segment, of whatever size."""
    return _NAME.fullmatch(text) is not None


def is_partial_name(text: str) -> bool:
    """Return whether this is the name of a partial segment."""
    return text.endswith(_PARTIAL) and is_segment_name(text.removesuffix(_PARTIAL))


def is_backup_name(text: str) -> bool:
    """Return whether this is the name of a backup history file: a segment and an offset in it."""
    return _BACKUP.fullmatch(text) is not None


def history_name(timeline: int) -> str:
    """Return the name of the history file of a timeline."""
    return f"{timeline:08X}.history"


def timeline_of_history(text: str) -> int | None:
    """Return the timeline whose history file has this name, or None."""
    match = _HISTORY.fullmatch(text)
    return int(match[1], 16) if match else None
