"""Classes by pages and by whole tables are the same, and both are what a model says."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from pitr.sqlite.diff import span
from pitr.sqlite.diff.classified import ClassifiedTable, classify
from pitr.sqlite.diff.states import StateSources, open_states
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import restore_tables
from pitr.vocabulary.diff_row import DiffRow
from tests.sqlite.capture_world import opened
from tests.sqlite.diff_world import NARROW, DiffWorld, both_ways
from tests.sqlite.lives import Life
from tests.unit.diff.model import expected

FILL = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {})"


# --- an independent model ------------------------------------------------------------------------


def key_of(row: dict[str, object], key: tuple[str, ...]) -> tuple[object, ...]:
    """Return what SQLite holds for the same key: these tables use NOCASE for id, RTRIM for b."""
    found = []
    for name in key:
        value = row[name]
        if isinstance(value, str) and len(key) == 2:
            value = value.lower() if name == "id" else value.rstrip(" ")
        found.append(value)
    return tuple(found)


def rows_of(image: bytes, table: str, columns: tuple[str, ...]) -> list[dict[str, object]]:
    """Return the rows of a whole state."""
    with closing(opened(image)) as connection:
        names = ", ".join(f'"{name}"' for name in columns)
        found = connection.execute(f"SELECT {names} FROM {table}").fetchall()
    return [dict(zip(columns, row, strict=True)) for row in found]


def model(
    images: dict[str, bytes], table: ClassifiedTable
) -> dict[tuple[object, ...], tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Return class and columns of every row that is not unrelated, by key."""
    states = {}
    for state, image in images.items():
        rows = rows_of(image, table.before_name, table.insert_columns)
        states[state] = {
            key_of(row, table.key): tuple(row[name] for name in table.columns) for row in rows
        }
        assert len(states[state]) == len(rows)
    after = states.get("after", {})
    verdicts = {
        key: expected(
            (states["before"].get(key), after.get(key), states["live"].get(key)),
            after_known="after" in images,
        )
        for key in states["before"].keys() | after.keys()
    }
    return {key: verdict for key, verdict in verdicts.items() if verdict[0] != "unrelated"}


def lost_copies(images: dict[str, bytes], table: ClassifiedTable) -> Counter[str]:
    """Return the rows without a key that are lost, each as often as it is."""
    counts = {
        state: Counter(
            repr(tuple(row.values())) for row in rows_of(image, table.before_name, table.key)
        )
        for state, image in images.items()
    }
    lost = counts["before"] - counts["live"]
    if "after" in images:
        lost &= counts["before"] - counts["after"]
    return lost


def found_by_key(table: ClassifiedTable, rows: list[DiffRow]) -> dict[tuple[object, ...], object]:
    found = {}
    for row in rows:
        key = key_of(dict(zip(table.key, row.key, strict=True)), table.key)
        verdict = row.verdict
        found[key] = (str(row.row_class), verdict.repair_columns, verdict.touched_columns)
    return found


# --- random lives --------------------------------------------------------------------------------


def sources_of(
    life: Life, folder: Path, before: int, after: int | None, live: int
) -> StateSources | None:
    """Return the states of a life as a recovery would have them; None without any table."""
    archive = life.recorder.archive()
    with closing(opened(life.recorder.states[before])) as connection:
        listed = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        tables = [name for (name,) in listed if not name.startswith("sqlite_")]
    if not tables:
        return None
    sidecar = folder / f"sidecar-{before}-{after}-{live}.db"
    with open_past(archive.at(before)) as past:
        restore_tables(past, tables, sidecar)
    path = folder / f"live-{live}.db"
    path.write_bytes(life.recorder.states[live])
    return StateSources(
        live=path,
        sidecar=sidecar,
        tables=tuple(tables),
        before_commit=before,
        after_commit=after,
        archive=archive,
    )


def statement(image: bytes, table: str) -> str | None:
    with closing(opened(image)) as connection:
        found = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,))
        row = found.fetchone()
        return None if row is None else str(row[0])


@pytest.mark.parametrize("seeds", [range(at, at + 6) for at in range(0, 18, 6)])
def test_random_lives_both_ways_and_model_agree(
    tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happened between three random commits, of whatever table, and in any window."""
    monkeypatch.setattr(span, "_WINDOW_COMMITS", 3 if seeds.start % 12 else 4096)
    tried: Counter[str] = Counter()
    for seed in seeds:
        print(f"seed {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        try_life(seed, folder, tried)
    assert tried["narrowed"]
    assert tried["judged"]


def try_life(seed: int, folder: Path, tried: Counter[str]) -> None:
    life = Life(seed, folder / "life.db")
    life.live(50)
    rng = random.Random(seed)
    for _ in range(6):
        before, after, live = sorted(rng.choices(range(1, life.recorder.number + 1), k=3))
        for chosen in (after, None):
            sources = sources_of(life, folder, before, chosen, live)
            if sources is None:
                continue
            images = {"before": life.recorder.states[before], "live": life.recorder.states[live]}
            if chosen is not None:
                images["after"] = life.recorder.states[chosen]
            with open_states(sources, wait_seconds=0) as states:
                states.live_commit = live  # the file is that state
                for table, rows in both_ways(states):
                    tried["narrowed"] += table.narrowed
                    tried["judged"] += judge(images, table, rows)
            sources.sidecar.unlink()
    life.recorder.close()


def judge(images: dict[str, bytes], table: ClassifiedTable, rows: list[DiffRow]) -> bool:
    """Compare with the model where the table has one statement in all states."""
    if len({statement(image, table.before_name) for image in images.values()}) > 1:
        return False
    if table.keyless:
        assert Counter(repr(row.before) for row in rows) == lost_copies(images, table)
    else:
        assert found_by_key(table, rows) == model(images, table), table.before_name
    return True


def test_few_changed_rows_of_a_large_table_cost_few_pages(tmp_path: Path) -> None:
    """What is read from the archive follows the damage, not the table."""
    world = DiffWorld(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
    world.run(f"{FILL.format(60_000)} INSERT INTO t SELECT i, i, hex(randomblob(60)) FROM n")
    before = world.mark()
    world.run("UPDATE t SET a = 0 WHERE id % 12000 = 7", "DELETE FROM t WHERE id = 30000")
    world.mark()
    sources = world.sources(before, "t")
    assert sources.archive is not None
    with open_states(sources, wait_seconds=0) as states:
        (table,) = classify(states, NARROW)
    assert table.narrowed
    assert sum(table.counts.values()) == 6
    stored = sum(info.size for info in world.store.list("log/"))
    assert sources.archive.bytes_read < stored / 20
    world.close()


def test_long_stretch_is_compared_at_its_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many commits nothing is narrowed and no rename is guessed; the classes stay."""
    monkeypatch.setattr(span, "_COMMITS_MAX", 2)
    world = DiffWorld(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
    world.run("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1", "ALTER TABLE t RENAME COLUMN b TO z")
    world.run("UPDATE t SET a = 0", "CREATE TABLE u (x)")
    world.mark()
    with world.states(before, "t") as states:
        ((table, rows),) = both_ways(states)
    assert not table.narrowed
    assert (table.drift.added, table.drift.dropped) == (("z",), ("b",))
    assert {row.key: str(row.row_class) for row in rows} == {(1,): "lost", (2,): "differs"}
    world.close()
