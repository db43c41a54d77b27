"""The chunks that an archive has, by digest: what a backup need not store again.

A cluster of 10 TB has 80 million chunks, so they lie in packed columns, 28 bytes for each and some
set aside, and not in objects of Python, which would take 150.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pitr.archive.object import ObjectReader
from pitr.archive.store import ObjectInfo, Store
from pitr.errors import CorruptObject
from pitr.postgres.base.object import (
    DIGEST_BYTES,
    PACK_KIND,
    PACK_PREFIX,
    PackEntry,
    read_pack_directory,
)
from pitr.vocabulary.event import Event, Level, OnEvent

_DIRECTORY_READERS = 16
# Directories that are read but not yet taken in: each has up to 2048 chunks.
_DIRECTORIES_AT_ONCE = 64
# Buckets by the first two bytes of a digest: 80 million chunks are 1200 in each.
_BUCKETS = 1 << 16
_PLACE_NUMBERS = 3
# No frame is as long as this: the bit says of a stored length that the base refers to the chunk.
_IS_USED = 1 << 31

T = TypeVar("T")


class _Bucket:
    """Digests side by side, and of each pack, offset, stored bytes."""

    __slots__ = ("digests", "places")

    def __init__(self) -> None:
        self.digests = bytearray()
        self.places: array[int] = array("I")

    def find(self, digest: bytes) -> int:
        """Return where the place of a digest begins in `places`, or -1."""
        at = self.digests.find(digest)
        while at > 0 and at % DIGEST_BYTES:
            at = self.digests.find(digest, at + 1)
        return at // DIGEST_BYTES * _PLACE_NUMBERS if at >= 0 else -1


class KnownChunks:
    """The chunks that the archive has. One thread adds, several may ask whether one is there."""

    def __init__(self) -> None:
        self.packs: list[str] = []
        self.used_bytes = 0
        self._buckets: list[_Bucket | None] = [None] * _BUCKETS

    def __contains__(self, digest: bytes) -> bool:
        bucket = self._buckets[digest[0] << 8 | digest[1]]
        return bucket is not None and bucket.find(digest) >= 0

    def add_pack(self, key: str) -> int:
        """Return the number of a pack; the key may follow later."""
        self.packs.append(key)
        return len(self.packs) - 1

    def add(self, digest: bytes, pack: int, offset: int, stored: int) -> None:
        """Remember where a chunk is; of one that is there already the first place stays."""
        number = digest[0] << 8 | digest[1]
        bucket = self._buckets[number]
        if bucket is None:
            bucket = self._buckets[number] = _Bucket()
        if bucket.find(digest) < 0:
            bucket.places.extend((pack, offset, stored))
            bucket.digests += digest

    def use(self, digest: bytes) -> tuple[int, int, int] | None:
        """Return pack, offset and stored bytes of a chunk; None when it is not there.

        `used_bytes` counts what is asked for here, once each.
        """
        bucket = self._buckets[digest[0] << 8 | digest[1]]
        at = bucket.find(digest) if bucket is not None else -1
        if bucket is None or at < 0:
            return None
        pack, offset, stored = bucket.places[at : at + _PLACE_NUMBERS]
        if stored < _IS_USED:
            self.used_bytes += stored
            bucket.places[at + 2] = stored | _IS_USED
        return pack, offset, stored & ~_IS_USED


def read_known_chunks(store: Store, on_event: OnEvent) -> KnownChunks:
    """Return what the packs of an archive hold, those of interrupted backups included.

    Chunks of a pack with a damaged directory are not known, and will be stored anew.
    """

    def directory(found: ObjectInfo) -> list[PackEntry]:
        try:
            reader = ObjectReader(store, found.key, found.size, PACK_KIND)
            return list(read_pack_directory(reader))
        except CorruptObject as fault:
            on_event(Event(Level.WARNING, f"not used: {fault.message}", fault.detail))
            return []

    known = KnownChunks()
    with ThreadPoolExecutor(_DIRECTORY_READERS) as readers:
        for found in _groups(list(store.list(PACK_PREFIX)), _DIRECTORIES_AT_ONCE):
            for info, entries in zip(found, readers.map(directory, found), strict=True):
                pack = known.add_pack(info.key)
                for entry in entries:
                    known.add(entry.digest, pack, entry.offset, entry.stored)
    return known


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))
