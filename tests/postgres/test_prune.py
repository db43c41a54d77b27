"""Pruning an archive of a cluster: what is kept is recovered as before, at every step."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.archive import read_mark, read_marks
from pitr.archive.claim import ClaimKind, claimed
from pitr.archive.local import LocalStore
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import PreconditionFailed
from pitr.postgres.backup import chunks
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.object import BASE_PREFIX, PACK_PREFIX
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.prune.plan import PrunePlan, packs_of, plan_prune
from pitr.postgres.prune.run import run_prune
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn
from tests.cli.commands import pitr, succeed
from tests.postgres.backups import take
from tests.postgres.fixtures import ServerMaker
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

ROWS = "SELECT count(*), md5(string_agg(o::text, ',' ORDER BY id)) FROM orders AS o"
AN_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Site:
    """A server with three bases in its archive, and what the orders were at the mark after each."""

    server: Server
    folder: Path
    rows: dict[str, list[list[object]]]

    @property
    def store(self) -> LocalStore:
        """Return the archive."""
        return LocalStore(self.folder / "archive")

    def rows_at(self, target: str) -> list[list[object]]:
        """Restore the orders, and return what they were."""
        succeed(self.folder, "restore", "-t", "orders", "--at", target, "--no-compare")
        rows: list[list[object]] = succeed(self.folder, "recoveries", "sql", ROWS, "--json").json[
            "rows"
        ]
        return rows


@pytest.fixture
def site(
    make_server: ServerMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Make a source with three bases and a mark after each; packs are small, so that some go."""
    monkeypatch.setattr(chunks, "PACK_BYTES", 1 << 18)
    server = make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1)
    server.query("CREATE TABLE orders (id int PRIMARY KEY, item text)")
    with world_folder() as sidecars:
        os.environ["PITR_SIDECAR_FOLDER"] = str(sidecars)
        os.environ["PITR_STATE"] = str(tmp_path / "state")
        succeed(tmp_path, "init", server.url(), "--archive", "archive")
        made = Site(server, tmp_path, {})
        for number, name in enumerate(("first", "second", "third")):
            noise = "md5(random()::text) || md5(random()::text)"
            server.query(f"CREATE TABLE noise AS SELECT {noise} FROM generate_series(1, 20000)")
            take(server, made.store)
            server.query("DROP TABLE noise")
            low = number * 20_000
            server.query(
                f"INSERT INTO orders SELECT i, md5(i::text) FROM generate_series({low + 1},"
                f" {low + 20_000}) AS i"
            )
            succeed(tmp_path, "mark", name)
            made.rows[name] = [list(row) for row in server.query(ROWS)]
            server.query(f"CREATE TABLE other_{number} AS SELECT * FROM orders")
        yield made
        del os.environ["PITR_SIDECAR_FOLDER"], os.environ["PITR_STATE"]


def materials(store: Store, name: str) -> tuple[str, str, list[str]]:
    """Return what a recovery to a mark reads: its base, its WAL (digest), the names it knows."""
    stop = Lsn.parse(read_mark(store, name).position.removeprefix("lsn:"))
    base = max(
        (base for base in BaseArchive(store).bases() if base.end and base.end <= stop),
        key=lambda base: base.start,
    )
    manifest = next(info for info in store.list(BASE_PREFIX) if info.key.endswith(base.id))
    assert packs_of(store, [manifest]) <= {info.key for info in store.list(PACK_PREFIX)}
    wal = WalArchive(store).read(base.timeline, base.start, stop)
    catalog = CatalogMap(store)
    names = sorted(
        f"{oid}.{relation.oid}.{relation.name}.{relation.file}"
        for oid in catalog.database_oids()
        for relation in catalog.relations_at(oid, stop.value)
    )
    return base.id, hashlib.sha256(wal).hexdigest(), names


def prune(store: Store, marks: list[str], *, from_us: int | None = None) -> PrunePlan:
    """Prune everything before the newest base, as if an hour had passed since."""
    later = now_us() + AN_HOUR_US if from_us is None else from_us
    kept = [Lsn.parse(read_mark(store, name).position.removeprefix("lsn:")) for name in marks]
    with claimed(store, ClaimKind.PRUNE) as claim:
        plan = plan_prune(store, from_us=later, marks=kept, now_us=now_us())
        run_prune(store, plan, claim, from_us=later, now_us=now_us())
    return plan


class KilledStore(LocalStore):
    """A store whose process dies before its n-th deletion."""

    class Killed(Exception):
        """The process is gone."""

    steps = 1 << 30

    def delete(self, key: str) -> None:
        """Delete an object, or die; a dead process' claim is swept by others."""
        if not key.startswith("claim/"):
            if self.steps <= 0:
                raise KilledStore.Killed
            self.steps -= 1
        super().delete(key)


def test_prune_keeps_what_a_recovery_reads_at_every_step(site: Site, tmp_path: Path) -> None:
    """Oracle: the materials of each kept mark before the prune. After a kill before any deletion
    they are the same; the next prune leaves what an undisturbed one leaves.
    """
    whole = tmp_path / "whole"
    shutil.copytree(site.folder / "archive", whole)
    wanted = {name: materials(LocalStore(whole), name) for name in ("first", "third")}
    plan = prune(LocalStore(whole), ["first"])
    left = {info.key for info in LocalStore(whole).list()}
    assert len(plan.bases) == 1  # the second; the first stays for its mark
    assert plan.wal
    assert plan.packs
    for steps in range(0, len(plan.deleted) + 1, max(1, len(plan.deleted) // 7)):
        copy = tmp_path / f"copy-{steps}"
        shutil.copytree(site.folder / "archive", copy)
        store = KilledStore(copy)
        store.steps = steps
        with suppress(KilledStore.Killed):
            prune(store, ["first"])
        store.steps = 1 << 30
        assert {name: materials(store, name) for name in wanted} == wanted
        # Packs of a base whose manifest went are freed when they are old: as if a day had passed.
        with claimed(store, ClaimKind.PRUNE) as claim:
            mark = Lsn.parse(read_mark(store, "first").position.removeprefix("lsn:"))
            late = now_us() + 30 * AN_HOUR_US
            again = plan_prune(store, from_us=late, marks=[mark], now_us=late)
            run_prune(store, again, claim, from_us=late, now_us=late)
        assert {name: materials(store, name) for name in wanted} == wanted
        assert {info.key for info in store.list()} == left
        shutil.rmtree(copy)


def test_pruned_archive_recovers_the_same_rows(site: Site) -> None:
    """By the commands: the kept marks come back row for row, others are exit 4, status agrees."""
    shown = succeed(site.folder, "prune", "--keep-bases", "1", "--drop-marks", "--json").json
    assert (shown["done"], shown["dropped_marks"]) == (False, ["first", "second"])
    # The mark `second` loses its base with its name; `first` keeps both.
    site.store.delete("mark/second")
    done = succeed(site.folder, "prune", "--keep-bases", "1", "--yes", "--json").json

    assert done["kept_marks"] == ["first"]
    assert {item["kind"] for item in done["dropped"]} >= {"base", "wal", "pack"}
    status = succeed(site.folder, "status", "--json").json
    assert len(status["bases"]) == 2
    assert status["gaps"] == []
    verified = pitr(site.folder, "verify", "--json")
    assert verified.json["ok"], verified.out
    for name in ("first", "third"):
        assert site.rows_at(f"name:{name}") == site.rows[name]
    middle = Lsn(Lsn.parse(read_mark(site.store, "first").position[4:]).value + (3 << 20))
    gone = pitr(site.folder, "restore", "-t", "orders", "--at", f"lsn:{middle}")
    assert gone.code == 4
    again = succeed(site.folder, "prune", "--keep-bases", "1", "--yes", "--json").json
    assert again["objects"] == 0


def test_packs_stay_while_a_backup_runs_and_a_backup_notices_their_loss(site: Site) -> None:
    """A prune that sees a backup leaves packs alone; a base whose packs went does not appear."""
    packs = {info.key for info in site.store.list(PACK_PREFIX)}
    with claimed(site.store, ClaimKind.BACKUP):
        done = succeed(site.folder, "prune", "--keep-bases", "1", "--yes", "--drop-marks", "--json")
    assert "a backup runs" in done.json["notes"][0]
    assert read_marks(site.store)[0].name == "third"
    assert {info.key for info in site.store.list(PACK_PREFIX)} == packs

    class Losing(LocalStore):
        def put_new(self, key: str, data: bytes) -> None:
            if key.startswith(BASE_PREFIX):
                for info in list(self.list(PACK_PREFIX)):
                    self.delete(info.key)
            super().put_new(key, data)

    before = {base.id for base in BaseArchive(site.store).bases()}
    with pytest.raises(PreconditionFailed, match="packs of this backup were deleted"):
        take(site.server, Losing(site.folder / "archive"))
    assert {base.id for base in BaseArchive(site.store).bases()} == before
