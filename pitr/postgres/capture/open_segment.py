"""The WAL segment that the server is filling: what came of it, checked, and what to store of it.

No I/O. Every record is verified, its CRC included, before the bytes that end it are handed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from pitr.errors import CorruptWal
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import LONG_HEADER_BYTES, SegmentHeader, decode_segment_header
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.segment_name import SegmentName
from pitr.postgres.wal.versions import WalVersion
from pitr.postgres.wal_store.object import (
    BLOCK_BYTES,
    WalBlock,
    WalHead,
    compress_blocks,
    encode_blocks,
    encode_wal,
)
from pitr.vocabulary.position import Lsn

# Every 16th piece reaches back over the 15 before it, every 256th over 255, and so on.
_PIECES = 16
# What a worker compresses at once: handing it over costs as much as a part of a block.
_BATCH_BLOCKS = 8


class WalDiverged(Exception):
    """Say that the server has other WAL where the archive has some already."""

    def __init__(self, begin: Lsn, end: Lsn) -> None:
        self.begin = begin
        self.end = end
        super().__init__(begin, end)


class WalDamaged(Exception):
    """Say that what the server sent is no WAL: from where on, and what is wrong there."""

    def __init__(self, at: Lsn, meaning: str) -> None:
        self.at = at
        self.meaning = meaning
        super().__init__(at, meaning)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object to be stored, and the keys of those that are useless once it is.

    `end` is the LSN up to which the WAL is archived then.
    """

    key: str
    data: bytes
    end: Lsn
    supersedes: tuple[str, ...]


class OpenSegment:
    """One segment from its first byte on. Not safe to use from several threads at once."""

    def __init__(
        self,
        name: SegmentName,
        *,
        system_identifier: str,
        before: ScanState | None,
        pool: Executor,
        archived: bytes = b"",
        pieces: Sequence[str] = (),
        spares: list[bytearray] | None = None,
    ) -> None:
        """Begin with nothing.

        `before` is the state of the scan at the segment's begin, None when unknown. `archived` is
        what the archive has of the segment, in objects called `pieces`. `pool` compresses.
        `spares` are buffers of segments that are done with.
        """
        self.name = name
        self.before = before or ScanState(name.begin)
        self.state = self.before
        self._system_identifier = system_identifier
        self._pool = pool
        self._archived = archived
        self._flushed = len(archived)
        # A new buffer costs as much as the verification of its content: the kernel zeroes it.
        self._spares = spares if spares is not None else []
        self._data = self._spares.pop() if self._spares else bytearray(name.segment_bytes)
        self._filled = 0
        self._header: SegmentHeader | None = None
        self._batches: list[Future[list[WalBlock]]] = []
        self._batched = 0  # the blocks in them
        self._flushes = [0]
        self._pieces = [(0, key) for key in pieces]
        self._scan: Scan | None = None
        self._new_scans: list[Scan] = []
        # Whether `before` knows what goes on in this segment from the one before.
        self.is_joined = before is not None

    def anew(self) -> OpenSegment:
        """Return the segment as it was begun, to be sent once more, with what was stored of it."""
        return OpenSegment(
            self.name,
            system_identifier=self._system_identifier,
            before=self.before if self.is_joined else None,
            pool=self._pool,
            archived=self._archived or bytes(memoryview(self._data)[: self._flushed]),
            pieces=[key for _, key in self._pieces],
        )

    @property
    def archived_end(self) -> Lsn:
        """Return the LSN up to which the segment was archived or handed out."""
        return Lsn(self.name.begin + self._flushed)

    def retire(self) -> None:
        """Give the buffer to a segment to come. Nothing may be asked of this one any more."""
        self._spares.append(self._data)
        self._data, self._filled = bytearray(), 0

    def following(self) -> OpenSegment:
        """Return the next segment of the timeline."""
        return self._another(self.name.next, before=self.state)

    def on_timeline(self, timeline: int, switch: Lsn) -> OpenSegment:
        """Return the segment in which another timeline goes on from this one, at `switch`.

        It begins with a copy of what this one has before that LSN.
        """
        name = SegmentName.at(timeline, switch.value, self.name.segment_bytes)
        if name.number != self.name.number:
            return self._another(name, before=self.state)
        copied = bytes(memoryview(self._data)[: switch.value - name.begin])
        return self._another(name, before=self.before, archived=copied)

    def _another(
        self, name: SegmentName, *, before: ScanState, archived: bytes = b""
    ) -> OpenSegment:
        found = OpenSegment(
            name,
            system_identifier=self._system_identifier,
            before=before,
            pool=self._pool,
            archived=archived,
            spares=self._spares,
        )
        # A segment in which no record ended says nothing of where its beginning was.
        found.is_joined = self.is_joined or bool(before.prev or before.carry)
        return found

    @property
    def end(self) -> Lsn:
        """Return the LSN from which on bytes are wanted."""
        return Lsn(self.name.begin + self._filled)

    @property
    def is_full(self) -> bool:
        """Return whether all of the segment is there."""
        return self._filled == self.name.segment_bytes

    @property
    def has_news(self) -> bool:
        """Return whether there is WAL that neither the archive had nor `flush` has handed out."""
        return self._filled > max(self._flushed, LONG_HEADER_BYTES)

    @property
    def data(self) -> memoryview:
        """Return what came so far."""
        return memoryview(self._data)[: self._filled]

    @property
    def version(self) -> WalVersion:
        """Return the format of the WAL. Raises CorruptWal before its first page is there."""
        return self._needed_header().version

    def take_scans(self) -> list[Scan]:
        """Return what was found in the WAL that was handed out since the last call."""
        scans, self._new_scans = self._new_scans, []
        return scans

    def whole_scan(self) -> Scan:
        """Return what all of a segment that was finished holds."""
        if self._scan is None:
            self._scan = self._scan_from(self.before)
        return self._scan

    def add(self, data: memoryview) -> memoryview:
        """Take what fits into the segment, and return the rest."""
        taken = data[: self.name.segment_bytes - self._filled]
        filled = self._filled + len(taken)
        memoryview(self._data)[self._filled : filled] = taken  # a bytearray itself would copy twice
        self._filled = filled
        if self.is_full or filled >= (self._batched + _BATCH_BLOCKS) * BLOCK_BYTES:
            self._compress()
        return data[len(taken) :]

    def _compress(self) -> None:
        """Have the blocks compressed that are whole and have not been."""
        begin, end = self._batched, self._filled // BLOCK_BYTES
        if begin < end:
            raw = memoryview(self._data)[begin * BLOCK_BYTES : end * BLOCK_BYTES]
            self._batches.append(self._pool.submit(compress_blocks, raw))
            self._batched = end

    def _compressed(self) -> list[WalBlock]:
        """Return the blocks of what came so far; the last may be short. Waits for the pool."""
        self._compress()
        rest = memoryview(self._data)[self._batched * BLOCK_BYTES : self._filled]
        last = compress_blocks(rest)
        return [block for batch in self._batches for block in batch.result()] + last

    def flush(self) -> Stored | None:
        """Return a piece with all that has come since the last one; None when nothing has.

        Raises WalDiverged, WalDamaged, CorruptWal.
        """
        if not self.has_news:
            return None
        self._check()
        number = len(self._flushes)
        reach = 1
        while number % (reach * _PIECES) == 0:
            reach *= _PIECES
        begin = self._flushes[number - reach]
        self._flushes.append(self._filled)
        return self._piece(begin)

    def close(self) -> Stored | None:
        """Return one piece of all that came, for a segment that no more will come of.

        None when the archive has it. Raises as `flush` does.
        """
        self._check()
        if not self._filled or self._head(0).key in (key for _, key in self._pieces):
            return None
        return self._piece(0)

    def finish(self) -> Stored:
        """Return the whole segment. Raises as `flush` does."""
        assert self.is_full
        self._check()
        head = self._head(0)
        data = encode_blocks(head, self._compressed())
        return Stored(head.key, data, self.end, tuple(key for _, key in self._pieces))

    def _piece(self, begin: int) -> Stored:
        head = self._head(begin)
        useless = tuple(key for at, key in self._pieces if at >= begin)
        self._pieces = [(at, key) for at, key in self._pieces if at < begin]
        self._pieces.append((begin, head.key))
        self._flushed = self._filled
        if begin % BLOCK_BYTES:
            data = encode_wal(head, memoryview(self._data)[begin : self._filled])
        else:
            data = encode_blocks(head, self._compressed()[begin // BLOCK_BYTES :])
        return Stored(head.key, data, self.end, useless)

    def _head(self, begin: int) -> WalHead:
        header = self._needed_header()
        return WalHead(
            timeline=self.name.timeline,
            segment=self.name.number,
            segment_bytes=self.name.segment_bytes,
            begin=begin,
            end=self._filled,
            system_identifier=self._system_identifier,
            page_magic=header.version.magic,
        )

    def _needed_header(self) -> SegmentHeader:
        if self._header is None:
            found = decode_segment_header(memoryview(self._data)[:LONG_HEADER_BYTES])
            claimed = (found.begin, str(found.system_identifier), found.segment_bytes)
            wanted = (self.name.begin, self._system_identifier, self.name.segment_bytes)
            if claimed != wanted:
                raise CorruptWal(
                    f"WAL segment {self.name} is not what the server was asked for",
                    detail=f"Its first page claims LSN {Lsn(found.begin)} of cluster {claimed[1]} "
                    f"with segments of {claimed[2]} bytes.",
                )
            self._header = found
        return self._header

    def _check(self) -> None:
        """Compare with what is archived, and verify every record that has come to its end."""
        known = min(len(self._archived), self._filled)
        if self._data[:known] != self._archived[:known]:
            raise WalDiverged(Lsn(self.name.begin), Lsn(self.name.begin + known))
        if known == len(self._archived):
            self._archived = b""
        if self._filled < LONG_HEADER_BYTES or self.state.position >= self.end.value:
            return
        found = self._scan_from(self.state)
        # Only flushed WAL is sent, so zeros where a record should be are damage as well.
        if found.end.is_fault or found.end is LogEnd.UNWRITTEN:
            raise WalDamaged(Lsn(found.state.position), found.end.meaning)
        self._new_scans.append(found)
        self._scan = found if self.state is self.before else None
        self.state = found.state

    def _scan_from(self, state: ScanState) -> Scan:
        begin = min(state.position - self.name.begin, self._filled)
        return scan(
            memoryview(self._data)[begin : self._filled],
            self.name.begin + begin,
            state,
            version=self._needed_header().version,
            segment_bytes=self.name.segment_bytes,
            system_identifier=int(self._system_identifier),
        )
