"""The frame around every archive object: magic, version, sections, directory, checksums.

Layout (all integers little-endian; specification in docs/formats/archive.md):

    header     8  magic b"PITROBJ\\n"    4  kind, ASCII    2  format version of the kind    2  flags
    sections   stored bytes, one after the other
    directory  40 bytes a section: id u32, flags u32, offset u64, stored length u64,
               raw length u64, XXH3-64 of the stored bytes u64
    trailer    directory offset u64, section count u32, zero u32, XXH3-64 of the directory u64,
               XXH3-128 of all bytes before this field, magic b"PITREND\\n"

Section flag bit 0: the stored bytes are one zstd frame of the raw bytes. The directory lies at the
end so that an object can be written as a stream and read from its tail in one request; every
section can be fetched and verified alone.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash
import zstandard

from pitr.archive.store import Store
from pitr.errors import CorruptObject

MAGIC = b"PITROBJ\n"
END_MAGIC = b"PITREND\n"
# How an object of an encrypted archive begins, before it is opened: docs/formats/encryption.md.
SEALED_MAGIC = b"PITRSEAL"
_HEADER = struct.Struct("<8s4sHH")
_ENTRY = struct.Struct("<IIQQQQ")
_TRAILER = struct.Struct("<QIIQ16s8s")
assert (_HEADER.size, _ENTRY.size, _TRAILER.size) == (16, 40, 48)

_COMPRESSED = 1
# What a reader fetches first: in all but the largest objects the directory and the index with it.
TAIL_BYTES = 65536
# A declared raw size beyond this is damage or malice, never ours: refuse before allocating.
SECTION_BYTES_MAX = 1 << 30
# A zstd block has at most 128 KiB and takes at least four bytes: what a frame can grow to.
ZSTD_GROWTH_MAX = 1 << 15
_LEVEL = 3
_STREAM_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Section:
    """One section to be written: its id, its raw bytes, and whether to compress them."""

    id: int
    data: bytes
    compress: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One section in the directory: `stored` bytes at `offset`, `raw` bytes when decompressed."""

    id: int
    flags: int
    offset: int
    stored: int
    raw: int
    checksum: int


def encode_object(kind: bytes, version: int, sections: Sequence[Section]) -> bytes:
    """Return the bytes of an object of four-letter `kind` with these sections."""
    parts = [_HEADER.pack(MAGIC, kind, version, 0)]
    offset = _HEADER.size
    directory = b""
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    for section in sections:
        stored = compressor.compress(section.data) if section.compress else section.data
        directory += _ENTRY.pack(
            section.id,
            _COMPRESSED if section.compress else 0,
            offset,
            len(stored),
            len(section.data),
            xxhash.xxh3_64_intdigest(stored),
        )
        parts.append(stored)
        offset += len(stored)
    parts.append(directory)
    head = struct.pack("<QIIQ", offset, len(sections), 0, xxhash.xxh3_64_intdigest(directory))
    parts.append(head)
    whole = xxhash.xxh3_128()
    for part in parts:
        whole.update(part)
    parts.append(whole.digest())
    parts.append(END_MAGIC)
    return b"".join(parts)


def verify_object(key: str, data: bytes, kind: bytes) -> None:
    """Check the checksum over the whole object, then frame and directory.

    Raises CorruptObject naming what contradicts what.
    """
    if len(data) < _HEADER.size + _TRAILER.size:
        raise CorruptObject(key, f"Cut short: {len(data)} bytes cannot hold an object.")
    if data[-8:] != END_MAGIC:
        raise CorruptObject(key, "Torn: the end mark is missing.")
    if xxhash.xxh3_128_digest(data[:-24]) != data[-24:-8]:
        raise CorruptObject(key, "The checksum over the object does not match its bytes.")
    ObjectReader.of_bytes(key, data, kind)


def verify_stored(store: Store, key: str, size: int) -> None:
    """Check the checksum over a whole object, of which some MiB are in memory at a time.

    Frame and directory are left to the reader. Raises CorruptObject, ObjectMissing.
    """
    if size < _HEADER.size + _TRAILER.size:
        raise CorruptObject(key, f"Cut short: {size} bytes cannot hold an object.")
    whole = xxhash.xxh3_128()
    for begin in range(0, size - 24, _STREAM_BYTES):
        end = min(size - 24, begin + _STREAM_BYTES)
        whole.update(store.get_ranges(key, [(begin, end)])[0])
    if store.get_ranges(key, [(size - 24, size)])[0] != whole.digest() + END_MAGIC:
        raise CorruptObject(key, "The checksum over the object does not match its bytes.")


class ObjectReader:
    """Read sections of one object, each verified, with as few requests as possible."""

    def __init__(self, store: Store, key: str, size: int, kind: bytes) -> None:
        """Read the tail and the directory of the object `key` of `size` bytes.

        Raises ObjectMissing, CorruptObject.
        """
        begin = max(0, size - TAIL_BYTES)
        ranges = [(begin, size)] if begin == 0 else [(0, _HEADER.size), (begin, size)]
        pieces = store.get_ranges(key, ranges)
        self._store: Store | None = store
        self._read(key, size, kind, head=pieces[0], tail=pieces[-1])

    @classmethod
    def of_bytes(cls, key: str, data: bytes, kind: bytes) -> ObjectReader:
        """Read an object that is wholly in memory."""
        reader = cls.__new__(cls)
        reader._store = None
        reader._read(key, len(data), kind, head=data, tail=data)
        return reader

    def _read(self, key: str, size: int, kind: bytes, *, head: bytes, tail: bytes) -> None:
        self.key = key
        self.size = size
        self._tail = tail
        self._tail_begin = size - len(tail)
        self.bytes_read = len(tail)
        if len(tail) < _TRAILER.size or len(head) < _HEADER.size:
            raise CorruptObject(key, f"Cut short: {size} bytes cannot hold an object.")
        magic, found_kind, self.version, _flags = _HEADER.unpack_from(head)
        if magic != MAGIC:
            raise CorruptObject(key, f"Not an archive object: it begins with {head[:8]!r}.")
        if found_kind != kind:
            raise CorruptObject(key, f"An object of kind {found_kind!r} where {kind!r} belongs.")
        self._directory = {entry.id: entry for entry in self._read_directory(tail)}

    def _read_directory(self, tail: bytes) -> list[Entry]:
        offset, count, _zero, checksum, _whole, end = _TRAILER.unpack_from(
            tail, len(tail) - _TRAILER.size
        )
        if end != END_MAGIC:
            raise CorruptObject(self.key, "Torn: the end mark is missing.")
        if offset + count * _ENTRY.size + _TRAILER.size != self.size or offset < _HEADER.size:
            raise CorruptObject(self.key, "The directory does not fit the object's size.")
        directory = self.fetch(offset, offset + count * _ENTRY.size)
        if xxhash.xxh3_64_intdigest(directory) != checksum:
            raise CorruptObject(self.key, "The directory's checksum does not match its bytes.")
        entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(directory)]
        for entry in entries:
            if entry.offset < _HEADER.size or entry.offset + entry.stored > offset:
                raise CorruptObject(self.key, f"Section {entry.id} lies outside the object.")
            if entry.raw > SECTION_BYTES_MAX:
                raise CorruptObject(self.key, f"Section {entry.id} declares {entry.raw} bytes.")
        return entries

    def fetch(self, begin: int, end: int) -> bytes:
        """Return the half-open byte range of the object as it is stored, not verified.

        No request is made for what came with the directory.
        """
        if begin >= self._tail_begin:
            return self._tail[begin - self._tail_begin : end - self._tail_begin]
        assert self._store is not None
        self.bytes_read += end - begin
        return self._store.get_ranges(self.key, [(begin, end)])[0]

    @property
    def entries(self) -> list[Entry]:
        """Return the directory, in the order of the sections."""
        return list(self._directory.values())

    def __contains__(self, section_id: int) -> bool:
        return section_id in self._directory

    def _entry(self, section_id: int) -> Entry:
        entry = self._directory.get(section_id)
        if entry is None:
            raise CorruptObject(self.key, f"Section {section_id} is missing.")
        return entry

    def section(self, section_id: int) -> bytes:
        """Return the raw bytes of a section, verified. Raises CorruptObject."""
        entry = self._entry(section_id)
        stored = self.fetch(entry.offset, entry.offset + entry.stored)
        if xxhash.xxh3_64_intdigest(stored) != entry.checksum:
            raise CorruptObject(self.key, f"The checksum of section {section_id} does not match.")
        if not entry.flags & _COMPRESSED:
            return stored
        return decompress(self.key, stored, entry.raw)

    def extent(self, section_id: int) -> tuple[int, int]:
        """Return the half-open byte range of a section inside the object.

        For callers that read parts of an uncompressed section and verify them by other means.
        """
        entry = self._entry(section_id)
        return entry.offset, entry.offset + entry.stored


_of_thread = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor: a new one for each page costs three times the work."""
    try:
        found: zstandard.ZstdDecompressor = _of_thread.decompressor
    except AttributeError:
        found = _of_thread.decompressor = zstandard.ZstdDecompressor()
    return found


def decompress(key: str, stored: bytes | memoryview, raw_length: int) -> bytes:
    """Return the raw bytes of one zstd frame that must have exactly `raw_length`.

    Raises CorruptObject for a frame that is damaged or of another length, without allocating
    more than `raw_length`, or anything for a length that these bytes cannot come to.
    """
    if raw_length > len(stored) * ZSTD_GROWTH_MAX:
        raise CorruptObject(key, f"A frame of {len(stored)} bytes cannot hold {raw_length}.")
    try:
        declared = zstandard.frame_content_size(stored)
        if declared not in (raw_length, -1):
            raise CorruptObject(key, f"A frame declares {declared} bytes, not {raw_length}.")
        raw = _decompressor().decompress(stored, max_output_size=raw_length)
    except zstandard.ZstdError as error:
        raise CorruptObject(key, f"A compressed frame is damaged: {error}.") from None
    if len(raw) != raw_length:
        raise CorruptObject(key, f"A frame holds {len(raw)} bytes where {raw_length} belong.")
    return raw
