"""`pitr verify --drill` of PostgreSQL: what is as it was passes, and what is not fails."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pitr.archive.local import LocalStore
from pitr.postgres.index.file import encode_index
from pitr.postgres.index.name import IndexObject
from pitr.postgres.index.reading import IndexFile
from pitr.postgres.index.rows import RowKind, Rows
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn
from tests.cli.commands import pitr, succeed
from tests.postgres.fixtures import available
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with pitr.toml and an archive, whose server is gone; `file` is that of orders."""

    folder: Path
    sidecars: Path
    file: int

    def late_seed(self) -> int:
        """Return a seed whose target is behind all changes."""
        [base] = succeed(self.folder, "verify", "--json").json["recoverable"][:1]
        begin, end = (Lsn.parse(base[key].removeprefix("lsn:")).value for key in ("from", "to"))
        return next(
            seed
            for seed in itertools.count()
            if random.Random(seed).randint(begin, end) > end - (end - begin) // 10
        )

    def drill(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Drill; return the exit code and the document."""
        done = pitr(self.folder, "verify", "--drill", "--json", *words)
        return done.code, done.json


@pytest.fixture(scope="module")
def site(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make an archive with a base, WAL that changes two tables, and an index of all of it."""
    folder = tmp_path_factory.mktemp("site")
    settings: dict[str, str | int | bool] = {"wal_keep_size": "1GB", "autovacuum": False}
    with world_folder() as sidecars, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PITR_SIDECAR_FOLDER", str(sidecars))
        patch.setenv("PITR_STATE", str(folder / "state"))
        with Server(available(major), settings=settings, segment_megabytes=1) as server:
            server.query("CREATE TABLE orders (id int PRIMARY KEY, item text)")
            server.query('CREATE TABLE "od.d ""x" (id int, big text)')
            succeed(folder, "init", server.url(), "--archive", "archive")
            succeed(folder, "backup", "--checkpoint", "fast")
            server.query("INSERT INTO orders SELECT i, 'item' FROM generate_series(1, 500) i")
            server.query("UPDATE orders SET item = 'other' WHERE id < 100")
            server.query(
                'INSERT INTO "od.d ""x" SELECT 1, string_agg(md5(i::text), $$$$)'
                " FROM generate_series(1, 1000) AS i"
            )
            file = int(server.value("SELECT pg_relation_filenode('orders')"))
            server.query("SELECT pg_switch_wal()")
            succeed(folder, "capture", "--once")
        store = LocalStore(folder / "archive")
        complete_index(store, WalArchive(store))
        yield Site(folder, sidecars, file)


def test_tables_are_compared_with_a_full_recovery(site: Site) -> None:
    """All tables, odd names too; the sidecars go away; the next drill begins behind the last."""
    code, found = site.drill("--seed", "11")

    assert (code, found["seed"]) == (0, 11), found["drill"]
    assert {item["table"] for item in found["drill"]} == {
        "postgres.public.orders",
        'postgres.public.od.d "x',
    }
    assert {(item["method"], item["equal"]) for item in found["drill"]} == {("whole", True)}
    assert all(item["seconds"] > 0 for item in found["drill"])
    assert list(site.sidecars.iterdir()) == []
    assert list((site.folder / "state/drill/recoveries").iterdir()) == []
    shown = succeed(site.folder, "status", "--json").json["drilled"]
    assert shown["ok"] is True
    assert shown["first_row_seconds"] == max(item["seconds"] for item in found["drill"])


def test_without_space_amcheck_has_to_do(site: Site) -> None:
    """Of the table that was named alone."""
    code, found = site.drill("-t", "orders", "--whole-up-to", "0")

    assert code == 0
    [item] = found["drill"]
    assert (item["table"], item["method"], item["equal"]) == (
        "postgres.public.orders",
        "amcheck",
        True,
    )


def test_drill_fails_where_the_index_hides_a_change(site: Site) -> None:
    """The index is whole by its checksums and lacks the records of a table: rows are missing."""
    store = LocalStore(site.folder / "archive")
    seed = site.late_seed()
    hidden: list[tuple[str, bytes, str]] = []
    for info in list(store.list("index/")):
        item = IndexObject.of(info)
        assert item is not None
        file = IndexFile(store, item)
        groups = [without(file.read(group), site.file) for group in file.groups]
        key, data = encode_index(file.stretch, groups, (item.first_time_us, item.last_time_us))
        if key != info.key:
            hidden.append((info.key, store.get(info.key), key))
            store.delete(info.key)
            store.put_new(key, data)
    try:
        assert hidden
        code, found = site.drill("-t", "orders", "--seed", str(seed))
    finally:
        for before, data, key in hidden:
            store.delete(key)
            store.put_new(before, data)

    assert code == 1
    assert found["damaged"], "the index contradicts the WAL"
    [item] = found["drill"]
    assert item["equal"] is False
    assert "it differs" in item["detail"]
    figures = succeed(site.folder, "status", "--prometheus").out
    assert 'pitr_drill_ok{source="postgres"} 0\n' in figures


def without(rows: Rows, file: int) -> Rows:
    """Return rows without the changes of a file's blocks."""
    kept = [
        number
        for number, (relation, kind) in enumerate(rows.select("relation", "kind"))
        if relation != file or kind != RowKind.BLOCK
    ]
    return rows.take(kept)
