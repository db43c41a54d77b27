"""Random work of an application, every archived state byte for byte as SQLite itself saw it.

Method: one process runs a random trace (DDL, savepoints, rollbacks, spills, blob writes, VACUUM,
checkpoints) and says after each step what every page holds, as `sqlite3_serialize` gives it. The
archived states must be the same row of images, nothing missing, nothing between.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.sqlite.capture.session import CaptureOptions
from pitr.sqlite.pagelog.segment import CommitKind
from tests.memory_store import MemoryStore
from tests.sqlite.capture_world import App, capturing, records, states

STEPS = 60
PAGE_SIZES = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
OPTIONS = CaptureOptions(poll_seconds=0.01, flush_seconds=0.03, reset_frames=150, bytes_max=200_000)
MANY = "WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM n WHERE x < %d) "


class Trace:
    """Random steps; each returns after its last statement."""

    def __init__(self, app: App, chance: random.Random) -> None:
        self.app = app
        self.chance = chance
        self.tables = 0
        self.steps: list[Callable[[], object]] = [
            self.insert, self.insert, self.update, self.delete, self.write_blob, self.savepoint,
            self.roll_back, self.create, self.drop, self.alter, self.vacuum, self.checkpoint,
        ]  # fmt: skip

    def table(self) -> str:
        return self.chance.choice(["t", "w", *(f"x{n}" for n in range(self.tables))])

    def name(self) -> str:
        return f"n{self.chance.randrange(10**9)}"

    def insert(self) -> None:
        rows, size = self.chance.choice([(1, 40), (3, 9000), (40, 300), (200, 60)])
        self.app.run(
            MANY % rows + f"INSERT OR REPLACE INTO {self.table()}(a, b)"
            f" SELECT abs(random() % 1000), randomblob({size}) FROM n"
        )

    def update(self) -> None:
        self.app.run(f"UPDATE {self.table()} SET b = randomblob(150) WHERE a % 7 = 1")

    def delete(self) -> None:
        self.app.run(f"DELETE FROM {self.table()} WHERE a % {self.chance.choice([1, 2, 5])} = 0")

    def write_blob(self) -> None:
        self.app.run("INSERT OR REPLACE INTO t(a, b) VALUES(5000, zeroblob(30000))")
        self.app.run("blob t b 5000 20000")

    def savepoint(self) -> None:
        self.app.run("BEGIN")
        self.insert()
        self.app.run("SAVEPOINT s")
        self.insert()
        self.app.run(self.chance.choice(["ROLLBACK TO s", "RELEASE s"]))
        self.update()
        self.app.run("COMMIT")

    def roll_back(self) -> None:
        self.app.run("BEGIN")
        self.delete()
        self.insert()
        self.app.run("ROLLBACK")

    def create(self) -> None:
        self.app.run(f"CREATE TABLE x{self.tables}(a INTEGER PRIMARY KEY, b)")
        self.tables += 1
        self.app.run(f"CREATE INDEX {self.name()} ON w(b)")

    def drop(self) -> None:
        if self.tables:
            self.tables -= 1
            self.app.run(f"DROP TABLE x{self.tables}")

    def alter(self) -> None:
        self.app.run(
            f"ALTER TABLE {self.table()} ADD COLUMN c{self.chance.randrange(10**9)} DEFAULT 7"
        )

    def vacuum(self) -> None:
        self.app.run(self.chance.choice(["VACUUM", "PRAGMA incremental_vacuum(3)"]))

    def checkpoint(self) -> None:
        mode = self.chance.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
        self.app.run(f"PRAGMA wal_checkpoint({mode})")


@pytest.mark.parametrize("auto_vacuum", ["NONE", "FULL", "INCREMENTAL"])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_archived_states_are_the_states_that_were(
    tmp_path: Path, page_size: int, auto_vacuum: str
) -> None:
    """Each commit once, in order, every page equal, at every page size and vacuum mode."""
    seed = int(os.environ.get("PITR_TEST_SEED", random.SystemRandom().randrange(10**9)))
    print(f"replay with PITR_TEST_SEED={seed}")
    chance = random.Random(seed)
    store, path = MemoryStore(), tmp_path / "app.db"
    prepare = (
        f"PRAGMA page_size={page_size}",
        f"PRAGMA auto_vacuum={auto_vacuum}",
        "PRAGMA journal_mode=WAL",
        f"PRAGMA cache_size={chance.choice([3, 2000])}",
        f"PRAGMA wal_autocheckpoint={chance.choice([0, 5, 1000])}",
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
        "CREATE TABLE w(a, b, PRIMARY KEY(a)) WITHOUT ROWID",
    )
    images = tmp_path / "images"
    images.mkdir()
    with App(path, *prepare) as app, capturing(store, path, options=OPTIONS) as running:
        app.run(f"watch {images}")
        trace = Trace(app, chance)
        for _ in range(STEPS):
            chance.choice(trace.steps)()
    expected = [image.read_bytes() for image in sorted(images.iterdir())]
    found = [bytes(image) for _, image in states(store)]
    kinds = {record.kind for record in records(store)[1:]}
    assert kinds <= {CommitKind.COMMIT}, running.events
    assert len(found) == len(expected) > STEPS / 3
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        assert len(ours) == len(theirs), f"commit:{number}"
        different = [
            at // page_size + 1
            for at in range(0, len(ours), page_size)
            if ours[at : at + page_size] != theirs[at : at + page_size]
        ]
        assert not different, f"pages of commit:{number}"
