"""Cut files into chunks and store those that the archive does not have.

One thread reads and hands in; workers find digests, compress and judge pages side by side; the same
one thread takes their results in order and fills packs. Memory is bounded by what is in flight.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import zstandard

from pitr.postgres.backup.known import KnownChunks
from pitr.postgres.backup.upload import FullPack, Uploader
from pitr.postgres.base.contents import CHUNK_BYTES
from pitr.postgres.base.object import (
    DIGEST_BYTES,
    FIRST_OFFSET,
    NO_PACK,
    ZSTD_LEVEL,
    ChunkPlace,
    ChunkTable,
    chunk_digest,
)
from pitr.postgres.base.page_checksum import damaged_pages

PACK_BYTES = 16 << 20
# With more chunks than these a pack's directory would not come with its tail.
_PACK_CHUNKS_MAX = 2048
# What a worker takes at once: many small files, or a few chunks of a large one.
_BATCH_BYTES = 8 * CHUNK_BYTES
_BATCH_CHUNKS_MAX = 64
_WORKERS = max(2, min(8, os.cpu_count() or 2))
_ZEROS = bytes(CHUNK_BYTES)
_NO_DIGEST = bytes(DIGEST_BYTES)


class PageRule(NamedTuple):
    """How to judge the pages of a chunk: the number of the first one, and below which LSN."""

    first_block: int
    page_bytes: int
    judged_below: int


class _Chunk(NamedTuple):
    parts: list[memoryview]
    size: int
    rule: PageRule | None
    file: int


class _Done(NamedTuple):
    digest: bytes | None  # None for zeros
    frame: bytes | None  # None for a chunk that was known
    damaged: list[int]


@dataclass(slots=True)
class _OpenPack:
    number: int
    size: int = 0
    frames: list[bytes] = field(default_factory=list)
    digests: bytearray = field(default_factory=bytearray)
    lengths: array[int] = field(default_factory=lambda: array("I"))


class SuspectPage(NamedTuple):
    """A page that contradicts its checksum: the number of its file here, its block there."""

    file: int
    block: int


class ChunkWriter:
    """Takes chunks in the order of the files, and knows in the end where each one lies."""

    def __init__(self, known: KnownChunks, seed: int, uploader: Uploader) -> None:
        """Start the workers; they end with `close`."""
        self.table = ChunkTable()
        self.suspects: list[SuspectPage] = []
        self._known = known
        self._seed = seed
        self._uploader = uploader
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="pitr-chunk")
        self._running: deque[tuple[list[_Chunk], Future[list[_Done]]]] = deque()
        self._batch: list[_Chunk] = []
        self._batch_bytes = 0
        self._pack: _OpenPack | None = None

    def put(self, parts: list[memoryview], size: int, file: int, rule: PageRule | None) -> None:
        """Take the next chunk, in parts that stay as they are. Raises StoreUnusable.

        Waits while workers or store are behind.
        """
        self._batch.append(_Chunk(parts, size, rule, file))
        self._batch_bytes += size
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_CHUNKS_MAX:
            self._send()

    def finish(self) -> None:
        """Wait until every chunk is in the archive. Raises StoreUnusable."""
        self._send()
        while self._running:
            self._take()
        self._close_pack()
        self._uploader.finish()

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def used_packs(self) -> tuple[list[str], ChunkTable]:
        """Return the keys of the packs that the chunks lie in, and the table that counts those."""
        numbers: dict[int, int] = {}
        for pack in self.table.packs:
            if pack != NO_PACK:
                numbers.setdefault(pack, len(numbers))
        numbers[NO_PACK] = NO_PACK
        self.table.packs = array("I", map(numbers.__getitem__, self.table.packs))
        return [self._known.packs[pack] for pack in numbers if pack != NO_PACK], self.table

    def stored_bytes(self) -> int:
        """Return what the chunks take in the archive; one that is used twice counts once."""
        return self._known.used_bytes

    def _send(self) -> None:
        if self._batch:
            self._running.append((self._batch, self._pool.submit(self._work, self._batch)))
            self._batch, self._batch_bytes = [], 0
        while self._running and (len(self._running) > 2 * _WORKERS or self._running[0][1].done()):
            self._take()

    def _work(self, batch: list[_Chunk]) -> list[_Done]:
        return list(map(self._chunk, batch))

    def _chunk(self, chunk: _Chunk) -> _Done:
        raw, rule = b"".join(chunk.parts), chunk.rule
        chunk.parts.clear()
        if raw == (_ZEROS if len(raw) == CHUNK_BYTES else _ZEROS[: len(raw)]):
            return _Done(None, None, [])
        damaged = []
        if rule is not None:
            damaged = damaged_pages(raw, rule.page_bytes, rule.first_block, rule.judged_below)
        digest = chunk_digest(raw, self._seed)
        if digest in self._known:
            return _Done(digest, None, damaged)
        return _Done(digest, self._compressor().compress(raw), damaged)

    def _compressor(self) -> zstandard.ZstdCompressor:
        try:
            found: zstandard.ZstdCompressor = self._own.compressor
        except AttributeError:
            found = self._own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        return found

    def _take(self) -> None:
        """Take the results of the oldest batch."""
        batch, future = self._running.popleft()
        for chunk, done in zip(batch, future.result(), strict=True):
            self.table.append(self._place(chunk, done))
            if chunk.rule is not None:
                first = chunk.rule.first_block
                self.suspects += (SuspectPage(chunk.file, first + page) for page in done.damaged)

    def _place(self, chunk: _Chunk, done: _Done) -> ChunkPlace:
        if done.digest is None:
            return ChunkPlace(NO_PACK, 0, 0, _NO_DIGEST)
        place = self._known.use(done.digest)
        if place is None:
            assert done.frame is not None
            self._add(done.digest, done.frame, chunk.size)
            place = self._known.use(done.digest)
            assert place is not None
        return ChunkPlace(*place, done.digest)

    def _add(self, digest: bytes, frame: bytes, raw_bytes: int) -> None:
        if self._pack is None:
            self._pack = _OpenPack(self._known.add_pack(""))
        pack = self._pack
        self._known.add(digest, pack.number, FIRST_OFFSET + pack.size, len(frame))
        pack.frames.append(frame)
        pack.digests += digest
        pack.lengths.extend((len(frame), raw_bytes))
        pack.size += len(frame)
        if pack.size >= PACK_BYTES or len(pack.frames) >= _PACK_CHUNKS_MAX:
            self._close_pack()

    def _close_pack(self) -> None:
        pack, self._pack = self._pack, None
        if pack is None:
            return

        def on_stored(key: str) -> None:
            self._known.packs[pack.number] = key

        self._uploader.put(FullPack(pack.frames, bytes(pack.digests), pack.lengths, on_stored))
