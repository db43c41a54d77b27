"""Packs and manifests read again: every chunk by its digest, every reference of every base.

One pack is in memory at a time, then one block of a manifest and the directories of some packs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import xxhash
import zstandard

from pitr.archive.object import ObjectReader, decompress, verify_object, verify_stored
from pitr.archive.store import ObjectInfo, Store, find_object
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.base.contents import CHUNK_BYTES, BaseFile, BaseInfo
from pitr.postgres.base.object import (
    BASE_KIND,
    BASE_PREFIX,
    DIGEST_BYTES,
    NO_PACK,
    PACK_KIND,
    PACK_PREFIX,
    BaseManifest,
    ChunkPlace,
    chunk_digest,
    pack_reader,
    read_pack_directory,
)
from pitr.postgres.verification.findings import Findings

_DIRECTORIES_KEPT = 256
_FILES_NAMED_MAX = 1000


@dataclass(slots=True)
class VerifiedBases:
    """The bases that can be read, and of each the files that cannot be read whole, with why.

    `harmed` is by base and object: the paths of files whose chunks the object lacks.
    """

    infos: list[BaseInfo] = field(default_factory=list)
    harmed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def harm(self, base: str, key: str, path: str) -> None:
        """Note a file that needs what a damaged object had."""
        paths = self.harmed.setdefault((base, key), [])
        if len(paths) < _FILES_NAMED_MAX and (not paths or paths[-1] != path):
            paths.append(path)


def verify_bases(store: Store, seed: int, found: Findings) -> VerifiedBases:
    """Read all packs, then all manifests; packs that no base needs become leftovers.

    Raises StoreUnusable, PreconditionFailed for objects of a later format.
    """
    packs = _Packs(store, seed, found)
    # Bases first: a pack is stored before the manifest that needs it.
    listed = list(store.list(BASE_PREFIX))
    for info in store.list(PACK_PREFIX):
        packs.verify(info)
    bases = VerifiedBases()
    for info in listed:
        _verify_base(store, info, packs, bases, found)
    is_all_known = not any(key.startswith(BASE_PREFIX) for key in found.damaged)
    if is_all_known:
        unused = sorted(packs.sizes.keys() - packs.used)
        found.leftovers += [key for key in unused if key not in found.damaged]
    return bases


@dataclass(frozen=True, slots=True)
class _Directory:
    """The chunks of one pack, ascending by offset."""

    offsets: Sequence[int]
    stored: Sequence[int]
    digests: bytes

    def has(self, place: ChunkPlace) -> bool:
        """Return whether a chunk lies there."""
        at = bisect_left(self.offsets, place.offset)
        if at == len(self.offsets) or self.offsets[at] != place.offset:
            return False
        digest = self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
        return (self.stored[at], digest) == (place.stored, place.digest)


class _Packs:
    """The packs of an archive, each read once, its directory again when a base is looked at."""

    def __init__(self, store: Store, seed: int, found: Findings) -> None:
        self.sizes: dict[str, int] = {}
        self.used: set[str] = set()
        self._store = store
        self._seed = seed
        self._found = found
        self._bad_chunks: dict[str, set[int]] = {}
        self._directory = lru_cache(_DIRECTORIES_KEPT)(self._read_directory)

    def verify(self, info: ObjectInfo) -> None:
        """Read a pack whole: its name, its frame, and every chunk against its digest."""
        data = self._found.get(self._store, info.key)
        if data is None:
            return
        self.sizes[info.key] = info.size
        try:
            self._check_chunks(info.key, data)
            if PACK_PREFIX + xxhash.xxh3_128_hexdigest(data) != info.key:
                raise CorruptObject(info.key, "Its bytes are not those that its name was made of.")
            verify_object(info.key, data, PACK_KIND)
        except CorruptObject as error:
            self._found.damage(info.key, error.reason)

    def _check_chunks(self, key: str, data: bytes) -> None:
        whole = memoryview(data)
        for entry in read_pack_directory(pack_reader(key, data)):
            try:
                raw = decompress(key, whole[entry.offset : entry.offset + entry.stored], entry.raw)
                if chunk_digest(raw, self._seed) != entry.digest:
                    raise CorruptObject(key, f"The chunk at offset {entry.offset} is another one.")
            except CorruptObject as error:
                self._bad_chunks.setdefault(key, set()).add(entry.offset)
                self._found.damage(key, error.reason)

    def _read_directory(self, key: str) -> _Directory | None:
        """Return the directory of a pack; None when it cannot be read."""
        try:
            reader = ObjectReader(self._store, key, self.sizes[key], PACK_KIND)
            entries = list(read_pack_directory(reader))
        except (CorruptObject, ObjectMissing):
            return None
        return _Directory(
            array("I", (entry.offset for entry in entries)),
            array("I", (entry.stored for entry in entries)),
            b"".join(entry.digest for entry in entries),
        )

    def has(self, key: str, place: ChunkPlace) -> bool:
        """Return whether a pack has a chunk, and it is what was stored.

        Without its directory a chunk is fetched by its place, as a restore does.
        """
        if key not in self.sizes:
            return False
        self.used.add(key)
        directory = self._directory(key)
        if directory is None:
            return self._can_fetch(key, place)
        if not directory.has(place):
            self._found.damage(key, "It lacks a chunk that a base needs.")
            return False
        return place.offset not in self._bad_chunks.get(key, ())

    def _can_fetch(self, key: str, place: ChunkPlace) -> bool:
        try:
            end = place.offset + place.stored
            (frame,) = self._store.get_ranges(key, [(place.offset, end)])
            raw = _unpacked(key, frame)
        except (CorruptObject, ObjectMissing):
            return False
        return chunk_digest(raw, self._seed) == place.digest


def _unpacked(key: str, frame: bytes) -> bytes:
    """Return what a frame holds, whose raw size nobody tells but itself."""
    size = zstandard.frame_content_size(frame)
    if not 0 <= size <= CHUNK_BYTES:
        raise CorruptObject(key, f"A frame declares {size} bytes.")
    return decompress(key, frame, size)


def _verify_base(
    store: Store, info: ObjectInfo, packs: _Packs, bases: VerifiedBases, found: Findings
) -> None:
    found.count(info.size)
    try:
        verify_stored(store, info.key, info.size)
        manifest = BaseManifest(ObjectReader(store, info.key, info.size, BASE_KIND))
        files = [file for file, _ in manifest.files().values()]
        names = manifest.packs()
        _check_chunks(manifest, files, names, packs, bases)
        if find_object(store, info.key) is None:
            return  # pruned meanwhile, and its packs with it
        bases.infos.append(manifest.info)
        for base, key in bases.harmed:
            if base == manifest.info.id and key not in packs.sizes:
                found.damage(key, "It is missing, and a base needs it.")
    except CorruptObject as error:
        found.damage(info.key, error.reason)
    except ObjectMissing:
        return  # pruned meanwhile


def _check_chunks(
    manifest: BaseManifest,
    files: Sequence[BaseFile],
    packs_of_base: Sequence[str],
    packs: _Packs,
    bases: VerifiedBases,
) -> None:
    info = manifest.info
    counts = [-(-file.size // info.chunk_bytes) for file in files]
    at, left = -1, 0
    for block in manifest.blocks(sum(counts)):
        for place in block:
            while not left:
                at += 1
                left = counts[at]
            left -= 1
            if place.pack == NO_PACK:
                continue
            if place.pack >= len(packs_of_base):
                raise CorruptObject(BASE_PREFIX + info.id, f"It counts no pack {place.pack}.")
            key = packs_of_base[place.pack]
            if not packs.has(key, place):
                bases.harm(info.id, key, files[at].path)
