"""What a base backup is to whoever restores from it, wherever it lies.

`base_archive` reads those of an archive, `base_folder` what `pg_basebackup` wrote; both are a
`Base`. Paths are those of PostgreSQL's own backup manifest: below the data directory, a
tablespace's files as `pg_tblspc/<oid>/PG_15_…/…`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pitr.postgres.wal.segment_name import is_segment_bytes
from pitr.vocabulary.position import Lsn

# A chunk is what is fetched for one block; the blocks of archived WAL are as large.
CHUNK_BYTES = 128 << 10
# A chunk is in memory as a whole: what declares a larger one is damage or malice.
CHUNK_BYTES_MAX = 16 << 20
_BLOCK_BYTES_MAX = 32 << 10

BACKUP_LABEL = "backup_label"
TABLESPACE_MAP = "tablespace_map"
SERVER_MANIFEST = "backup_manifest"


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A file or folder of the data directory. `mode`: permission bits; `modified_s`: epoch."""

    path: str
    size: int
    mode: int
    modified_s: int
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Tablespace:
    """A tablespace: its OID, and where it was on the server.

    A relative location is inside the data directory (allow_in_place_tablespaces).
    """

    oid: int
    location: str


@dataclass(frozen=True, slots=True)
class DamagedBlocks:
    """Blocks `begin` to `end`, excluded, of the file `path` that contradict their checksums."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """What is known of a base as a whole. Times in µs since the epoch, of the host that backed up.

    `server_version` is PostgreSQL's number, 150018 for 15.18. `bytes` is what the backup added to
    the archive, `stored_bytes` what its chunks take there, `raw_bytes` the sum of its files.
    `settings` are those of the server that a sidecar has to match or wants to know. `superuser` is
    the bootstrap superuser's name. `judged_pages` says whether page checksums were verified,
    `damaged` what was found. What a folder does not tell is None, 0 or empty.
    """

    id: str
    system_identifier: str
    server_version: int
    timeline: int
    start_lsn: str
    end_lsn: str | None
    started_us: int
    time_us: int
    label: str
    superuser: str | None
    from_standby: bool
    block_size: int
    wal_segment_bytes: int
    data_checksums: bool
    judged_pages: bool
    settings: dict[str, str]
    tablespaces: tuple[Tablespace, ...]
    damaged: tuple[DamagedBlocks, ...]
    raw_bytes: int
    stored_bytes: int
    bytes: int
    chunk_bytes: int = CHUNK_BYTES

    @property
    def start(self) -> Lsn:
        """Return where replay has to begin."""
        return Lsn.parse(self.start_lsn)

    @property
    def end(self) -> Lsn | None:
        """Return from where on the state is consistent: no target lies before it.

        None for a folder without a backup manifest: then the WAL alone tells.
        """
        return Lsn.parse(self.end_lsn) if self.end_lsn is not None else None

    @property
    def major(self) -> int:
        """Return the major version of the server."""
        return self.server_version // 10000


def is_plausible(info: BaseInfo) -> bool:
    """Return whether the sizes that a base declares are those that a cluster can have."""
    return (
        0 < info.chunk_bytes <= CHUNK_BYTES_MAX
        and 0 < info.block_size <= _BLOCK_BYTES_MAX
        and is_segment_bytes(info.wal_segment_bytes)
        and all(space.oid > 0 for space in info.tablespaces)
    )


class Span(NamedTuple):
    """A half-open range of bytes of one file."""

    path: str
    begin: int
    end: int


class Piece(NamedTuple):
    """Bytes of one file, at `offset`."""

    path: str
    offset: int
    data: bytes


class Base(Protocol):
    """One base backup, open for reading. Safe to use from several threads.

    Errors of every method that reads: CorruptObject where bytes contradict a checksum,
    ObjectMissing, StoreUnusable; KeyError for a path that the base does not have, ValueError for a
    range outside the file.
    """

    @property
    def info(self) -> BaseInfo:
        """Return what is known of the whole."""

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were fetched so far."""

    @property
    def backup_label(self) -> bytes:
        """Return the file `backup_label`, which tells PostgreSQL where replay begins."""

    @property
    def tablespace_map(self) -> bytes | None:
        """Return the file `tablespace_map`; None when there are no tablespaces."""

    def files(self) -> Mapping[str, BaseFile]:
        """Return every file and folder by its path."""

    def read_file(self, path: str) -> bytes:
        """Return a whole file. For small ones: a segment of a relation has up to 1 GiB."""

    def read_blocks(self, path: str, begin: int, end: int) -> bytes:
        """Return the blocks `begin` to `end`, excluded, counted from the start of this file."""

    def read_pieces(self, spans: Iterable[Span]) -> Iterator[Piece]:
        """Yield the bytes of many spans, in pieces and in no certain order.

        Near pieces are fetched together and far ones side by side, with bounded memory. Zeros that
        were never stored come as pieces too. A span of nothing yields nothing.
        """


def whole_files(base: Base, paths: Iterable[str]) -> Iterator[Span]:
    """Yield the spans of whole files, for `read_pieces`. Raises KeyError."""
    files = base.files()
    return (Span(path, 0, files[path].size) for path in paths)
