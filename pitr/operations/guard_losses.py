"""What transactions cost each table, whether that passes a limit, and the command that repairs it.

Alike for both engines: it works on the lines of `pitr log`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pitr.vocabulary.change import TableChange, Transaction

FORBIDDABLE = ("delete", "update", "drop", "truncate", "rewrite", "drop-column")


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What SQL may do: rows deleted (None: any number), and what it must not do at all."""

    max_deleted: int | None = None
    forbidden: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class TableLoss:
    """What all transactions of a command together did to one table.

    On PostgreSQL the counts are sums of those of `pitr log`, on SQLite the net effect. `created`
    says that the table was not there before; then nothing of it can be lost.
    """

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    truncated: bool = False
    rewritten: bool = False
    dropped: bool = False
    created: bool = False
    columns_dropped: tuple[str, ...] = field(default=())

    @property
    def is_loss(self) -> bool:
        """Return whether there is anything that could be brought back."""
        counts = self.deleted or self.updated or self.columns_dropped
        return not self.created and bool(counts or self.truncated or self.rewritten or self.dropped)

    def add(self, change: TableChange) -> None:
        """Take in what one transaction did, later than all so far."""
        self.inserted += change.inserted
        self.updated += change.updated
        self.deleted += change.deleted
        self.truncated |= change.truncated
        self.rewritten |= change.rewritten
        self.dropped |= change.dropped


def losses_of(
    changes: Sequence[TableChange], columns: Mapping[str, Sequence[str]]
) -> tuple[TableLoss, ...]:
    """Return the sums by table, in order of names; tables that came and went are left out.

    `changes` are in the order of their commits, `columns` are those dropped, by table.
    """
    found: dict[str, TableLoss] = {}
    for change in changes:
        if change.table not in found:
            found[change.table] = TableLoss(table=change.table, created=change.created)
        found[change.table].add(change)
    for table, names in columns.items():
        found.setdefault(table, TableLoss(table=table)).columns_dropped = tuple(names)
    kept = [loss for loss in found.values() if not (loss.created and loss.dropped)]
    return tuple(sorted(kept, key=lambda loss: loss.table))


def passed_limits(
    tables: Sequence[TableLoss],
    empty: Collection[str],
    max_deleted: int | None,
    forbidden: Sequence[str],
) -> tuple[str, ...]:
    """Return which limits were passed, each as a sentence.

    Rows of a table that was truncated or dropped count as deleted. Where their number is not known
    (PostgreSQL), the table passes any limit unless it is known to have been empty.
    """
    found = []
    if max_deleted is not None:
        lost = [loss for loss in tables if loss.is_loss]
        deleted = sum(loss.deleted for loss in lost)
        unknown = [
            loss.table
            for loss in lost
            if (loss.truncated or loss.dropped) and not loss.deleted and loss.table not in empty
        ]
        if deleted > max_deleted:
            found.append(f"{deleted} rows were deleted; at most {max_deleted} were allowed.")
        elif unknown:
            found.append(
                f"All rows of {', '.join(unknown)} went; at most {max_deleted} were allowed."
            )
    for word in forbidden:
        names = [loss.table for loss in tables if loss.is_loss and _did(loss, word)]
        if names:
            found.append(f"{word} is forbidden, and happened to {', '.join(names)}.")
    return tuple(found)


def _did(loss: TableLoss, word: str) -> bool:
    return {
        "delete": bool(loss.deleted),
        "update": bool(loss.updated),
        "drop": loss.dropped,
        "truncate": loss.truncated,
        "rewrite": loss.rewritten,
        "drop-column": bool(loss.columns_dropped),
    }[word]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRepair:
    """What brings back what was lost: `revert` of one transaction, or else `restore` of a span.

    `dropped` are those of the tables that are gone.
    """

    tables: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    transaction: str | None = None
    at: str = ""
    until: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """Return the command's words after `pitr`."""
        names = [word for table in self.tables for word in ("-t", table)]
        if self.transaction is not None:
            return ("revert", self.transaction, *names)
        return ("restore", *names, "--at", self.at, "--until", self.until)


def repair_of(
    tables: Sequence[TableLoss], transactions: Sequence[Transaction], before: str, after: str
) -> GuardRepair | None:
    """Return what brings back what was lost, None when nothing was.

    One transaction, when nothing but it can have taken the rows; else the state at the mark
    `before` against that at the mark `after`.
    """
    lost = [loss for loss in tables if loss.is_loss]
    if not lost:
        return None
    names = tuple(loss.table for loss in lost)
    # A table that is dropped may have become another one's name: then all of them count.
    is_any = any(loss.dropped or loss.rewritten for loss in lost)
    touching = [
        one for one in transactions if any(is_any or change.table in names for change in one.tables)
    ]
    dropped = tuple(loss.table for loss in lost if loss.dropped)
    if len(touching) == 1 and touching[0].kind == "commit":
        return GuardRepair(tables=names, dropped=dropped, transaction=touching[0].position)
    at, until = f"name:{before}", f"name:{after}"
    return GuardRepair(tables=names, dropped=dropped, at=at, until=until)
