"""The two objects of a base backup: packs of chunks, and the manifest that is written last.

Specification in docs/formats/postgres-archive.md, section "Base backups". No I/O: bytes in, values
out, and back.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import xxhash

from pitr.archive.document import newer_format
from pitr.archive.object import ObjectReader, Section, encode_object
from pitr.errors import CorruptObject
from pitr.postgres.base.contents import CHUNK_BYTES_MAX, BaseFile, BaseInfo, is_plausible

# Level 3 would take twice the time for little: docs/formats/postgres-archive.md has figures.
ZSTD_LEVEL = 1
DIGEST_BYTES = 16
# Of a chunk that is all zeros there is nothing to store.
NO_PACK = 0xFFFFFFFF

# Where the first chunk of a pack lies: right behind the header of the object.
FIRST_OFFSET = 16

BASE_PREFIX = "base/"
PACK_PREFIX = "pack/"
BASE_KIND = b"BASE"
PACK_KIND = b"PACK"
_VERSION = 1

_PACK_CHUNKS, _PACK_DIGESTS, _PACK_LENGTHS = 0, 1, 2
_HEAD, _PATHS, _FILES, _PACKS = 0, 1, 2, 3
_PLACES, _DIGESTS = 1_000_000, 2_000_000
# Chunks whose references are fetched together: 24 bytes each, for half a GiB of files.
_BLOCK_CHUNKS = 4096

_FILE = struct.Struct("<QqIHH")
# Made here, in one thread: pitr/archive/document.py says why.
_BASE_INFO = msgspec.json.Decoder(BaseInfo)
_IS_FOLDER = 1


# ---- packs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One chunk in a pack: `stored` bytes at `offset`, one zstd frame of `raw` bytes."""

    digest: bytes
    offset: int
    stored: int
    raw: int


def chunk_seed(archive_id: str) -> int:
    """Return the seed of an archive's chunk digests.

    XXH3 is fast and no cryptographic hash: who knows the seed could prepare two chunks with one
    digest, and who may write rows must not. So every archive has its own.
    """
    return xxhash.xxh3_64_intdigest(archive_id.encode())


def chunk_digest(raw: bytes | bytearray | memoryview, seed: int) -> bytes:
    """Return the digest by which a chunk is known in its archive."""
    return xxhash.xxh3_128_digest(raw, seed)


def encode_pack(frames: Sequence[bytes], digests: bytes, lengths: array[int]) -> tuple[str, bytes]:
    """Return key and bytes of a pack.

    `digests` has 16 bytes a frame, `lengths` two numbers: stored and raw. The key is made of the
    bytes, so that two packs of one name are the same.
    """
    data = encode_object(
        PACK_KIND,
        _VERSION,
        [
            Section(_PACK_CHUNKS, b"".join(frames), compress=False),
            Section(_PACK_DIGESTS, digests, compress=False),
            Section(_PACK_LENGTHS, _little(lengths)),
        ],
    )
    return PACK_PREFIX + xxhash.xxh3_128_hexdigest(data), data


def read_pack_directory(reader: ObjectReader) -> Iterator[PackEntry]:
    """Yield the chunks of a pack, by their order in it. Raises CorruptObject."""
    _check_version(reader)
    begin, end = reader.extent(_PACK_CHUNKS)
    digests = reader.section(_PACK_DIGESTS)
    lengths = _numbers(reader, _PACK_LENGTHS)
    if len(digests) * 2 != len(lengths) * DIGEST_BYTES:
        raise CorruptObject(reader.key, "Its directory has digests and lengths of two counts.")
    if begin != FIRST_OFFSET or begin + sum(lengths[::2]) != end:
        raise CorruptObject(reader.key, "The lengths in its directory contradict its size.")
    for index in range(0, len(lengths), 2):
        stored, raw = lengths[index], lengths[index + 1]
        if raw > CHUNK_BYTES_MAX:
            raise CorruptObject(reader.key, f"A chunk in it declares {raw} bytes.")
        at = index // 2 * DIGEST_BYTES
        yield PackEntry(digests[at : at + DIGEST_BYTES], begin, stored, raw)
        begin += stored


def pack_reader(key: str, data: bytes) -> ObjectReader:
    """Return the reader of a pack that is wholly in memory. Raises CorruptObject."""
    return ObjectReader.of_bytes(key, data, PACK_KIND)


# ---- the manifest --------------------------------------------------------------------------------


class ChunkPlace(NamedTuple):
    """Where one chunk of a base lies; `pack` counts in the manifest, NO_PACK for zeros."""

    pack: int
    offset: int
    stored: int
    digest: bytes


class ChunkTable:
    """The references of a base to its chunks, in the order of the files: 28 bytes each."""

    def __init__(self) -> None:
        self.packs: array[int] = array("I")
        self.offsets: array[int] = array("I")
        self.stored: array[int] = array("I")
        self.digests = bytearray()

    def __len__(self) -> int:
        return len(self.packs)

    def append(self, place: ChunkPlace) -> None:
        """Add the next chunk."""
        self.packs.append(place.pack)
        self.offsets.append(place.offset)
        self.stored.append(place.stored)
        self.digests += place.digest

    def sections(self) -> Iterator[Section]:
        """Yield the sections of the manifest that hold the table."""
        for block, begin in enumerate(range(0, len(self), _BLOCK_CHUNKS)):
            part = slice(begin, begin + _BLOCK_CHUNKS)
            columns = (self.packs[part], self.offsets[part], self.stored[part])
            yield Section(_PLACES + block, b"".join(map(_little, columns)))
            digests = self.digests[begin * DIGEST_BYTES : part.stop * DIGEST_BYTES]
            yield Section(_DIGESTS + block, bytes(digests), compress=False)


def encode_base(
    info: BaseInfo, files: Sequence[BaseFile], packs: Sequence[str], chunks: ChunkTable
) -> bytes:
    """Return the bytes of a manifest. `packs` are keys; the chunks of files follow each other."""
    names = b"".join(bytes.fromhex(key.removeprefix(PACK_PREFIX)) for key in packs)
    rows = b"".join(
        _FILE.pack(file.size, file.modified_s, file.mode, file.is_folder * _IS_FOLDER, 0)
        for file in files
    )
    sections = [
        Section(_HEAD, msgspec.json.encode(info)),
        Section(_PATHS, b"\0".join(os.fsencode(file.path) for file in files)),
        Section(_FILES, rows),
        Section(_PACKS, names, compress=False),
    ]
    return encode_object(BASE_KIND, _VERSION, [*sections, *chunks.sections()])


class BaseManifest:
    """The manifest of one base, read section by section as it is needed. Safe for threads."""

    def __init__(self, reader: ObjectReader) -> None:
        """Take the reader of the object. Raises PreconditionFailed for a newer format."""
        _check_version(reader)
        self._reader = reader
        self.info = self._read_info()
        self._places: dict[int, Sequence[ChunkPlace]] = {}

    @property
    def bytes_read(self) -> int:
        """Return the bytes of the object that were fetched so far."""
        return self._reader.bytes_read

    def _read_info(self) -> BaseInfo:
        key = self._reader.key
        try:
            info = _BASE_INFO.decode(self._reader.section(_HEAD))
            _ = info.start, info.end
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise CorruptObject(key, f"Its head does not decode: {error}.") from None
        if not is_plausible(info):
            raise CorruptObject(key, "Its head declares sizes that no cluster has.")
        if BASE_PREFIX + info.id != key:
            raise CorruptObject(key, f"It says that it is the base {info.id!r}.")
        return info

    def files(self) -> dict[str, tuple[BaseFile, int]]:
        """Return the files and folders by path, each with the number of its first chunk."""
        key = self._reader.key
        rows = self._reader.section(_FILES)
        paths = self._reader.section(_PATHS)
        names = [os.fsdecode(name) for name in paths.split(b"\0")] if paths else []
        if len(names) * _FILE.size != len(rows):
            raise CorruptObject(key, "It has paths and files of two counts.")
        found: dict[str, tuple[BaseFile, int]] = {}
        first = 0
        for path, row in zip(names, _FILE.iter_unpack(rows), strict=True):
            size, modified_s, mode, flags, _ = row
            is_folder = bool(flags & _IS_FOLDER)
            found[_safe_path(key, path)] = (
                BaseFile(path, size, mode, modified_s, is_folder),
                first,
            )
            first += -(-size // self.info.chunk_bytes)
        # Whoever reads a file allocates for it: its chunks have to be there first.
        known = sum(entry.raw for entry in self._reader.entries if entry.id >= _DIGESTS)
        if first != known // DIGEST_BYTES:
            raise CorruptObject(key, f"Its files have {first} chunks, it knows another number.")
        return found

    def packs(self) -> list[str]:
        """Return the keys of the packs that the places count."""
        names = self._reader.section(_PACKS)
        return [
            PACK_PREFIX + names[at : at + DIGEST_BYTES].hex()
            for at in range(0, len(names), DIGEST_BYTES)
        ]

    def places(self, begin: int, end: int) -> list[ChunkPlace]:
        """Return where the chunks of a half-open range of numbers lie. Raises CorruptObject."""
        found: list[ChunkPlace] = []
        for block in range(begin // _BLOCK_CHUNKS, -(-end // _BLOCK_CHUNKS)):
            base = block * _BLOCK_CHUNKS
            part = self._block(block)
            found += part[max(0, begin - base) : end - base]
        if len(found) != end - begin:
            raise CorruptObject(self._reader.key, f"It lacks the places of chunks up to {end}.")
        return found

    def blocks(self, chunks: int) -> Iterator[Sequence[ChunkPlace]]:
        """Yield the places of the first `chunks` chunks, some thousand at a time; none is kept.

        Raises CorruptObject, also when there are fewer or more.
        """
        seen = 0
        for block in range(-(-chunks // _BLOCK_CHUNKS)):
            part = self._read_block(block)
            seen += len(part)
            if seen > chunks:
                break
            yield part
        if seen != chunks:
            raise CorruptObject(self._reader.key, f"It has places of {seen} chunks, not {chunks}.")

    def _block(self, block: int) -> Sequence[ChunkPlace]:
        found = self._places.get(block)
        if found is None:
            found = self._places[block] = self._read_block(block)
        return found

    def _read_block(self, block: int) -> Sequence[ChunkPlace]:
        numbers = _numbers(self._reader, _PLACES + block)
        digests = self._reader.section(_DIGESTS + block)
        count = len(numbers) // 3
        if len(numbers) != 3 * count or len(digests) != count * DIGEST_BYTES:
            raise CorruptObject(self._reader.key, f"Its block {block} has uneven columns.")
        # What does not compress becomes a little longer: twice as long is no chunk's frame.
        if max(numbers[2 * count :], default=0) > 2 * self.info.chunk_bytes:
            raise CorruptObject(self._reader.key, f"Its block {block} declares too long a chunk.")
        columns = (numbers[i * count : (i + 1) * count] for i in range(3))
        cut = (digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))
        return [ChunkPlace(*row) for row in zip(*columns, cut, strict=True)]


def _safe_path(key: str, path: str) -> str:
    """Refuse a path that would lead out of the folder it is written below."""
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise CorruptObject(key, f"It names a file by the path {path!r}.")
    return path


def _check_version(reader: ObjectReader) -> None:
    if reader.version > _VERSION:
        raise newer_format(reader.key, reader.version)


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(reader: ObjectReader, section_id: int) -> array[int]:
    data = reader.section(section_id)
    if len(data) % 4:
        raise CorruptObject(reader.key, f"Section {section_id} is no column of numbers.")
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
