"""Random lives of databases: what `log` and `when` say is what SQL says of whole databases.

Every commit of a random trace is archived and also kept whole. The reference compares the two whole
databases around a commit by SQL; the row history saw only the pages that the commit wrote.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.errors import PitrError
from pitr.sqlite.pagelog.segment import CommitKind
from pitr.sqlite.rows.log import transactions
from pitr.sqlite.rows.when import find_row
from pitr.vocabulary.change import TableChange
from tests.sqlite.lives import Life
from tests.sqlite.recorded import Recorder, both, reference


def lived(seed: int, folder: Path, steps: int, **traits: Sequence[str]) -> Life:
    """Return a life, over. The seed is what a failure shows and what replays it."""
    print(f"seed {seed}")
    life = Life(seed, folder / "life.db", **traits)
    life.live(steps)
    life.recorder.close()
    return life


def told(recorder: Recorder, tables: list[str] | None = None) -> dict[int, dict[str, TableChange]]:
    """Return what the row history says, by commit and table."""
    return {
        int(item.position.removeprefix("commit:")): {change.table: change for change in item.tables}
        for item in transactions(recorder.archive(), tables)
    }


def expected(life: Life, number: int, found: dict[str, TableChange]) -> dict[str, TableChange]:
    """Return what the reference says of one commit, given which tables were told of."""
    if number in life.vacuums:
        return {name: TableChange(table=name) for name in found}
    if number in life.renames:
        return {name: TableChange(table=name, altered=True) for name in found}
    return reference(life.recorder.states[number - 1], life.recorder.states[number])


def assert_told_as_sql_sees_it(seed: int, folder: Path, steps: int) -> None:
    """Check the counts and flags of every commit and table against the reference."""
    life = lived(seed, folder, steps)
    history = told(life.recorder)
    for number in range(2, life.recorder.number + 1):
        found = history.get(number, {})
        plain = {name: replace(change, rewritten=False) for name, change in found.items()}
        assert plain == expected(life, number, found), f"seed {seed}, commit {number}"


# The last two have rows that change on overflow pages while no other page of their table does.
@pytest.mark.parametrize("seed", [*range(24), 170, 305])
def test_random_life_is_told_as_sql_sees_it(seed: int, tmp_path: Path) -> None:
    """For every commit and table the counts and flags equal those of a comparison of everything."""
    assert_told_as_sql_sees_it(seed, tmp_path, 60)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10_000, 10_600))
def test_long_random_life_is_told_as_sql_sees_it(seed: int, tmp_path: Path) -> None:
    """The same for many more and longer lives."""
    assert_told_as_sql_sees_it(seed, tmp_path, 150)


@pytest.mark.parametrize("seed", range(100, 108))
def test_one_table_asked_for_is_told_as_among_all(seed: int, tmp_path: Path) -> None:
    """Watching one table alone finds the same, in-place changes of overflow pages included."""
    life = lived(seed, tmp_path, 60, alone=("vacuum", "add", "drop_column", "reindex", "squeeze"))
    everything = told(life.recorder)

    for name in sorted({name for tables in everything.values() for name in tables}):
        alone = {n: tables for n, tables in told(life.recorder, [name]).items() if tables}
        among = {n: {name: tables[name]} for n, tables in everything.items() if name in tables}
        assert alone == among, f"seed {seed}, table {name}"


def ids_by_commit(life: Life, table: str) -> list[set[int]]:
    """Return the ids of a table's rows after each commit, none before the first."""
    found: list[set[int]] = []
    for state in life.recorder.states:
        with closing(both(b"", state or life.recorder.states[1])) as connection:
            is_there = (table,) in connection.execute("SELECT name FROM new.sqlite_schema")
            rows = connection.execute(f"SELECT id FROM new.{table}") if is_there else ()
            found.append({row[0] for row in rows})
    return found


def last_end(present: list[set[int]], key: int) -> int | None:
    """Return the newest commit after which a row was gone that was there before it."""
    ends = (n for n in range(2, len(present)) if key in present[n - 1] - present[n])
    return max(ends, default=None)


@pytest.mark.parametrize("seed", range(200, 206))
def test_end_of_a_row_is_where_it_was_last_seen(seed: int, tmp_path: Path) -> None:
    """`when --gone` finds the commit at which a look at whole databases sees the row vanish."""
    tables = ("CREATE TABLE {}(id INTEGER PRIMARY KEY, a, b, c)",)
    life = lived(seed, tmp_path, 50, tables=tables, alone=("vacuum", "add", "reindex", "squeeze"))
    archive, rng = life.recorder.archive(), random.Random(seed)
    for table in ("t1", "t2"):
        present = ids_by_commit(life, table)
        ever = sorted(set().union(*present))
        if not ever:
            continue
        for key in [3001, *(rng.choice(ever) for _ in range(6))]:
            outcome = find_row(archive, table, f"id = {key}", gone=True)
            found = outcome.transaction and outcome.transaction.position
            end = last_end(present, key)
            assert found == (end and f"commit:{end}"), f"seed {seed}, {table}, id {key}"
            assert (outcome.row or {}).get("id", key) == key


@pytest.mark.parametrize("seed", range(300, 330))
def test_damage_is_refused_or_without_effect(seed: int, tmp_path: Path) -> None:
    """Whatever bytes of archived pages say, the walk ends, with an answer or an error of ours."""
    life = lived(seed, tmp_path, 12)
    recorder, rng = life.recorder, random.Random(seed)
    state = bytearray(recorder.states[-1])
    size = recorder.page_size
    pages = set()
    for _ in range(rng.choice([1, 3, 30])):
        page = rng.choice([1, *range(1, len(state) // size + 1)])
        at = rng.choice([rng.randrange(16), rng.randrange(100, 120), rng.randrange(size)])
        state[(page - 1) * size + at] = rng.choice([0, 1, 2, 5, 10, 13, 0x7F, 0x80, 0xFF])
        pages.add(page)
    recorder.append(bytes(state), pages, CommitKind.COMMIT)

    for tables in (None, ["t1"]):
        with suppress(PitrError):
            transactions(recorder.archive(), tables)
    with suppress(PitrError):
        find_row(recorder.archive(), "t1", "id = 5 OR a = 7", gone=False)
