"""What the server sends for a base backup, taken apart: files into chunks, each checked.

Feeds on the messages of `stream`, one after the other, and writes nothing but chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pitr.errors import Corrupt
from pitr.postgres.backup.chunks import ChunkWriter, PageRule
from pitr.postgres.backup.stream import (
    ArchiveBegun,
    BackupBegun,
    BackupEnded,
    ManifestBegun,
    Message,
)
from pitr.postgres.base.contents import CHUNK_BYTES, SERVER_MANIFEST, BaseFile, DamagedBlocks
from pitr.postgres.base.server_manifest import read_server_manifest
from pitr.postgres.base.tar import Member, MemberKind, TarStream
from pitr.postgres.wal.checksum import crc32c

MANIFEST_CHECKSUMS = "CRC32C"
# Files of relations: their pages have checksums. Everything else has none.
_RELATION = re.compile(
    r"(?:base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)"
    r"/\d+(?:_(?:fsm|vm|init))?(?:\.(?P<segment>\d+))?"
)
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The sizes that a server was built with, and whether its pages carry checksums."""

    block_size: int
    segment_blocks: int
    data_checksums: bool


@dataclass(slots=True)
class _OpenFile:
    number: int
    path: str
    size: int
    is_relation: bool
    first_block: int
    parts: list[memoryview] = field(default_factory=list)  # of the chunk at hand
    filled: int = 0
    chunks_sent: int = 0
    checksum: int = 0


class Intake:
    """Takes the messages of one backup."""

    def __init__(self, chunks: ChunkWriter, layout: PageLayout) -> None:
        self.files: list[BaseFile] = []
        self.bytes_taken = 0
        self.begun: BackupBegun | None = None
        self.ended: BackupEnded | None = None
        self._chunks = chunks
        self._layout = layout
        self._arrived: dict[str, tuple[int, str]] = {}
        self._tar: TarStream | None = None
        self._prefix = ""
        self._file: _OpenFile | None = None
        self._manifest: bytearray | None = None

    def take(self, message: Message) -> None:
        """Take the next message. Raises Corrupt, StoreUnusable."""
        if isinstance(message, memoryview):
            self.bytes_taken += len(message)
            if self._manifest is not None:
                self._manifest += message
            else:
                self._take_tar(message)
        elif isinstance(message, BackupBegun):
            self.begun = message
        elif isinstance(message, ArchiveBegun):
            self._end_archive()
            oid = message.tablespace_oid
            self._prefix = f"pg_tblspc/{oid}/" if oid is not None else ""
            self._tar = TarStream()
        elif isinstance(message, ManifestBegun):
            self._end_archive()
            self._manifest = bytearray()
        else:
            self.ended = message

    def finish(self) -> None:
        """Compare what arrived with the server's manifest, and store that too. Raises Corrupt."""
        if self.ended is None or self._manifest is None:
            raise Corrupt("the server ended the base backup before its end")
        data = bytes(self._manifest)
        faults = list(read_server_manifest(data).contradictions(self._arrived))
        if faults:
            more = f"; and {len(faults) - _SHOWN_MAX} more" if len(faults) > _SHOWN_MAX else ""
            raise Corrupt(
                "what arrived is not what the server's backup manifest lists",
                detail=f"{'; '.join(faults[:_SHOWN_MAX])}{more}.",
                hint="Run 'pitr backup' again; if it persists, look at network and server log.",
            )
        modified_s = max((file.modified_s for file in self.files), default=0)
        file = self._begin_file(SERVER_MANIFEST, len(data), 0o600, modified_s)
        self._take_content(file, memoryview(data))
        self._end_file()

    def suspects(self) -> list[tuple[str, int]]:
        """Return (path, block) of each page that contradicts its checksum.

        Blocks count across the segment files of their relation.
        """
        found = self._chunks.suspects
        return [(self.files[page.file].path, page.block) for page in found]

    def runs(self, suspects: Iterable[tuple[str, int]]) -> tuple[DamagedBlocks, ...]:
        """Return runs of neighbouring blocks; there blocks count within their own file."""
        runs: list[DamagedBlocks] = []
        for path, number in suspects:
            block = number - self._first_block(path)
            if runs and runs[-1].path == path and runs[-1].end == block:
                runs[-1] = DamagedBlocks(path, runs[-1].begin, block + 1)
            else:
                runs.append(DamagedBlocks(path, block, block + 1))
        return tuple(runs)

    def _take_tar(self, data: memoryview) -> None:
        if self._tar is None:
            raise Corrupt("the server sent data that belong to no archive")
        for part in self._tar.feed(data):
            if isinstance(part, Member):
                self._end_file()
                self._take_member(part)
            elif self._file is not None:
                self._take_content(self._file, part)

    def _take_member(self, member: Member) -> None:
        path = self._prefix + member.path
        if member.kind is MemberKind.FILE:
            self._file = self._begin_file(path, member.size, member.mode, member.modified_s)
        elif member.kind is MemberKind.FOLDER and member.path not in ("", "."):
            self.files.append(BaseFile(path, 0, member.mode, member.modified_s, is_folder=True))

    def _begin_file(self, path: str, size: int, mode: int, modified_s: int) -> _OpenFile:
        self.files.append(BaseFile(path, size, mode, modified_s))
        is_relation = self._layout.data_checksums and bool(_RELATION.fullmatch(path))
        number = len(self.files) - 1
        self._file = _OpenFile(number, path, size, is_relation, self._first_block(path))
        return self._file

    def _first_block(self, path: str) -> int:
        found = _RELATION.fullmatch(path)
        return int(found["segment"] or 0) * self._layout.segment_blocks if found else 0

    def _take_content(self, file: _OpenFile, data: memoryview) -> None:
        file.checksum = crc32c(bytes(data), file.checksum)
        while data:
            part = data[: CHUNK_BYTES - file.filled]
            file.parts.append(part)
            file.filled += len(part)
            data = data[len(part) :]
            if file.filled == CHUNK_BYTES:
                self._send_chunk(file)

    def _send_chunk(self, file: _OpenFile) -> None:
        rule = None
        if file.is_relation and self.begun is not None:
            block_size = self._layout.block_size
            first = file.first_block + file.chunks_sent * (CHUNK_BYTES // block_size)
            rule = PageRule(first, block_size, self.begun.start.value)
        self._chunks.put(file.parts, file.filled, file.number, rule)
        file.parts, file.filled = [], 0
        file.chunks_sent += 1

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        if file.filled:
            self._send_chunk(file)
        # As the server writes it: the bytes of the number in memory, lowest first.
        checksum = file.checksum.to_bytes(4, "little").hex()
        self._arrived[file.path] = (file.size, checksum)

    def _end_archive(self) -> None:
        if self._tar is not None:
            self._tar.end()
            self._tar = None
        self._end_file()
