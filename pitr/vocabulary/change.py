"""What transactions did to tables: the lines of `pitr log`, alike for both engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """The effect of one transaction on one table.

    The counts are exact net rows: a row inserted and deleted inside the transaction is in none.
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
    `gap`, `fork`, `merged`) say that the changes of several came together.
    """

    position: str
    xid: int | None
    time_us: int
    time_width_us: int
    kind: str
    tables: tuple[TableChange, ...]
