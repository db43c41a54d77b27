"""Restores on PostgreSQL from damaged input, or without room: exit code and message."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.archive import open_archive
from pitr.archive.local import LocalStore
from pitr.errors import SidecarFailed
from pitr.postgres.capture.push import push_file
from pitr.postgres.replay.server import ServerFolder, find_binaries, running, server_account
from pitr.postgres.wal.segment_name import SegmentName
from pitr.vocabulary.position import Lsn
from tests.cli.commands import PITR, Done, environment, pitr, succeed, told
from tests.postgres.backups import take
from tests.postgres.replay_world import archiving_server, finish_wal, take_base, world_folder
from tests.processes import beside
from tools.postgres_servers import Server


@dataclass(frozen=True, slots=True)
class Site:
    """Base backup and WAL of one cluster, as plain files and in an archive; copies to damage."""

    folder: Path
    stop: str

    @contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """Yield a copy of a folder."""
        with world_folder() as place:
            shutil.copytree(self.folder / name, place / name, symlinks=True)
            yield place / name


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Record orders before and after the base backup, and a database made by copying files."""
    with world_folder() as folder:
        with archiving_server(folder, 15, segment_megabytes=1) as server:
            server.query("CREATE TABLE orders AS SELECT i, repeat('x', 500) AS t FROM "
                         "generate_series(1, 2000) AS i")  # fmt: skip
            take_base(server, folder)
            store = LocalStore(folder / "archive")
            take(server, store)
            server.query("UPDATE orders SET t = t || 'y'")
            server.query("CREATE DATABASE copied STRATEGY FILE_COPY")
            server.query("CREATE TABLE orders AS SELECT 1 AS i", "copied")
            server.query("CREATE DATABASE logged STRATEGY WAL_LOG")
            server.query("CREATE TABLE orders AS SELECT 1 AS i", "logged")
            server.query("CREATE DATABASE copied_again TEMPLATE copied STRATEGY FILE_COPY")
            stop = server.value("SELECT pg_current_wal_insert_lsn()::text")
            finish_wal(server)
            for path in sorted((folder / "wal").iterdir()):
                push_file(store, open_archive(store), path)
        yield Site(folder, str(stop))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return where state and sidecars go; nothing of either is left in the end."""
    with world_folder() as sidecars:
        yield {"PITR_STATE": str(tmp_path / "state"), "PITR_SIDECAR_FOLDER": str(sidecars)}
        assert not list(sidecars.iterdir())
        assert not list((tmp_path / "state").glob("recoveries/*/recovery.json"))


def restore(site: Site, tmp_path: Path, places: dict[str, str], **other: Path) -> Done:
    """Restore from plain files, some of them others."""
    return pitr(tmp_path, *words(site, **other), **places)


def words(site: Site, table: str = "orders", **other: Path) -> list[str]:
    """Return the words of a restore from plain files."""
    found = {name: str(other.get(name, site.folder / name)) for name in ("base", "wal")}
    return [
        "restore", "--from-backup", found["base"], "--from-wal", found["wal"], "-t", table,
        "--at", f"lsn:{site.stop}",
    ]  # fmt: skip


def from_archive(archive: Path, site: Site, tmp_path: Path, places: dict[str, str]) -> Done:
    """Restore from an archive."""
    at = ["--at", f"lsn:{site.stop}", "--no-compare"]
    return pitr(tmp_path, "restore", "--archive", str(archive), "-t", "orders", *at, **places)


def damage(path: Path) -> None:
    """Change some bytes all over a file, but for its first and its last kilobyte."""
    data = bytearray(path.read_bytes())
    for at in range(1024, len(data) - 1024, 512):
        data[at] ^= 0x55
    path.write_bytes(data)


def test_damaged_chunk_of_a_base_is_named(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 5 with the object, whichever pack it is."""
    with site.copied("archive") as archive:
        packs = [path for path in (archive / "pack").iterdir() if path.is_file()]
        assert packs
        for path in packs:
            damage(path)
        done = from_archive(archive, site, tmp_path, places)

    assert done.code == 5, done.err
    assert any(path.name in done.err for path in packs), done.err


def test_damaged_wal_of_an_archive_is_named(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 5 with the object."""
    with site.copied("archive") as archive:
        objects = [path for path in (archive / "wal").rglob("*") if path.stat().st_size > 9000]
        objects = [path for path in objects if path.is_file()]
        assert objects
        for path in objects:
            damage(path)
        done = from_archive(archive, site, tmp_path, places)

    assert done.code == 5, done.err
    assert any(path.name in done.err for path in objects), done.err


def test_damaged_wal_of_a_folder_is_named_by_its_place(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 5 with the LSN at which the WAL contradicts itself."""
    with site.copied("wal") as wal:
        segment = SegmentName.at(1, Lsn.parse(site.stop).value - (1 << 20), 1 << 20)
        data = bytearray((wal / str(segment)).read_bytes())
        data[5000:5008] = b"damaged!"
        (wal / str(segment)).write_bytes(data)
        done = restore(site, tmp_path, places, wal=wal)

    assert done.code == 5, done.err
    assert "the WAL is damaged at 0/" in done.err


def test_server_that_does_not_start_is_quoted(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 3 with the lines of its log that say why."""
    with site.copied("base") as base:
        (base / "PG_VERSION").write_text("14\n")
        done = restore(site, tmp_path, places, base=base)

    assert done.code == 3, done.err
    assert "the sidecar could not be recovered" in told(done.err)[0]
    assert "initialized by PostgreSQL version 14" in done.err


def test_server_that_lacks_its_first_checkpoint_does_not_wait_for_it(server: Server) -> None:
    """No WAL will come: it fails with what its log says."""
    server.stop()
    for segment in server.wal.glob("0*"):
        segment.unlink()
    (server.data / "standby.signal").touch()
    folder = ServerFolder(
        server.folder, find_binaries(15, chosen=server.bin), server_account("postgres"), "postgres"
    )
    with pytest.raises(SidecarFailed, match="could not be recovered") as failed, running(folder):
        pass
    assert "checkpoint record" in str(failed.value.detail)


def test_copy_of_a_database_that_the_base_lacks_is_refused(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 4 for a template that was dropped while the backup was taken."""
    with site.copied("base") as base:
        shutil.rmtree(base / "base" / "1")
        done = pitr(tmp_path, *words(site, "copied.public.orders", base=base), **places)

    assert done.code == 4, done.err
    assert "a copy of one that is not in the base backup" in told(done.err)[0]


@pytest.mark.parametrize(
    ("table", "rows"),
    [("orders", 2000), ("copied_again.public.orders", 1), ("logged.public.orders", 1)],
)
def test_databases_beside_and_made_after_the_base_come_back(
    site: Site, tmp_path: Path, table: str, rows: int
) -> None:
    """From plain files, and from an archive by its index."""
    with world_folder() as sidecars:
        places = {"PITR_STATE": str(tmp_path / "state"), "PITR_SIDECAR_FOLDER": str(sidecars)}
        loose = succeed(tmp_path, *words(site, table), "--json", **places).json
        at = ["-t", table, "--at", f"lsn:{site.stop}", "--no-compare", "--json"]
        archive = str(site.folder / "archive")
        found = succeed(tmp_path, "restore", "--archive", archive, *at, **places).json

    assert loose["tables"][0]["rows"] == found["tables"][0]["rows"] == rows


@contextmanager
def small_file_system(folder: Path, mebibytes: int) -> Iterator[None]:
    """Mount a file system of this size on a folder; skip where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0711", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_too_small_a_disk_is_refused_before_anything_is_written(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 3 with what is free and what is needed."""
    with small_file_system(Path(places["PITR_SIDECAR_FOLDER"]), 40):
        done = restore(site, tmp_path, places)

    assert done.code == 3, done.err
    assert "not enough space" in told(done.err)[0]


def test_disk_that_fills_up_meanwhile_is_reported(
    site: Site, tmp_path: Path, places: dict[str, str]
) -> None:
    """Exit 3, whether pitr or the server meets it; nothing half-made is left."""
    folder = Path(places["PITR_SIDECAR_FOLDER"])
    with small_file_system(folder, 110):
        with beside(
            [*PITR, *words(site)],
            env=environment(**places),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            while process.poll() is None and not list(folder.glob("*/catalogs/data")):
                time.sleep(0.001)
            ballast = folder / "ballast"
            while process.poll() is None:
                fill(ballast)
            _, errors = process.communicate(timeout=60)
        ballast.unlink()

    assert process.returncode == 3, errors
    assert "space" in errors
    assert "Traceback" not in errors


def fill(ballast: Path) -> None:
    """Take all that is free at the moment."""
    with suppress(OSError), ballast.open("ab", 0) as file:
        while file.write(bytes(1 << 20)):
            pass
    time.sleep(0.01)
