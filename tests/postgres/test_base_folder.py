"""Base backups that pg_basebackup wrote, read where they lie: like those of an archive."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from pitr.errors import Corrupt, PreconditionFailed
from pitr.postgres.base.contents import Base, whole_files
from pitr.postgres.base.folder import BaseFolder
from tests.memory_store import MemoryStore
from tests.postgres.backups import newest, own, require_programs, take
from tools.postgres_servers import Server

VOLATILE = ("backup_label", "backup_manifest", "global/pg_control", "pg_logical/", "pg_xact/")


def contents(base: Base) -> dict[str, bytes]:
    """Return the files of a base that do not change between two backups of a quiet server."""
    paths = [
        path
        for path, file in base.files().items()
        if not file.is_folder and not path.startswith(VOLATILE)
    ]
    found = {path: bytearray(base.files()[path].size) for path in paths}
    for path, offset, data in base.read_pieces(whole_files(base, paths)):
        found[path][offset : offset + len(data)] = data
    return {path: bytes(data) for path, data in found.items()}


@contextmanager
def pg_basebackup(server: Server, *options: str) -> Iterator[Path]:
    """Let PostgreSQL take a base backup; it belongs to the server's user and is removed."""
    folder = server.folder / "backup"
    try:
        server.run("pg_basebackup", "-D", str(folder), "-c", "fast", "-X", "none", *options)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def with_tablespace(server: Server) -> None:
    """Give a server a table of its own, and one in a tablespace."""
    place = server.folder / "space"
    place.mkdir()
    own(place)
    server.query(f"CREATE TABLESPACE far LOCATION '{place}'")
    server.query("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 9000) AS i")
    server.query("CREATE TABLE f TABLESPACE far AS SELECT i FROM generate_series(1, 9000) AS i")


def test_folder_and_tar_hold_what_the_archive_holds(server: Server) -> None:
    """The same files byte for byte, tablespaces included, and the same account of the whole."""
    require_programs(server)
    with_tablespace(server)
    oid = server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'far'")
    store = MemoryStore()
    take(server, store)
    archived = newest(store)
    wanted = contents(archived)
    mapping = f"{server.folder / 'space'}={server.folder / 'mapped'}"
    seen = []
    with pg_basebackup(server, f"--tablespace-mapping={mapping}") as folder:
        seen.append((BaseFolder(folder), contents(BaseFolder(folder))))
    with pg_basebackup(server, "-Ft") as folder:
        seen.append((BaseFolder(folder), contents(BaseFolder(folder / "base.tar"))))
        for base, _ in seen[1:]:
            judge_info(base, archived, oid)
            path = server.value("SELECT pg_relation_filepath('t')")
            assert base.read_blocks(path, 2, 4) == archived.read_blocks(path, 2, 4)
            with pytest.raises(ValueError):
                base.read_blocks(path, 0, 10_000)
        for tar in folder.glob("*.tar"):
            pack(tar)
        seen.append((BaseFolder(folder), contents(BaseFolder(folder / "base.tar.zst"))))
        (folder / f"{oid}.tar.gz").unlink()
        with pytest.raises(PreconditionFailed, match="no base backup"):
            BaseFolder(folder)

    for _, found in seen:
        found.pop("tablespace_map", None)
        assert found.keys() == wanted.keys()
        assert [path for path in wanted if found[path] != wanted[path]] == []


def judge_info(base: Base, archived: Base, oid: int) -> None:
    """Compare what two bases of one server say of themselves."""
    one, other = base.info, archived.info
    assert one.system_identifier == other.system_identifier
    assert (one.major, one.timeline) == (other.major, other.timeline)
    assert (one.block_size, one.wal_segment_bytes) == (other.block_size, other.wal_segment_bytes)
    assert one.data_checksums == other.data_checksums
    assert one.settings.items() <= other.settings.items()
    assert [item.oid for item in one.tablespaces] == [oid]
    assert one.tablespaces == other.tablespaces
    assert one.end is not None
    assert other.end is not None
    assert one.start > other.start
    assert one.end > other.end


def pack(tar: Path) -> None:
    """Compress base.tar as .zst, and other tar archives as .gz."""
    data = tar.read_bytes()
    tar.unlink()
    if tar.stem == "base":
        tar.with_suffix(".tar.zst").write_bytes(zstandard.compress(data, 1))
    else:
        tar.with_suffix(".tar.gz").write_bytes(gzip.compress(data, 1))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
def test_tar_that_was_cut_short_is_refused(server: Server, suffix: str) -> None:
    """Exit 5, wherever it ends: in a member, and between two."""
    require_programs(server)
    with pg_basebackup(server, "-Ft") as folder:
        whole = (folder / "base.tar").read_bytes()
        (folder / "base.tar").unlink()
        header = whole.index(b"global/pg_control")
        for end in (len(whole) // 2 + 100, header):
            data = whole[:end]
            packed = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.zst": zstandard.compress}
            (folder / f"base{suffix}").write_bytes(packed[suffix](data))
            with pytest.raises(Corrupt) as caught:
                BaseFolder(folder)
            assert caught.value.exit_code == 5
        (folder / f"base{suffix}").write_bytes(packed[suffix](whole)[: len(whole) // 100])
        with pytest.raises(Corrupt):
            BaseFolder(folder)


def test_place_that_is_no_backup_is_refused(server: Server, tmp_path: Path) -> None:
    """A live data directory, an archive in a form not read here, any other folder: exit 3."""
    require_programs(server)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pg_basebackup(server, "-Ft") as packed:
        (packed / "base.tar").rename(packed / "base.tar.lz4")
        for place, detail in (
            (server.data, "backup_label"),
            (packed, "compressed"),
            (empty, "base.tar"),
        ):
            with pytest.raises(PreconditionFailed) as caught:
                BaseFolder(place)
            assert caught.value.exit_code == 3
            assert detail in str(caught.value.detail)


def test_manifest_that_was_altered_is_refused(server: Server) -> None:
    """The end of the backup is taken from the manifest only when its checksum holds: exit 5."""
    require_programs(server)
    with pg_basebackup(server) as folder:
        manifest = folder / "backup_manifest"
        manifest.write_text(manifest.read_text().replace("0600", "0700").replace('"1"', '"2"'))
        text = manifest.read_bytes()
        manifest.write_bytes(text.replace(b'"Timeline": 1', b'"Timeline": 2'))
        with pytest.raises(Corrupt) as caught:
            _ = BaseFolder(folder).info
    assert caught.value.exit_code == 5
