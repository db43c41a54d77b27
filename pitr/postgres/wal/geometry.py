"""Where records lie between page headers: LSNs and usable byte positions, back and forth.

    LSN         counts every byte of the WAL
    position    counts only the bytes that records are made of: no page headers

A page of a segment begins with a header of 24 bytes, the first one of a segment with 40. A record
begins after the header, and may end where a page does. Source: xlog.c, XLogBytePosToRecPtr.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORT_HEADER_BYTES = 24
LONG_HEADER_BYTES = 40
_EXTRA_BYTES = LONG_HEADER_BYTES - SHORT_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class WalGeometry:
    """The sizes of a cluster's WAL; LSNs are plain integers here, because this is arithmetic."""

    segment_bytes: int
    page_bytes: int

    @property
    def _in_page(self) -> int:
        return self.page_bytes - SHORT_HEADER_BYTES

    @property
    def _in_segment(self) -> int:
        return self.segment_bytes // self.page_bytes * self._in_page - _EXTRA_BYTES

    def header_bytes(self, page: int) -> int:
        """Return the size of the header of the page that begins at this LSN."""
        return SHORT_HEADER_BYTES if page % self.segment_bytes else LONG_HEADER_BYTES

    def position(self, lsn: int) -> int:
        """Return the position of an LSN; one inside a header counts as the first byte after it."""
        segment, offset = divmod(lsn, self.segment_bytes)
        page, inside = divmod(offset, self.page_bytes)
        header = SHORT_HEADER_BYTES if page else LONG_HEADER_BYTES
        before = page * self._in_page - (_EXTRA_BYTES if page else 0)
        return segment * self._in_segment + before + max(inside - header, 0)

    def start(self, position: int) -> int:
        """Return the LSN at which a record at this position begins: never inside a header."""
        segment, rest = divmod(position, self._in_segment)
        page, inside = divmod(rest + _EXTRA_BYTES, self._in_page)
        # With the extra bytes of the long header counted in, all pages are alike.
        return segment * self.segment_bytes + page * self.page_bytes + SHORT_HEADER_BYTES + inside

    def end(self, position: int) -> int:
        """Return the LSN at which a record that ends at this position ends: maybe a page's end."""
        lsn = self.start(position)
        page = lsn - lsn % self.page_bytes
        return page if lsn - page == self.header_bytes(page) else lsn

    def next_begin(self, lsn: int, length: int) -> int:
        """Return where a record begins that follows one of this aligned length at an LSN."""
        return self.start(self.position(lsn) + length)

    def segment(self, lsn: int) -> int:
        """Return the number of the segment that an LSN lies in."""
        return lsn // self.segment_bytes

    def segment_position(self, segment: int) -> int:
        """Return the position of the first record byte of a segment."""
        return segment * self._in_segment
