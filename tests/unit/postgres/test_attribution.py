"""Which transactions removed the lost rows, by the counts of the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pitr.postgres.diff.attribution import attribute_lost, removals_of
from pitr.postgres.diff.classified import ClassifiedTable
from pitr.postgres.tables.name import TableName
from pitr.vocabulary.change import TableChange, Transaction
from pitr.vocabulary.row_class import RowClass


def removing(number: int, **change: Any) -> Transaction:
    changes = (TableChange(table="public.t", **change),)
    return Transaction(f"lsn:0/{number}", number, number, 0, "commit", changes)


def lost(rows: int) -> ClassifiedTable:
    """Return a table as far as attribution looks at one."""
    before = SimpleNamespace(name=TableName("public", "t"))
    table = SimpleNamespace(
        counts={RowClass.LOST: rows}, name="public.t", aligned=SimpleNamespace(before=before)
    )
    return cast(ClassifiedTable, table)


@pytest.mark.parametrize(
    ("rows", "transactions", "expected"),
    [
        (5, [removing(1, deleted=5)], [("lsn:0/1", 5)]),
        (5, [removing(1, deleted=7)], [("lsn:0/1", 5)]),
        (5, [removing(1, deleted=3)], [("lsn:0/1", 3), (None, 2)]),
        (5, [removing(1, truncated=True)], [("lsn:0/1", 5)]),
        (5, [removing(1, dropped=True), removing(2, inserted=9)], [("lsn:0/1", 5)]),
        (5, [removing(1, deleted=3), removing(2, deleted=2)], [("lsn:0/1", 3), ("lsn:0/2", 2)]),
        (5, [removing(1, deleted=3), removing(2, deleted=4)], [(None, 5)]),
        (5, [removing(1, deleted=3), removing(2, truncated=True)], [(None, 5)]),
        (5, [removing(1, updated=3)], [(None, 5)]),
        (0, [removing(1, deleted=3)], []),
    ],
)
def test_lost_rows_go_to_those_that_surely_took_them(
    rows: int, transactions: list[Transaction], expected: list[tuple[str | None, int]]
) -> None:
    """What counts do not decide is left open, and the candidates are named."""
    found = attribute_lost(lost(rows), removals_of(transactions))

    assert [(one.position, one.rows) for one in found.lost_by] == expected
    is_open = any(position is None for position, _ in expected)
    assert is_open == any("not known" in warning for warning in found.warnings)
    removed = [one for one in transactions if one.tables[0].deleted or one.tables[0].truncated]
    if rows and len(removed) > 1:
        assert "pitr revert lsn:0/1 -t public.t" in found.warnings[0]


def test_archive_that_lags_is_named() -> None:
    """A row may have been removed after what is archived."""
    found = attribute_lost(lost(5), removals_of([removing(1, deleted=5)], "it ends at 0/2"))

    assert [one.rows for one in found.lost_by] == [5]
    assert "it ends at 0/2" in found.warnings[0]
