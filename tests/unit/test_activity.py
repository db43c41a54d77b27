"""Slices of time and what stands out in them; the drawing of `pitr log --plot`."""

from __future__ import annotations

from click import unstyle

from pitr.cli.plot import activity_text
from pitr.operations.activity import activity_of, slices_of
from pitr.vocabulary.change import TableChange, Transaction

SECOND = 1_000_000
BEGIN = 1_700_000_000 * SECOND


def change(at_seconds: int, table: str = "orders", **counts: int | bool) -> Transaction:
    effect = TableChange(table=table, **counts)  # type: ignore[arg-type]
    return Transaction(
        f"commit:{at_seconds}", None, BEGIN + at_seconds * SECOND, 0, "commit", (effect,)
    )


def test_slices_hold_everything_and_are_few() -> None:
    """From a moment to years: never more than asked for, first and last transaction inside."""
    for span in (0, 1, 59, 61, 3600, 86_399, 40 * 86_400, 3000 * 86_400):
        both = [change(0, inserted=1), change(span, inserted=1)]
        slices = slices_of(both, count_max=60)
        assert 1 <= slices.count <= 60
        assert slices.of(both[0].time_us) == 0
        assert slices.of(both[1].time_us) == slices.count - 1
        assert slices.begin_of(slices.of(both[1].time_us)) <= both[1].time_us


def test_only_what_is_far_from_usual_stands_out() -> None:
    """A mass DELETE among steady work is a burst, the work is none; a TRUNCATE always is one."""
    steady = [change(at, inserted=20, deleted=1) for at in range(0, 3000, 30)]
    accident = change(1500, deleted=9000)
    emptied = change(2000, truncated=True)
    transactions = sorted([*steady, accident, emptied], key=lambda one: one.time_us)
    slices = slices_of(transactions, count_max=60)
    (orders,) = activity_of(transactions, slices)

    assert [(burst.kind, burst.transaction) for burst in orders.bursts] == [
        ("deleted", accident),
        ("emptied", emptied),
    ]
    assert orders.bursts[0].rows == 9000 + sum(
        1 for one in steady if slices.of(one.time_us) == orders.bursts[0].slice
    )
    assert sum(orders.rows["inserted"]) == 2000


def test_drawing_shows_the_burst_and_the_way_back() -> None:
    """One bar a slice, the mark below the burst, and the line that takes it back."""
    steady = [change(at, updated=3) for at in range(0, 600, 20)]
    transactions = sorted([*steady, change(300, deleted=500)], key=lambda one: one.time_us)
    slices = slices_of(transactions, count_max=60)
    lines = unstyle(activity_text(activity_of(transactions, slices), slices)).splitlines()
    deleted = next(line for line in lines if line.strip().startswith("deleted"))
    marks = next(line for line in lines if line.strip() == "^")

    assert deleted.index("█") == marks.index("^")
    assert deleted.endswith("500")
    assert "      pitr revert commit:300 -t orders" in lines
    assert all(len(line) <= 100 for line in lines)
