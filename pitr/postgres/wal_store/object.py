"""WAL in the archive: a whole segment, or a piece of the one still open, in blocks.

Specification: docs/formats/postgres-archive.md, "WAL". The bytes of an object follow from the WAL
in it alone: capture and wal-push write the same object, and neither needs to know of the other.
Nothing here does I/O but `WalObject`, which fetches the ranges that it was asked for.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import msgspec
import xxhash
import zstandard

from pitr.archive.document import newer_format
from pitr.archive.object import ObjectReader, Section, decompress, encode_object
from pitr.archive.store import Store
from pitr.errors import CorruptObject
from pitr.postgres.wal.segment_name import SegmentName, is_segment_bytes
from pitr.vocabulary.position import Lsn

KIND = b"WALS"
VERSION = 1
BLOCK_BYTES = 128 << 10
# Fixed, for the bytes of an object must not depend on who writes it: docs/decisions has figures.
_LEVEL = 2

_HEAD, _LENGTHS, _DIGESTS, _BLOCKS = 1, 2, 3, 16
# A section has at most 2^30 bytes and a segment may have as many: 512 blocks are 64 MiB.
_SECTION_BLOCKS = 512


class WalHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a WAL object says of itself: bytes [begin, end) of one segment of one cluster.

    `page_magic` is that of the segment's first page; it stands for the major version.
    """

    timeline: int
    segment: int
    segment_bytes: int
    begin: int
    end: int
    system_identifier: str
    page_magic: int

    @property
    def is_possible(self) -> bool:
        """Return whether there can be such a piece of WAL: what follows may be computed then."""
        return (
            is_segment_bytes(self.segment_bytes)
            and 0 <= self.begin < self.end <= self.segment_bytes
            and 0 < self.timeline < 1 << 32
            and 0 <= self.segment < (1 << 63) // self.segment_bytes
        )

    @property
    def is_whole(self) -> bool:
        """Return whether the object holds its segment from beginning to end."""
        return self.begin == 0 and self.end == self.segment_bytes

    @property
    def key(self) -> str:
        """Return the key under which the object is stored."""
        name = SegmentName(self.timeline, self.segment, self.segment_bytes)
        key = f"wal/{self.timeline:08X}/{name}"
        return key if self.is_whole else f"{key}.{self.begin:08X}-{self.end:08X}"

    @property
    def begin_lsn(self) -> Lsn:
        """Return where the object's bytes begin."""
        return Lsn(self.segment * self.segment_bytes + self.begin)

    @property
    def end_lsn(self) -> Lsn:
        """Return where they end, itself excluded."""
        return Lsn(self.segment * self.segment_bytes + self.end)


# Made here, in one thread: pitr/archive/document.py says why.
_WAL_HEAD = msgspec.json.Decoder(WalHead)


@dataclass(frozen=True, slots=True)
class WalBlock:
    """Up to BLOCK_BYTES of WAL, compressed: its zstd frame and the XXH3-64 of its raw bytes."""

    frame: bytes
    digest: int


def compress_blocks(raw: memoryview) -> list[WalBlock]:
    """Return the blocks of some WAL, of BLOCK_BYTES each but the last.

    Safe in several threads at once; the interpreter lock is free most of the time.
    """
    compress, digest = _compressor().compress, xxhash.xxh3_64_intdigest
    parts = (raw[at : at + BLOCK_BYTES] for at in range(0, len(raw), BLOCK_BYTES))
    return [WalBlock(compress(part), digest(part)) for part in parts]


def encode_blocks(head: WalHead, blocks: Sequence[WalBlock]) -> bytes:
    """Return the object with these blocks, of BLOCK_BYTES raw bytes each but the last."""
    lengths = array("I", (len(block.frame) for block in blocks))
    digests = array("Q", (block.digest for block in blocks))
    if sys.byteorder == "big":
        lengths.byteswap()
        digests.byteswap()
    sections = [
        Section(
            _BLOCKS + number,
            b"".join(block.frame for block in blocks[first : first + _SECTION_BLOCKS]),
            compress=False,
        )
        for number, first in enumerate(range(0, len(blocks), _SECTION_BLOCKS))
    ]
    sections.append(Section(_HEAD, msgspec.json.encode(head), compress=False))
    sections.append(Section(_LENGTHS, lengths.tobytes()))
    sections.append(Section(_DIGESTS, digests.tobytes(), compress=False))
    return encode_object(KIND, VERSION, sections)


def encode_wal(head: WalHead, data: bytes | memoryview) -> bytes:
    """Return the object that holds `data`, the bytes [head.begin, head.end) of a segment."""
    assert len(data) == head.end - head.begin
    return encode_blocks(head, compress_blocks(memoryview(data)))


class WalObject:
    """One WAL object, read block by block, each block verified. Safe in several threads at once."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        """Read the head and the index of blocks: one request.

        Raises ObjectMissing, CorruptObject; PreconditionFailed for an object of a later format.
        """
        self._open(ObjectReader(store, key, size, KIND))

    @classmethod
    def of_bytes(cls, key: str, data: bytes) -> WalObject:
        """Read an object that is wholly in memory. Raises as the constructor does."""
        return cls.of_reader(ObjectReader.of_bytes(key, data, KIND))

    @classmethod
    def of_reader(cls, reader: ObjectReader) -> WalObject:
        """Read an object whose frame is open. Raises as the constructor does."""
        found = cls.__new__(cls)
        found._open(reader)
        return found

    def _open(self, reader: ObjectReader) -> None:
        if reader.version > VERSION:
            raise newer_format(reader.key, reader.version)
        self.key = reader.key
        self._reader = reader
        try:
            self.head = _WAL_HEAD.decode(reader.section(_HEAD))
            is_named = self.head.is_possible and self.head.key == reader.key
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise CorruptObject(reader.key, f"Its head does not decode: {error}.") from None
        if not is_named:
            raise CorruptObject(reader.key, "Its head says that it is another piece of WAL.")
        self._lengths = self._column("I", _LENGTHS)
        self._digests = self._column("Q", _DIGESTS)
        self._ends = self._frame_ends()
        # Records are read one after the other, many from one block: its number and its bytes.
        self._last: tuple[int, bytes] | None = None

    def _column(self, code: str, section: int) -> array[int]:
        column = array(code)
        raw = self._reader.section(section)
        count = -(-(self.head.end - self.head.begin) // BLOCK_BYTES)
        if len(raw) != count * column.itemsize:
            raise CorruptObject(self.key, f"Section {section} does not fit {count} blocks.")
        column.frombytes(raw)
        if sys.byteorder == "big":
            column.byteswap()
        return column

    def _frame_ends(self) -> list[int]:
        """Return where each frame ends in the object; frames of a section are contiguous."""
        ends: list[int] = []
        for first in range(0, len(self._lengths), _SECTION_BLOCKS):
            begin, end = self._reader.extent(_BLOCKS + first // _SECTION_BLOCKS)
            lengths = self._lengths[first : first + _SECTION_BLOCKS]
            ends += list(accumulate(lengths, initial=begin))[1:]
            if ends[-1] != end:
                raise CorruptObject(self.key, "The lengths of its blocks do not fit the object.")
        return ends

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of the object were fetched so far."""
        return self._reader.bytes_read

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes [begin, end) of the segment; only the blocks that hold them are fetched.

        Raises CorruptObject, also when the object does not have them; ObjectMissing.
        """
        if not self.head.begin <= begin <= end <= self.head.end:
            raise CorruptObject(self.key, f"It does not hold bytes {begin} to {end}.")
        if begin == end:
            return b""
        first = (begin - self.head.begin) // BLOCK_BYTES
        last = (end - 1 - self.head.begin) // BLOCK_BYTES
        raw = self._block(first) if first == last else b"".join(self._read_blocks(first, last + 1))
        skipped = self.head.begin + first * BLOCK_BYTES
        return raw[begin - skipped : end - skipped]

    def _block(self, number: int) -> bytes:
        """Return one block, the one that was asked for last without reading it again."""
        found = self._last
        if found is None or found[0] != number:
            found = self._last = (number, self._read_blocks(number, number + 1)[0])
        return found[1]

    def _read_blocks(self, first: int, end: int) -> list[bytes]:
        found: list[bytes] = []
        while first < end:
            # Frames of one section lie side by side: one request.
            stop = min(end, (first // _SECTION_BLOCKS + 1) * _SECTION_BLOCKS)
            begins = [self._ends[at] - self._lengths[at] for at in range(first, stop)]
            stored = self._reader.fetch(begins[0], self._ends[stop - 1])
            bounds = [at - begins[0] for at in [*begins, self._ends[stop - 1]]]
            frames = [stored[low:high] for low, high in pairwise(bounds)]
            found += [self._decode(first + at, frame) for at, frame in enumerate(frames)]
            first = stop
        return found

    def _decode(self, number: int, frame: bytes) -> bytes:
        span = self.head.end - self.head.begin
        raw = decompress(self.key, frame, min(BLOCK_BYTES, span - number * BLOCK_BYTES))
        if xxhash.xxh3_64_intdigest(raw) != self._digests[number]:
            raise CorruptObject(self.key, f"The digest of block {number} does not match.")
        return raw


def is_same_content(key: str, one: bytes, other: bytes) -> bool:
    """Return whether two objects under a key hold the same, whatever zstd compressed them.

    Raises CorruptObject for a damaged one.
    """
    if one == other or not key.startswith("wal/"):
        return one == other
    heads = [WalObject.of_bytes(key, data) for data in (one, other)]
    contents = [(found.head, found.read(found.head.begin, found.head.end)) for found in heads]
    return contents[0] == contents[1]


_of_thread = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    try:
        found: zstandard.ZstdCompressor = _of_thread.compressor
    except AttributeError:
        found = _of_thread.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return found
