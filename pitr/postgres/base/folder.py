"""Base backups that `pg_basebackup` wrote: a folder in PostgreSQL's own layout, or tar archives.

Read where they lie, compressed tar archives too. What `pg_wal` holds is left out, as in an
archive's base.
Without an archive's digests damage is noticed only where PostgreSQL's own checksums tell.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pitr.errors import Corrupt, PreconditionFailed
from pitr.postgres.base.contents import (
    BACKUP_LABEL,
    SERVER_MANIFEST,
    TABLESPACE_MAP,
    BaseFile,
    BaseInfo,
    Piece,
    Span,
    Tablespace,
)
from pitr.postgres.base.control import CONTROL_PATH, parse_backup_label, parse_control
from pitr.postgres.base.server_manifest import ServerManifest, read_server_manifest
from pitr.postgres.base.tar_files import Lying, TarFiles, cut_short, find_tar
from pitr.unpacked import SUFFIXES
from pitr.vocabulary.position import Lsn

_TABLESPACES = "pg_tblspc"
_WAL = "pg_wal"
_PACKED = " and ".join(f".tar{suffix}" for suffix in SUFFIXES)
_PIECE_BYTES = 4 << 20
_SETTINGS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
_LABEL = re.compile(r"^LABEL: (.+)$", re.MULTILINE)


class BaseFolder:
    """A base backup outside any archive: a `Base`."""

    def __init__(self, place: Path) -> None:
        """Read what there is at a folder, or in a folder's base.tar, or at a base.tar.

        A tar archive may be a .gz or .zst. Raises PreconditionFailed for a place that is no base
        backup or is compressed otherwise, Corrupt.
        """
        self._place = Path(place)
        self._lock = threading.Lock()
        self._bytes_read = 0
        self._tars = TarFiles()
        self._lying = _find(self._tars, self._place)
        self._files = {path: lying.file for path, lying in self._lying.items()}
        self._require_whole()

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were read so far."""
        return self._bytes_read

    @functools.cached_property
    def backup_label(self) -> bytes:
        """Return the file `backup_label`."""
        return self.read_file(BACKUP_LABEL)

    @functools.cached_property
    def tablespace_map(self) -> bytes | None:
        """Return the file `tablespace_map`; None when there is none."""
        return self.read_file(TABLESPACE_MAP) if TABLESPACE_MAP in self._files else None

    @functools.cached_property
    def server_manifest(self) -> ServerManifest | None:
        """Return the server's own manifest; None when the backup was made without."""
        if SERVER_MANIFEST not in self._files:
            return None
        return read_server_manifest(self.read_file(SERVER_MANIFEST))

    @functools.cached_property
    def info(self) -> BaseInfo:
        """Return what the files tell of the whole."""
        control = parse_control(self.read_file(CONTROL_PATH))
        text = self.backup_label.decode(errors="replace")
        label = parse_backup_label(text)
        manifest = self.server_manifest
        ends = [Lsn.parse(item.end_lsn) for item in manifest.wal_ranges] if manifest else []
        written_us = self._files[BACKUP_LABEL].modified_s * 1_000_000
        named = _LABEL.search(text)
        return BaseInfo(
            id=str(self._place),
            system_identifier=str(control.system_identifier),
            server_version=control.major * 10000,
            timeline=label.timeline,
            start_lsn=str(label.redo),
            end_lsn=str(max(ends)) if ends else None,
            started_us=written_us,
            time_us=written_us,
            label=named[1] if named else "",
            superuser=None,
            from_standby=label.from_standby,
            block_size=control.block_bytes,
            wal_segment_bytes=control.wal_segment_bytes,
            data_checksums=control.data_checksums,
            judged_pages=False,
            settings={name: str(getattr(control, name)) for name in _SETTINGS},
            tablespaces=self._tablespaces(),
            damaged=(),
            raw_bytes=sum(file.size for file in self._files.values()),
            stored_bytes=0,
            bytes=0,
        )

    def _tablespaces(self) -> tuple[Tablespace, ...]:
        """Return the tablespaces, from their links or, in tar archives, from tablespace_map."""
        mapped = self._mapped()
        return tuple(
            Tablespace(int(oid), mapped.get(oid) or _location(self._place, oid))
            for oid in sorted(self._tablespace_folders())
            if oid.isdigit()
        )

    def _mapped(self) -> dict[str, str]:
        """Return the locations of tablespaces by their OIDs, as tablespace_map has them."""
        lines = (self.tablespace_map or b"").decode(errors="surrogateescape").splitlines()
        pairs = (line.partition(" ") for line in lines)
        return {oid: location.replace("\\\\", "\\") for oid, _, location in pairs}

    def _tablespace_folders(self) -> set[str]:
        return {path.split("/")[1] for path in self._files if path.startswith(_TABLESPACES + "/")}

    def _require_whole(self) -> None:
        if BACKUP_LABEL not in self._files:
            raise _no_backup(self._place, "It has no backup_label.")
        if CONTROL_PATH not in self._files:
            raise Corrupt(
                "the base backup was cut short",
                detail=f"{self._place} has no {CONTROL_PATH}, which comes last.",
                hint="Use another base backup, or copy this one again.",
            )
        lost = sorted(self._mapped().keys() - self._tablespace_folders())
        if lost:
            raise _no_backup(
                self._place,
                f"Tablespaces of it are missing: {', '.join(lost)}.",
                "Put their files, as OID.tar, beside base.tar.",
            )

    def files(self) -> Mapping[str, BaseFile]:
        """Return every file and folder by its path."""
        return self._files

    def read_file(self, path: str) -> bytes:
        """Return a whole file."""
        return self._read(self._lying[path], 0, self._files[path].size)

    def read_blocks(self, path: str, begin: int, end: int) -> bytes:
        """Return the blocks `begin` to `end`, excluded, counted from the start of this file."""
        size = self.info.block_size
        return self._read(self._lying[path], begin * size, end * size)

    def read_pieces(self, spans: Iterable[Span]) -> Iterator[Piece]:
        """Yield the bytes of many spans, piece by piece."""
        # In the order of the files, since a compressed one is read from front to back.
        for path, begin, end in sorted(spans, key=lambda span: self._lying[span.path][1:]):
            lying = self._lying[path]
            for at in range(begin, end, _PIECE_BYTES):
                data = self._read(lying, at, min(end, at + _PIECE_BYTES))
                yield Piece(path, at, data)

    def _read(self, lying: Lying, begin: int, end: int) -> bytes:
        if not 0 <= begin <= end <= lying.file.size:
            raise ValueError(f"bytes {begin} to {end} of {lying.file.path} ({lying.file.size})")
        if lying.path.suffix in SUFFIXES:
            data = self._tars.read(lying.path, lying.offset + begin, end - begin)
        else:
            with lying.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), end - begin, lying.offset + begin)
        if len(data) != end - begin:
            raise cut_short(lying.path, lying.offset + end)
        with self._lock:
            self._bytes_read += len(data)
        return data


def _find(tars: TarFiles, place: Path) -> dict[str, Lying]:
    """Return the files of a base backup, wherever they lie."""
    if place.is_file():
        return _find_tars(tars, place.parent, place)
    if (place / "PG_VERSION").is_file():
        return dict(_walk(place))
    base = find_tar(place, "base")
    if base is not None:
        return _find_tars(tars, place, base)
    packed = next(iter(sorted(place.glob("base.tar.*"))), None)
    if packed is not None:
        raise _no_backup(
            place,
            f"{packed.name} is compressed in a way that is not read here.",
            f"Unpack the files beside it first; read are .tar and {_PACKED}.",
        )
    raise _no_backup(place, "It has neither PG_VERSION nor base.tar.")


def _walk(root: Path) -> Iterator[tuple[str, Lying]]:
    yield from _walk_below(root, "")
    folder = root / _TABLESPACES
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not entry.is_dir():
            raise _no_backup(root, f"The tablespace {entry.name} is not where its link leads.")
        yield from _walk_below(entry.resolve(), f"{_TABLESPACES}/{entry.name}/")


def _walk_below(root: Path, prefix: str) -> Iterator[tuple[str, Lying]]:
    for folder, folders, names in os.walk(root):
        base = prefix + os.path.relpath(folder, root) + "/" if folder != str(root) else prefix
        if base in ("pg_wal/", "pg_tblspc/"):
            folders.clear()
            continue
        for name in sorted([*folders, *names]):
            path = Path(folder) / name
            status = path.stat(follow_symlinks=base + name == _WAL)
            kind = status.st_mode
            if stat.S_ISDIR(kind) or stat.S_ISREG(kind):
                is_folder = stat.S_ISDIR(kind)
                size = 0 if is_folder else status.st_size
                mode, modified_s = stat.S_IMODE(kind), int(status.st_mtime)
                file = BaseFile(base + name, size, mode, modified_s, is_folder)
                yield base + name, Lying(file, path, 0)


def _find_tars(tars: TarFiles, folder: Path, base: Path) -> dict[str, Lying]:
    found = dict(tars.members(base, ""))
    for path in sorted(folder.glob("[0-9]*.tar*")):
        oid = path.name.partition(".")[0]
        if oid.isdigit() and path == find_tar(folder, oid):
            found.update(tars.members(path, f"{_TABLESPACES}/{oid}/"))
    manifest = folder / SERVER_MANIFEST
    if manifest.is_file():
        status = manifest.stat()
        file = BaseFile(SERVER_MANIFEST, status.st_size, 0o600, int(status.st_mtime))
        found[SERVER_MANIFEST] = Lying(file, manifest, 0)
    return found


def _location(place: Path, oid: str) -> str:
    link = place / _TABLESPACES / oid
    return os.fspath(link.readlink()) if link.is_symlink() else f"{_TABLESPACES}/{oid}"


def _no_backup(place: Path, detail: str, hint: str | None = None) -> PreconditionFailed:
    return PreconditionFailed(
        f"no base backup at {place}",
        detail=detail,
        hint=hint or "Name the folder that pg_basebackup wrote, or its base.tar.",
    )
