"""Records of one timeline, one after the other, from any place in its WAL.

The bytes come from a function, so that they may lie in segment files, in an archive or in memory;
the scan of `pitr.postgres.wal.scan` verifies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import PAGE_BYTES, content_of
from pitr.postgres.wal.record import Record, decode_record
from pitr.postgres.wal.scan import NO_STOP, ScanState, scan
from pitr.postgres.wal.versions import WalVersion

# read(begin, end): the WAL bytes of [begin, end), or fewer when it ends before; b"" for none.
ReadWal = Callable[[int, int], bytes]

CHUNK_BYTES = 1 << 20


class RecordReader:
    """Iterate the records that begin in [begin, stop) of one timeline, each verified.

    `begin` is the LSN of a record, or any LSN when `is_exact` is False: then records begin with the
    first one at or after it (all of the page of `begin` must be readable), and that the first one
    follows its predecessor is not verified. Afterwards `end` says why the iteration stopped and
    `state.position` where; with TORN or CLEAN more bytes may come, and iterating again goes on.

    A record whose rest was never written, because the server crashed and recovery wrote on behind
    it, is passed over; the XLOG_OVERWRITE_CONTRECORD record that follows names it.
    """

    def __init__(
        self,
        read: ReadWal,
        begin: int,
        *,
        version: WalVersion,
        segment_bytes: int,
        system_identifier: int = 0,
        stop: int = NO_STOP,
        is_exact: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.state = ScanState(begin if is_exact else begin - begin % PAGE_BYTES)
        self.end = LogEnd.CLEAN
        self._read = read
        self._begin = begin
        self._version = version
        self._segment_bytes = segment_bytes
        self._system_identifier = system_identifier
        self._stop = stop
        self._chunk_bytes = chunk_bytes

    def __iter__(self) -> Iterator[Record]:
        """Yield records; raises what the reading function raises."""
        while True:
            before = self.state
            at = before.position
            wanted = at + self._chunk_bytes - at % self._chunk_bytes
            data = self._read(at, wanted)
            found = scan(
                data,
                at,
                before,
                version=self._version,
                segment_bytes=self._segment_bytes,
                system_identifier=self._system_identifier,
                stop=self._stop,
            )
            self.state, self.end = found.state, found.end
            for lsn, total in zip(found.records.lsn, found.records.length, strict=True):
                if lsn >= self._begin:
                    content = self._content(data, at, lsn, total, before)
                    yield decode_record(lsn, content, self._version)
            if self.end not in (LogEnd.CLEAN, LogEnd.TORN) or at + len(data) < wanted:
                return

    def _content(self, data: bytes, at: int, lsn: int, total: int, before: ScanState) -> bytes:
        if lsn >= at:
            return content_of(data, at, lsn, total, self._segment_bytes)
        head = before.carry
        rest = content_of(data, at, at, total - len(head), self._segment_bytes)
        return head + rest
