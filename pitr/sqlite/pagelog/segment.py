"""Commit segments: the page images of a run of commits, each commit addressable by itself.

A commit segment is an archive object of kind SEGM. Its page images lie one after the other, each a
zstd frame of its own, so that one page is one range; its index says which commit each belongs to.
Specification: docs/formats/archive.md, "Commit segments".
"""

from __future__ import annotations

import enum
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import msgspec
import xxhash
import zstandard

from pitr.archive.document import newer_format
from pitr.archive.object import ObjectReader, Section, encode_object
from pitr.errors import CorruptObject

KIND = b"SEGM"
VERSION = 1
FIRST_CHAIN = bytes(16)
PAGE_SIZES = frozenset(1 << n for n in range(9, 17))

_PAGES, _HEAD, _COMMITS, _NUMBERS, _LENGTHS, _DIGESTS = range(6)
# number, first covered, kind, has WAL mark, zero, fork, time begin, time end, page count, entries,
# salt 1, salt 2, frame, checksum 1, checksum 2, change counter, chain
_COMMIT = struct.Struct("<QQBBHIqqIIIIIIII16s")
_CHAINED = struct.Struct("<QBIqI")
# Measured on pages of four databases: level 3 costs a sixth to a quarter more time for at most 4 %
# less space; levels below 1 lose up to 40 % of space.
_LEVEL = 1


class CommitKind(enum.IntEnum):
    """How a state came to be known, and so what can be said about the time before it."""

    COMMIT = 0  # one transaction (in rollback-journal mode: all since the last reading)
    BASE = 1  # the whole image
    GAP = 2  # a page difference after a stretch that was not seen
    FORK = 3  # a page difference after production fell behind the archive
    MERGED = 4  # several older commits, folded by compaction; only their last state is kept


class Note(enum.StrEnum):
    """What the name of a segment says of its commits besides their numbers."""

    NONE = ""
    COARSE = "coarse"  # compaction has folded what could be folded
    BASE = "base"  # this and the following: a single commit of that kind
    GAP = "gap"
    FORK = "fork"

    @property
    def is_special(self) -> bool:
        """Return whether the segment holds a single base, gap or fork."""
        return self in _SPECIAL_NOTES


# A segment to themselves, so that a listing shows where the history was broken and begun.
_SPECIAL = {CommitKind.BASE: Note.BASE, CommitKind.GAP: Note.GAP, CommitKind.FORK: Note.FORK}
_SPECIAL_NOTES = frozenset(_SPECIAL.values())


@dataclass(frozen=True, slots=True)
class WalMark:
    """A place in the WAL: its generation's salts, the last frame (from 1), the checksum there."""

    salt1: int
    salt2: int
    frame: int
    checksum1: int
    checksum2: int


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One commit as the archive knows it.

    It happened in (time_begin_us, time_end_us]. `first_covered` is below `number` for MERGED only.
    `chain` digests this commit's pages and everything before them.
    """

    number: int
    first_covered: int
    kind: CommitKind
    fork: int
    time_begin_us: int
    time_end_us: int
    page_count: int
    wal: WalMark | None
    change_counter: int
    chain: bytes

    def with_chain(self, chain: bytes) -> CommitRecord:
        """Return the record with its chain; a fifth of the cost of dataclasses.replace."""
        return CommitRecord(
            self.number, self.first_covered, self.kind, self.fork, self.time_begin_us,
            self.time_end_us, self.page_count, self.wal, self.change_counter, chain,
        )  # fmt: skip


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    page_size: int
    first: int
    last: int
    part: int
    continued: bool
    lease: int
    chain_before: str
    chain_after: str
    note: Note


# Made here, in one thread: pitr/archive/document.py says why.
_HEAD_DECODER = msgspec.json.Decoder(_Head)


def page_digest(image: bytes) -> int:
    """Return the digest by which equal page images are known: XXH3-64 of the raw bytes."""
    return xxhash.xxh3_64_intdigest(image)


def segment_key(
    first: int,
    last: int,
    part: int,
    lease: int,
    before: bytes,
    after: bytes,
    *,
    continued: bool,
    note: Note,
) -> str:
    """Return the key of a commit segment; see docs/formats/archive.md, "Keys"."""
    commits = f"{first:016d}-{last:016d}.{part:04d}{'+' if continued else ''}"
    chain = f"{before[:4].hex()}-{after[:4].hex()}"
    return f"log/{commits}.{lease:08d}.{chain}{'.' if note else ''}{note}"


def begin_chain(before: bytes, record: CommitRecord) -> xxhash.xxh3_128:
    """Return the chain of a commit, still without its pages; its own `chain` is not looked at."""
    chain = xxhash.xxh3_128(before)
    fields = record.number, record.kind, record.fork, record.time_end_us, record.page_count
    chain.update(_CHAINED.pack(*fields))
    return chain


def extend_chain(chain: xxhash.xxh3_128, numbers: array[int], digests: array[int]) -> None:
    """Take pages into the chain of their commit, in ascending order."""
    entries = array("Q", bytes(16 * len(numbers)))
    entries[0::2] = array("Q", numbers)
    entries[1::2] = digests
    chain.update(entries)


@dataclass(slots=True)
class _OpenCommit:
    record: CommitRecord  # as yet with the chain of the commit before
    chain: xxhash.xxh3_128
    entry_begin: int
    byte_begin: int
    part: int = 0


class SegmentWriter:
    """Turn commits into commit segments, in order, holding at most about `bytes_max` in memory.

    `emit(key, data)` is called with each finished object. A commit larger than `bytes_max` is cut
    into parts, the last of which alone carries its record: without it the commit does not exist.
    Bases, gaps and forks get objects of their own, named so; the others are named by `note`.
    """

    def __init__(
        self,
        emit: Callable[[str, bytes], None],
        *,
        page_size: int,
        lease: int,
        chain: bytes = FIRST_CHAIN,
        bytes_max: int = 32 << 20,
        note: Note = Note.NONE,
    ) -> None:
        self._emit = emit
        self._page_size = page_size
        self._lease = lease
        self._chain = chain
        self._bytes_max = bytes_max
        self._usual_note = self._note = note
        self._compress = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress
        self._open: _OpenCommit | None = None
        self._clear()

    def _clear(self) -> None:
        self._chain_before = self._chain
        self._records: list[tuple[CommitRecord, int]] = []
        self._frames: list[bytes | memoryview] = []
        self._numbers = array("I")
        self._lengths = array("I")
        self._digests = array("Q")
        self.pending_bytes = 0

    @property
    def pending_commits(self) -> int:
        """Return how many complete commits wait for `flush`."""
        return len(self._records)

    def begin(
        self,
        *,
        number: int,
        kind: CommitKind,
        fork: int,
        time_begin_us: int,
        time_end_us: int,
        page_count: int,
        wal: WalMark | None,
        change_counter: int = 0,
        first_covered: int | None = None,
    ) -> None:
        """Begin a commit; its pages follow in ascending order."""
        assert self._open is None, "the commit before was not ended"
        note = _SPECIAL.get(kind, self._usual_note)
        if note.is_special:
            self.flush()
        self._note = note
        first = number if first_covered is None else first_covered
        record = CommitRecord(
            number, first, kind, fork, time_begin_us, time_end_us, page_count, wal, change_counter,
            self._chain,
        )  # fmt: skip
        chain = begin_chain(self._chain, record)
        self._open = _OpenCommit(record, chain, len(self._numbers), self.pending_bytes)

    def page(self, page_number: int, image: bytes, digest: int) -> None:
        """Add the image that a page has after the open commit; each page at most once."""
        self.page_frame(page_number, self._compress(image), digest)

    def page_frame(self, page_number: int, frame: bytes | memoryview, digest: int) -> None:
        """Add a page whose zstd frame is already at hand (compaction copies them unchanged)."""
        assert self._open is not None, "no commit is open"
        if self.pending_bytes + len(frame) > self._bytes_max and self.pending_bytes:
            self._make_room()
        self._frames.append(frame)
        self._numbers.append(page_number)
        self._lengths.append(len(frame))
        self._digests.append(digest)
        self.pending_bytes += len(frame)

    def end(self, *, chain: bytes | None = None) -> CommitRecord:
        """End the open commit and return its record.

        `chain` keeps a chain value that can no longer be computed, for MERGED commits.
        """
        opened = self._open
        assert opened is not None, "no commit is open"
        self._update_chain(opened)
        self._chain = opened.chain.digest() if chain is None else chain
        record = opened.record.with_chain(self._chain)
        self._records.append((record, len(self._numbers) - opened.entry_begin))
        self._open = None
        if opened.part:
            self._write(record.first_covered, record.number, opened.part)
        elif self.pending_bytes >= self._bytes_max or self._note.is_special:
            self.flush()
        return record

    def flush(self) -> None:
        """Emit what is complete as one object; nothing when there is nothing."""
        assert self._open is None, "a commit is open"
        if self._records:
            self._write(self._records[0][0].first_covered, self._records[-1][0].number, 0)

    def _update_chain(self, opened: _OpenCommit) -> None:
        begin = opened.entry_begin
        extend_chain(opened.chain, self._numbers[begin:], self._digests[begin:])

    def _make_room(self) -> None:
        """Emit the complete commits before the open one; failing that, a part of the open one."""
        opened = self._open
        assert opened is not None
        if self._records:
            self._write_before(opened)
            return
        self._update_chain(opened)
        first, number = opened.record.first_covered, opened.record.number
        after = opened.chain.digest()
        self._write(first, number, opened.part, continued_at=after)
        self._chain_before = after
        opened.part += 1
        opened.entry_begin, opened.byte_begin = 0, 0

    def _write_before(self, opened: _OpenCommit) -> None:
        begin = opened.entry_begin
        kept = self._frames[begin:], self._numbers[begin:], self._lengths[begin:]
        digests, kept_bytes = self._digests[begin:], self.pending_bytes - opened.byte_begin
        del self._frames[begin:], self._numbers[begin:], self._lengths[begin:]
        del self._digests[begin:]
        self._write(self._records[0][0].first_covered, self._records[-1][0].number, 0)
        self._frames, self._numbers, self._lengths = kept
        self._digests, self.pending_bytes = digests, kept_bytes
        opened.entry_begin, opened.byte_begin = 0, 0

    def _write(
        self, first: int, last: int, part: int, *, continued_at: bytes | None = None
    ) -> None:
        """Emit everything collected; `continued_at` is the chain within a commit in parts."""
        before, after = self._chain_before, continued_at or self._records[-1][0].chain
        continued, note = continued_at is not None, self._note
        key = segment_key(
            first, last, part, self._lease, before, after, continued=continued, note=note
        )
        head = _Head(
            self._page_size, first, last, part, continued, self._lease, before.hex(), after.hex(),
            note,
        )  # fmt: skip
        commits = b"".join(_pack_commit(record, entries) for record, entries in self._records)
        sections = [
            Section(_PAGES, b"".join(self._frames), compress=False),
            Section(_HEAD, msgspec.json.encode(head)),
            Section(_COMMITS, commits),
            Section(_NUMBERS, self._numbers.tobytes()),
            Section(_LENGTHS, self._lengths.tobytes()),
            Section(_DIGESTS, self._digests.tobytes(), compress=False),
        ]
        self._clear()  # before encoding: the frames are in `sections` now, once is enough
        self._emit(key, encode_object(KIND, VERSION, sections))


def _pack_commit(record: CommitRecord, entries: int) -> bytes:
    mark = record.wal or WalMark(0, 0, 0, 0, 0)
    return _COMMIT.pack(
        record.number,
        record.first_covered,
        record.kind,
        record.wal is not None,
        0,
        record.fork,
        record.time_begin_us,
        record.time_end_us,
        record.page_count,
        entries,
        mark.salt1,
        mark.salt2,
        mark.frame,
        mark.checksum1,
        mark.checksum2,
        record.change_counter,
        record.chain,
    )


class SegmentIndex:
    """The index of one commit segment: its commits, and where each page image lies."""

    def __init__(self, reader: ObjectReader) -> None:
        """Decode the index sections.

        Raises CorruptObject, PreconditionFailed for a newer format.
        """
        if reader.version > VERSION:
            raise newer_format(reader.key, reader.version)
        self.key = reader.key
        try:
            head = _HEAD_DECODER.decode(reader.section(_HEAD))
            self.chain_before = bytes.fromhex(head.chain_before)
            self.chain_after = bytes.fromhex(head.chain_after)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise CorruptObject(self.key, f"Its head cannot be read: {error}.") from None
        self.page_size = head.page_size
        self.first, self.last, self.part = head.first, head.last, head.part
        self.continued, self.lease, self.note = head.continued, head.lease, head.note
        self.numbers = self._array("I", reader.section(_NUMBERS))
        self.lengths = self._array("I", reader.section(_LENGTHS))
        self.digests = self._array("Q", reader.section(_DIGESTS))
        begin, end = reader.extent(_PAGES)
        self.offsets = array("Q", accumulate(self.lengths, initial=begin))
        self._read_commits(reader.section(_COMMITS))
        if self.page_size not in PAGE_SIZES:
            raise CorruptObject(self.key, f"Its pages are said to have {self.page_size} bytes.")
        if not len(self.numbers) == len(self.lengths) == len(self.digests):
            raise CorruptObject(self.key, "Its index columns differ in length.")
        if self.offsets[-1] != end:
            raise CorruptObject(self.key, "Its page images do not fill their section.")
        if self.continued == bool(self.records) or (
            self.records and self.records[-1].chain != self.chain_after
        ):
            raise CorruptObject(self.key, "Its commit table does not fit its head.")
        if (self.part or self.continued) and not self.numbers:
            raise CorruptObject(self.key, "A part of a large commit without pages.")
        notes = [_SPECIAL.get(record.kind) for record in self.records]
        if notes != [self.note] if self.note.is_special and notes else any(notes):
            raise CorruptObject(self.key, "Its commits are of other kinds than its head says.")

    def check_key(self) -> None:
        """Raise CorruptObject when the object lies under another name than its writer gave it."""
        own = segment_key(
            self.first, self.last, self.part, self.lease, self.chain_before, self.chain_after,
            continued=self.continued, note=self.note,
        )  # fmt: skip
        if own != self.key:
            raise CorruptObject(self.key, f"Its content belongs to {own}.")

    def _array(self, code: str, data: bytes) -> array[int]:
        column = array(code)
        if len(data) % column.itemsize:
            raise CorruptObject(self.key, "An index column is cut short.")
        column.frombytes(data)
        return column

    def _read_commits(self, data: bytes) -> None:
        if len(data) % _COMMIT.size:
            raise CorruptObject(self.key, "Its commit table is cut short.")
        self.records: list[CommitRecord] = []
        self.begins = array("Q")  # the first entry of each record; one more at the end
        entry = before = 0
        for fields in _COMMIT.iter_unpack(data):
            number, first, kind, has_wal, _zero, fork, begin_us, end_us, page_count, entries = (
                fields[:10]
            )
            if kind not in CommitKind._value2member_map_:
                raise CorruptObject(self.key, f"Commit {number} is of unknown kind {kind}.")
            if not before < first <= number:
                raise CorruptObject(self.key, f"Commit {number} is out of order.")
            before = number
            wal = WalMark(*fields[10:15]) if has_wal else None
            self.records.append(
                CommitRecord(
                    number, first, CommitKind(kind), fork, begin_us, end_us, page_count, wal,
                    fields[15], fields[16],
                )
            )  # fmt: skip
            self.begins.append(entry)
            entry += entries
        self.begins.append(entry)
        # A part that continues has pages but no record: they belong to the commit of its name.
        if self.records and entry != len(self.numbers):
            raise CorruptObject(self.key, "Its commit table does not fit its pages.")

    def commit_at(self, ordinal: int) -> int:
        """Return the number of the record at `ordinal`; of a part without records, its commit's."""
        return self.records[ordinal].number if self.records else self.last

    def entries_of(self, ordinal: int) -> range:
        """Return the entries of the record at `ordinal`; of a part without records, all."""
        if not self.records:
            return range(len(self.numbers))
        return range(self.begins[ordinal], self.begins[ordinal + 1])

    def ordinal_of(self, number: int) -> int:
        """Return the ordinal of the record that covers a commit number."""
        return bisect_left(self.records, number, key=lambda record: record.number)

    def commit_of(self, entry: int) -> int:
        """Return the number of the commit that an entry belongs to."""
        if not self.records:
            return self.last
        return self.records[bisect_right(self.begins, entry) - 1].number

    def find(self, number: int, page_number: int) -> int | None:
        """Return the entry of a page in the record that covers commit `number`, if it is there."""
        entries = self.entries_of(self.ordinal_of(number) if self.records else 0)
        at = bisect_left(self.numbers, page_number, entries.start, entries.stop)
        return at if at < entries.stop and self.numbers[at] == page_number else None

    def extent(self, entry: int) -> tuple[int, int]:
        """Return the half-open byte range of a page's zstd frame inside the object."""
        return self.offsets[entry], self.offsets[entry + 1]
