"""`pitr verify` of PostgreSQL: sound archives, and damage to every kind of object.

One archive for the module, made by the commands of a user; a test damages an object and puts its
bytes back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.archive.object import ObjectReader
from pitr.archive.store import Store
from pitr.operations.debug_object import describe_object
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.object import BASE_KIND, BaseManifest
from pitr.postgres.capture.gap import WalGap, encode_gap
from pitr.postgres.index.file import encode_index
from pitr.postgres.index.name import IndexObject
from pitr.postgres.index.reading import IndexFile
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.verification.run import verify_archive
from pitr.postgres.wal_store.archive import WalArchive
from pitr.postgres.wal_store.object import BLOCK_BYTES, WalObject
from pitr.postgres.wal_store.text import encode_text
from pitr.vocabulary.damage import Damage
from pitr.vocabulary.position import Lsn
from tests.cli.commands import Done, pitr, succeed
from tests.postgres.fixtures import available
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

ROWS = 2000
# A prefix of keys, and words of what is lost when such an object is damaged.
KINDS = {
    "base/": "targets from",
    "catalog/": "names of tables",
    "gap/": "times of a gap",
    "index/": "made anew from the WAL",
    "lease/": "proven current",
    "mark/": "the name of a moment",
    "pack/": "of base",
    "timeline/": "left its parent",
    "wal/": "",
    "verified/": "when the archive was verified",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with pitr.toml and an archive; its server is gone.

    `large` is the path of a table's file, `middle` a position amid the WAL of its UPDATE.
    """

    folder: Path
    large: str
    middle: Lsn

    @property
    def store(self) -> LocalStore:
        """Return the archive."""
        return LocalStore(self.folder / "archive")

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of objects."""
        return [info.key for info in self.store.list(prefix)]

    def path(self, key: str) -> Path:
        """Return the file of an object."""
        return self.folder / "archive" / key

    @contextmanager
    def flipped(self, key: str, at: int) -> Iterator[None]:
        """Have one bit of an object flipped while the block runs."""
        before = self.path(key).read_bytes()
        damaged = bytearray(before)
        damaged[at] ^= 4
        self.path(key).write_bytes(damaged)
        try:
            yield
        finally:
            self.path(key).write_bytes(before)

    @contextmanager
    def removed(self, *keys: str) -> Iterator[None]:
        """Have objects removed while the block runs."""
        before = {key: self.path(key).read_bytes() for key in keys}
        for key in keys:
            self.path(key).unlink()
        try:
            yield
        finally:
            for key, data in before.items():
                self.path(key).write_bytes(data)

    def restore(self, table: str) -> Done:
        """Restore a table as it was in the end."""
        return pitr(
            self.folder, "restore", "--no-compare", "--json", "-t", table, "--at", "name:end"
        )


@pytest.fixture(scope="module")
def site(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make an archive with a base, segments, pieces, an index, catalog readings, marks, a lease."""
    folder = tmp_path_factory.mktemp("site")
    settings: dict[str, str | int | bool] = {"wal_keep_size": "1GB", "autovacuum": False}
    with world_folder() as sidecars, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PITR_SIDECAR_FOLDER", str(sidecars))
        patch.setenv("PITR_STATE", str(folder / "state"))
        with Server(available(major), settings=settings, segment_megabytes=1) as server:
            server.query("CREATE TABLE orders (id int PRIMARY KEY, item text)")
            server.query(f"INSERT INTO orders SELECT i, 'item' FROM generate_series(1, {ROWS}) i")
            server.query("CREATE TABLE large (i int, t text)")
            server.query(
                "INSERT INTO large SELECT i, md5(i::text) || md5((i + 1)::text)"
                " FROM generate_series(1, 30000) AS i"
            )
            succeed(folder, "init", server.url(), "--archive", "archive")
            succeed(folder, "backup", "--checkpoint", "fast")
            server.query("UPDATE orders SET item = 'other'")
            begin = server.value("SELECT pg_current_wal_insert_lsn()::text")
            server.query("UPDATE large SET t = md5(t) WHERE i < 9000")
            end = server.value("SELECT pg_current_wal_insert_lsn()::text")
            path = server.value("SELECT pg_relation_filepath('large')")
            server.query("SELECT pg_switch_wal()")
            server.query("DELETE FROM orders WHERE id = 1")
            succeed(folder, "mark", "end")
        complete_index(LocalStore(folder / "archive"), WalArchive(LocalStore(folder / "archive")))
        succeed(folder, "verify")
        middle = (Lsn.parse(begin).value + Lsn.parse(end).value) // 2
        yield Site(folder, path, Lsn(middle))


def damaged(store: Store) -> dict[str, Damage]:
    """Return what verify finds."""
    return {item.key: item for item in verify_archive(store).damaged}


def test_sound_archive_is_ok_and_status_knows(site: Site) -> None:
    """Every object is read; what the base leads to is said; status and Prometheus show it."""
    keys = site.keys("")
    found = succeed(site.folder, "verify", "--json").json

    assert (found["ok"], found["damaged"], found["holes"]) == (True, [], [])
    assert found["objects"] == len(keys)
    assert found["bytes"] > sum(site.path(key).stat().st_size for key in keys) * 0.99
    assert found["leftovers"] == []
    [base] = found["recoverable"]
    assert base["to"] == found["last_good"]
    shown = succeed(site.folder, "status", "--json").json
    assert base["base"] == shown["bases"][0]["id"]
    assert (base["from"], base["to"]) == tuple(shown["positions"])
    assert shown["verified"]["ok"] is True
    assert len(site.keys("verified/")) == 2


@pytest.mark.parametrize("prefix", ["base/", "catalog/", "index/", "lease/", "mark/", "pack/"])
def test_flipped_bit_is_named_with_what_is_lost(site: Site, prefix: str) -> None:
    """In the first, the last and random bytes of an object: it is damaged, and nothing else."""
    print("seed", seed := random.randrange(1 << 32))
    chance = random.Random(seed)
    for key in chance.sample(keys := site.keys(prefix), min(2, len(keys))):
        size = site.path(key).stat().st_size
        places = {chance.choice((0, 8, size - 1, size - 9)), chance.randrange(size)}
        for at in places - {12, 13}:  # the version: that is for a later pitr to read
            with site.flipped(key, at):
                found = damaged(site.store)
            assert list(found) == [key], f"byte {at} of {size}"
            words = (KINDS[prefix], "can still be read") if prefix == "pack/" else (KINDS[prefix],)
            assert any(word in lost for word in words for lost in found[key].lost), found[key]


def test_damaged_wal_is_named_with_the_targets_that_are_lost(site: Site) -> None:
    """Of any WAL object; what the base leads to ends before it."""
    print("seed", seed := random.randrange(1 << 32))
    chance = random.Random(seed)
    for key in chance.sample(keys := site.keys("wal/"), min(4, len(keys))):
        size = site.path(key).stat().st_size
        with site.flipped(key, chance.randrange(16, size)):
            report = verify_archive(site.store)
        assert [item.key for item in report.damaged] == [key]
        [reach] = report.reaches
        [hole] = [item for item in report.missing if not item.known] or [None]
        if hole is not None:
            is_before = reach.first is not None and hole.end <= reach.first
            assert is_before or reach.last is None or reach.last <= hole.begin
            assert f"WAL {hole.begin} to {hole.end}" in report.damaged[0].lost[0]
            assert is_before == ("no base is so old" in report.damaged[0].lost[0])


def test_damage_ends_with_1_and_is_recorded(site: Site) -> None:
    """The command names the object; status shows that the last verification failed."""
    key = site.keys("mark/")[0]
    with site.flipped(key, 40):
        done = pitr(site.folder, "verify")
    assert done.code == 1
    assert f"damaged: {key}" in done.out
    figures = succeed(site.folder, "status", "--prometheus").out
    assert 'pitr_verify_ok{source="postgres"} 0\n' in figures
    assert 'pitr_verify_damaged{source="postgres"} 1\n' in figures


def test_removed_objects_are_missed(site: Site) -> None:
    """WAL in the middle and at the end, a pack, and a reading that others rest on."""
    whole = [key for key in site.keys("wal/") if "." not in key]
    with site.removed(whole[1]):
        report = verify_archive(site.store)
        assert [str(item.begin) for item in report.missing] == [str(Lsn(begin_of(whole[1])))]
    with site.removed(*site.keys("wal/")[-1:]):
        assert [item.known for item in verify_archive(site.store).missing] == [False]
    pack = site.keys("pack/")[0]
    with site.removed(pack):
        found = damaged(site.store)
        assert "is missing" in found[pack].reason
        assert "public.orders" in " ".join(found[pack].lost)


def test_damaged_chunk_harms_its_table_alone(site: Site) -> None:
    """The other table comes back; this one is refused with 5, naming the pack."""
    store = site.store
    archive = BaseArchive(store)
    info = store.list("base/").__next__()
    manifest = BaseManifest(ObjectReader(store, info.key, info.size, BASE_KIND))
    assert archive.bases()[0].id == manifest.info.id
    file, first = manifest.files()[site.large]
    [place, *_] = manifest.places(first + 1, first + 2)
    assert file.size > 2 * manifest.info.chunk_bytes
    key = manifest.packs()[place.pack]
    with site.flipped(key, place.offset + place.stored // 2):
        assert damaged(store)[key].lost[0].endswith(": postgres.public.large")
        assert site.restore("orders").json["tables"][0]["rows"] == ROWS - 1
        refused = site.restore("large")
    assert (refused.code, key in refused.error["message"]) == (5, True)


def test_damaged_wal_of_a_table_harms_it_alone(site: Site) -> None:
    """The index leads past WAL that a table does not need."""
    name = f"{1:08X}{0:08X}{site.middle.value >> 20:08X}"
    key = f"wal/00000001/{name}"
    stored = WalObject(site.store, key, site.path(key).stat().st_size)
    block = site.middle.value % (1 << 20) // BLOCK_BYTES
    with site.flipped(key, stored._ends[block] - stored._lengths[block] // 2):
        assert list(damaged(site.store)) == [key]
        assert site.restore("orders").json["tables"][0]["rows"] == ROWS - 1
        refused = site.restore("large")
    assert (refused.code, key in refused.error["message"]) == (5, True)


def test_damaged_index_costs_nothing_but_time(site: Site) -> None:
    """What it does not say is read from the WAL; deleted, it is made anew."""
    before = {key: site.path(key).read_bytes() for key in site.keys("index/")}
    for key, data in before.items():
        site.path(key).write_bytes(data[:-30] + bytes(30))
    try:
        assert sorted(damaged(site.store)) == sorted(before)
        assert site.restore("orders").json["tables"][0]["rows"] == ROWS - 1
        for key in before:
            site.path(key).unlink()
        complete_index(site.store, WalArchive(site.store))
        assert damaged(site.store) == {}
        assert site.keys("index/") == list(before)
    finally:
        for key, data in before.items():
            site.path(key).write_bytes(data)


def test_index_that_contradicts_the_wal_is_named(site: Site) -> None:
    """A whole object, checksums and all, that lacks rows."""
    info = max(site.store.list("index/"), key=lambda info: info.size)
    item = IndexObject.of(info)
    assert item is not None
    file = IndexFile(site.store, item)
    groups = [file.read(group) for group in file.groups]
    key, data = encode_index(
        file.stretch,
        [*groups[:-1], groups[-1].cut(0, len(groups[-1]) - 1)],
        (item.first_time_us, item.last_time_us),
    )
    with site.removed(info.key):
        site.store.put_new(key, data)
        try:
            assert "contradicts the WAL" in damaged(site.store)[key].reason
        finally:
            site.store.delete(key)


def test_dump_of_every_kind_of_object_says_what_it_holds(site: Site) -> None:
    """Undamaged ones are read to their end, and damaged ones say so."""
    words = {
        "base/": "PG_VERSION",
        "catalog/": "public.orders",
        "index/": "BLOCK",
        "lease/": "head_commit",
        "mark/": '"name":"end"',
        "pack/": "chunks ",
        "verified/": '"proof":"objects"',
        "wal/": "Heap",
    }
    for prefix, word in words.items():
        texts = []
        for key in site.keys(prefix):
            data = site.path(key).read_bytes()
            lines = describe_object(data)
            texts += lines
            assert not [line for line in lines if line.startswith("damaged")], key
            broken = bytearray(data)
            # The checksum of an index's footer is in its name, which a dump does not know.
            broken[30 if prefix == "index/" else len(data) // 2] ^= 1
            assert describe_object(bytes(broken))[-1].startswith("damaged"), key
        assert any(word in line for line in texts), prefix
    lines = describe_object(encode_text(b"1\t0/3000000\tno recovery target specified\n"))
    assert lines[-1] == "1\t0/3000000\tno recovery target specified"
    gap = WalGap(timeline=1, begin="0/1", end="0/2", from_us=1, to_us=2, reason="lost")
    assert '"reason":"lost"' in describe_object(encode_gap(gap))[-1]
    done = pitr(site.folder, "debug", "object", str(site.path(site.keys("pack/")[0])), "--json")
    assert (done.code, done.json["damaged"]) == (0, False)


def begin_of(key: str) -> int:
    """Return the LSN at which a segment of 1 MiB begins."""
    name = key.rpartition("/")[2]
    return int(name[8:16], 16) * (1 << 32) + int(name[16:24], 16) * (1 << 20)
