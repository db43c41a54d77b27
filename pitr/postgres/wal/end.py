"""Why reading a WAL stopped."""

from __future__ import annotations

from enum import IntEnum


class LogEnd(IntEnum):
    """Why reading stopped; the numbers are those of the C kernel.

    Up to UNWRITTEN nothing is wrong with the bytes. From BAD_MAGIC on they contradict the format,
    which on a running server also happens at the end of what it has written: old segments are used
    again without being zeroed. So in the middle of a finished segment it is damage, at the end of
    an open one it is not.
    """

    CLEAN = 0
    TORN = 1
    STOPPED = 2
    UNWRITTEN = 3
    BAD_MAGIC = 4
    BAD_PAGE_FLAGS = 5
    FOREIGN_SYSTEM = 6
    WRONG_SEGMENT_SIZE = 7
    WRONG_ADDRESS = 8
    WRONG_TIMELINE = 9
    NO_CONTRECORD = 10
    BAD_CONTRECORD = 11
    BAD_LENGTH = 12
    BAD_RMGR = 13
    PREV_MISMATCH = 14
    CRC_MISMATCH = 15
    MALFORMED = 16

    @property
    def is_fault(self) -> bool:
        """Return whether the bytes at this end contradict the format."""
        return self > LogEnd.UNWRITTEN

    @property
    def meaning(self) -> str:
        """Return what was found, as part of a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    LogEnd.CLEAN: "the bytes end where a record ends",
    LogEnd.TORN: "the bytes end inside a record or a page header",
    LogEnd.STOPPED: "the record at which to stop was reached",
    LogEnd.UNWRITTEN: "zeros stand where a record or a page would begin",
    LogEnd.BAD_MAGIC: "the page has the magic number of another version, or is no WAL page",
    LogEnd.BAD_PAGE_FLAGS: "the page header has flags that it cannot have",
    LogEnd.FOREIGN_SYSTEM: "the page was written by another cluster",
    LogEnd.WRONG_SEGMENT_SIZE: "the page is of segments or pages of another size",
    LogEnd.WRONG_ADDRESS: "the page belongs to another place in the WAL",
    LogEnd.WRONG_TIMELINE: "the page is of an earlier timeline than the one before it",
    LogEnd.NO_CONTRECORD: "a record does not go on on the next page, or one does that never began",
    LogEnd.BAD_CONTRECORD: "the rest of a record has another length than its beginning says",
    LogEnd.BAD_LENGTH: "the length of a record is impossible",
    LogEnd.BAD_RMGR: "the record's resource manager does not exist in this version",
    LogEnd.PREV_MISMATCH: "the record does not follow the one before it",
    LogEnd.CRC_MISMATCH: "the checksum of the record is wrong",
    LogEnd.MALFORMED: "the record's checksum is right and its parts contradict each other",
}
