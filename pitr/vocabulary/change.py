"""What transactions did to tables: the lines of `pitr log`, alike for both engines."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.vocabulary.diff_row import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """The effect of one transaction on one table.

    The counts are exact. On SQLite they are net: a row inserted and deleted inside the transaction
    is in none. On PostgreSQL they are what the statements reported: such a row is in both.
    `rewritten` says that every row was stored anew (VACUUM FULL, a type change): the counts then
    leave out what the rewrite itself moved.
    """

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    truncated: bool = False
    rewritten: bool = False
    dropped: bool = False
    created: bool = False
    altered: bool = False


@dataclass(frozen=True, slots=True)
class Transaction:
    """One committed transaction, with the tables it touched.

    `position` is usable as a target and as the argument of `revert`. It was committed after
    `time_us - time_width_us` and not later than `time_us`; the width is 0 where the database
    itself records the time. `kind` is `commit` for a transaction seen alone; other words (`base`,
    `gap`, `fork`, `merged`) say that the changes of several came together; `abort`, that it was
    rolled back.
    """

    position: str
    xid: int | None
    time_us: int
    time_width_us: int
    kind: str
    tables: tuple[TableChange, ...]


@dataclass(frozen=True, slots=True)
class WhenOutcome:
    """The transaction that was looked for, a target just before it, and the row as it was then.

    `row` is the inserted row when there was none before. When nothing was found `reason` says
    what is known instead, and everything else is None.
    """

    transaction: Transaction | None
    before: str | None
    row: dict[str, Value] | None
    reason: str | None

    @classmethod
    def nothing(cls, *, gone: bool, is_there: bool) -> WhenOutcome:
        """Return that no such transaction was found, with what is known instead.

        `gone` tells whether a row's end was looked for, `is_there` whether such a row is there now.
        """
        if is_there:
            what = "vanished" if gone else "changed"
            reason = f"such a row is still there, and none {what} in the archived time"
        elif gone:
            reason = "no such row vanished in the archived time, and none is there now"
        else:
            reason = "no such row was there in the archived time"
        return cls(None, None, None, reason)
