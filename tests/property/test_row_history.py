"""Random lives of databases: what `log` says of each commit is what SQL says of whole databases.

Every commit of a random trace is archived and also kept whole. The reference compares the two whole
databases around a commit by SQL; the row history saw only the pages that the commit wrote.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pitr.sqlite.log import transactions
from pitr.vocabulary.change import TableChange
from tests.sqlite.lives import Life
from tests.sqlite.recorded import reference


def listed(life: Life, tables: list[str] | None = None) -> dict[int, dict[str, TableChange]]:
    """Return what the row history says, by commit and table."""
    found = transactions(life.recorder.archive(), tables)
    return {
        int(item.position.removeprefix("commit:")): {change.table: change for change in item.tables}
        for item in found
    }


def expected(life: Life, number: int) -> dict[str, TableChange]:
    """Return what the reference says of one commit."""
    if number in life.vacuums or number in life.renames:
        return {}
    return reference(life.recorder.states[number - 1], life.recorder.states[number])


@pytest.mark.parametrize("seed", range(80))
def test_random_life_is_told_as_sql_sees_it(seed: int, tmp_path: Path) -> None:
    """For every commit and table the counts and flags equal those of a comparison of everything."""
    print(f"seed {seed}")
    life = Life(seed, tmp_path / "life.db")
    life.live(60)
    told = listed(life)
    life.recorder.close()

    for number in range(2, life.recorder.number + 1):
        found = told.get(number, {})
        if number in life.vacuums:
            assert all(
                replace(c, rewritten=False) == TableChange(table=c.table) for c in found.values()
            )
            continue
        if number in life.renames:
            assert found == {
                c.table: TableChange(table=c.table, altered=True) for c in found.values()
            }
            continue
        plain = {name: replace(change, rewritten=False) for name, change in found.items()}
        assert plain == expected(life, number), f"seed {seed}, commit {number}"
