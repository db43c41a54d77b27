"""Base backups in the archive: which there are, and their bytes.

Every chunk is verified by its digest before it is handed out. Format:
docs/formats/postgres-archive.md, section "Base backups".
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from pitr.archive.archive import open_archive
from pitr.archive.object import ObjectReader, decompress
from pitr.archive.store import ObjectInfo, Store, find_object
from pitr.errors import ArchiveLacks, CorruptObject
from pitr.postgres.base.contents import (
    BACKUP_LABEL,
    TABLESPACE_MAP,
    BaseFile,
    BaseInfo,
    Piece,
    Span,
)
from pitr.postgres.base.object import (
    BASE_KIND,
    BASE_PREFIX,
    NO_PACK,
    BaseManifest,
    ChunkPlace,
    chunk_digest,
    chunk_seed,
)

_HEAD_READERS = 16
# Requests of a restore from a bucket wait for the network, those from a disk for a core.
_REMOTE_READERS, _LOCAL_READERS = 8, 2
# What one request fetches at most, and how much is put in order before anything is fetched.
_GROUP_BYTES = 2 << 20
_WINDOW_CHUNKS = 4096
# PostgreSQL cuts relations there; a declared size beyond it is damage or malice.
_FILE_BYTES_MAX = 1 << 30


class BaseArchive:
    """The bases of one archive."""

    def __init__(self, store: Store) -> None:
        """Take the store of an archive; nothing is read before the first call."""
        self._store = store

    def bases(self, on_fault: Callable[[CorruptObject], None] | None = None) -> list[BaseInfo]:
        """Return all whole bases, by time.

        A damaged manifest goes to `on_fault`, and is raised where there is none.
        """
        found = list(self._store.list(BASE_PREFIX))
        with ThreadPoolExecutor(_HEAD_READERS) as readers:
            infos = list(readers.map(functools.partial(self._info, on_fault), found))
        return sorted((info for info in infos if info), key=lambda info: (info.time_us, info.id))

    def _info(
        self, on_fault: Callable[[CorruptObject], None] | None, found: ObjectInfo
    ) -> BaseInfo | None:
        try:
            return self._manifest(found).info
        except CorruptObject as fault:
            if on_fault is None:
                raise
            on_fault(fault)
            return None

    def open(self, base_id: str) -> ArchivedBase:
        """Open a base for reading. Raises ArchiveLacks when there is none of this name."""
        key = BASE_PREFIX + base_id
        found = find_object(self._store, key)
        if found is None:
            raise ArchiveLacks(
                f"the archive has no base backup {base_id}",
                hint="Run 'pitr status' to see the bases of the archive.",
            )
        seed = chunk_seed(open_archive(self._store).archive_id)
        return ArchivedBase(self._store, self._manifest(found), seed)

    def _manifest(self, found: ObjectInfo) -> BaseManifest:
        return BaseManifest(ObjectReader(self._store, found.key, found.size, BASE_KIND))


class _Wanted(NamedTuple):
    """A chunk to be fetched, and what of it is wanted: `begin` to `end` of the file."""

    place: ChunkPlace
    path: str
    offset: int
    raw: int
    begin: int
    end: int


class ArchivedBase:
    """A base of the archive, open for reading: a `Base`."""

    def __init__(self, store: Store, manifest: BaseManifest, seed: int) -> None:
        """Take the manifest and the archive's seed of chunk digests."""
        self._store = store
        self._manifest = manifest
        self._seed = seed
        self._lock = threading.Lock()
        self._fetched = 0

    @property
    def info(self) -> BaseInfo:
        """Return what is known of the whole."""
        return self._manifest.info

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were fetched so far, the manifest's included."""
        return self._fetched + self._manifest.bytes_read

    @functools.cached_property
    def backup_label(self) -> bytes:
        """Return the file `backup_label`."""
        return self.read_file(BACKUP_LABEL)

    @functools.cached_property
    def tablespace_map(self) -> bytes | None:
        """Return the file `tablespace_map`; None when there are no tablespaces."""
        return self.read_file(TABLESPACE_MAP) if TABLESPACE_MAP in self.files() else None

    @functools.cached_property
    def _numbered(self) -> dict[str, tuple[BaseFile, int]]:
        return self._manifest.files()

    @functools.cached_property
    def _packs(self) -> list[str]:
        return self._manifest.packs()

    @functools.cached_property
    def _files(self) -> dict[str, BaseFile]:
        return {path: file for path, (file, _) in self._numbered.items()}

    def files(self) -> Mapping[str, BaseFile]:
        """Return every file and folder by its path."""
        return self._files

    def read_file(self, path: str) -> bytes:
        """Return a whole file. Raises CorruptObject for one that is larger than any."""
        size = self.files()[path].size
        if size > _FILE_BYTES_MAX:
            raise CorruptObject(BASE_PREFIX + self.info.id, f"It declares {size} bytes of {path}.")
        return self._read(Span(path, 0, size))

    def read_blocks(self, path: str, begin: int, end: int) -> bytes:
        """Return the blocks `begin` to `end`, excluded, counted from the start of this file."""
        block_size = self.info.block_size
        return self._read(Span(path, begin * block_size, end * block_size))

    def _read(self, span: Span) -> bytes:
        data = bytearray(max(0, span.end - span.begin))
        for _, offset, piece in self.read_pieces([span]):
            at = offset - span.begin
            data[at : at + len(piece)] = piece
        return bytes(data)

    def read_pieces(self, spans: Iterable[Span]) -> Iterator[Piece]:
        """Yield the bytes of many spans, in pieces and in no certain order."""
        wanted = itertools.chain.from_iterable(map(self._chunks_of, spans))
        readers = _REMOTE_READERS if self._store.is_remote else _LOCAL_READERS
        first = list(itertools.islice(wanted, _WINDOW_CHUNKS))
        if len(first) == 1:  # one row's block: a pool of threads would cost more than the read
            yield from self._fetch(first)
            return
        pool = ThreadPoolExecutor(readers, thread_name_prefix="pitr-base")
        running: deque[Future[list[Piece]]] = deque()
        try:
            for group in self._groups(itertools.chain(first, wanted)):
                running.append(pool.submit(self._fetch, group))
                if len(running) > 2 * readers:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _chunks_of(self, span: Span) -> Iterator[_Wanted]:
        file, first = self._numbered[span.path]
        if not 0 <= span.begin <= span.end <= file.size:
            raise ValueError(f"bytes {span.begin} to {span.end} of {span.path} ({file.size})")
        chunk = self.info.chunk_bytes
        numbers = range(span.begin // chunk, -(-span.end // chunk))
        places = self._manifest.places(first + numbers.start, first + numbers.stop)
        for number, place in zip(numbers, places, strict=True):
            offset = number * chunk
            raw = min(chunk, file.size - offset)
            begin, end = max(span.begin, offset), min(span.end, offset + raw)
            yield _Wanted(place, span.path, offset, raw, begin, end)

    def _groups(self, wanted: Iterator[_Wanted]) -> Iterator[list[_Wanted]]:
        """Put chunks into the order of the packs, and cut them into what is fetched at once."""
        while window := list(itertools.islice(wanted, _WINDOW_CHUNKS)):
            window.sort(key=lambda item: item.place[:2])
            group: list[_Wanted] = []
            size = 0
            for item in window:
                if group and (item.place.pack != group[0].place.pack or size >= _GROUP_BYTES):
                    yield group
                    group, size = [], 0
                group.append(item)
                # Zeros are not fetched, but have to be held.
                size += item.place.stored if item.place.pack != NO_PACK else item.raw // 16
            if group:
                yield group

    def _fetch(self, group: list[_Wanted]) -> list[Piece]:
        """Fetch, verify and cut the chunks of one group, which lie in one pack."""
        pack = group[0].place.pack
        if pack == NO_PACK:
            return [Piece(item.path, item.begin, bytes(item.end - item.begin)) for item in group]
        if pack >= len(self._packs):
            raise CorruptObject(BASE_PREFIX + self.info.id, f"It counts no pack {pack}.")
        key = self._packs[pack]
        # Several files may share one chunk: it is fetched and verified once.
        places = {item.place: item.raw for item in group}
        ranges = [(place.offset, place.offset + place.stored) for place in places]
        frames = self._store.get_ranges(key, ranges)
        chunks: dict[ChunkPlace, bytes] = {}
        for (place, raw), frame in zip(places.items(), frames, strict=True):
            chunks[place] = self._verified(key, place, raw, frame)
        with self._lock:
            self._fetched += sum(map(len, frames))
        return [_cut(item, chunks[item.place]) for item in group]

    def _verified(self, key: str, place: ChunkPlace, raw: int, frame: bytes) -> bytes:
        data = decompress(key, frame, raw)
        if chunk_digest(data, self._seed) != place.digest:
            raise CorruptObject(key, f"The chunk at offset {place.offset} is not what was stored.")
        return data


def _cut(item: _Wanted, chunk: bytes) -> Piece:
    begin, end = item.begin - item.offset, item.end - item.offset
    return Piece(item.path, item.begin, chunk if end - begin == len(chunk) else chunk[begin:end])
