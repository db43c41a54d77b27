"""What became of the columns of a table: which are the same ones, under which name.

A rename keeps the number of a column, and a number is never used twice. So of one table the number
says which column is which; of a table that was made anew only the names do, and of a column that
was dropped and added again.
"""

from __future__ import annotations

from collections.abc import Iterable

from pitr.postgres.tables.definition import Column, Table
from pitr.vocabulary.drift import SchemaDrift


def same_columns(before: Table, other: Table) -> dict[str, str]:
    """Return which column is which: name before to name in the other state; gone ones left out."""
    if before.oid == other.oid:
        numbered = {column.number: column.name for column in other.columns}
        same = {c.name: numbered[c.number] for c in before.columns if c.number in numbered}
        free = set(numbered.values()) - set(same.values())
        again = (c.name for c in before.columns if c.name not in same and c.name in free)
        return same | {name: name for name in again}
    names = {column.name for column in other.columns}
    return {c.name: c.name for c in before.columns if c.name in names}


def drift_between(before: Table, live: Table | None, compared: Iterable[str]) -> SchemaDrift:
    """Return how a live table differs from what it was; `compared` are live names."""
    if live is None:
        return SchemaDrift(missing=True)
    names = same_columns(before, live)
    pairs = [(before.column(old), live.column(new)) for old, new in names.items()]
    taken, known = set(names.values()), set(compared)
    return SchemaDrift(
        added=tuple(column.name for column in live.columns if column.name not in taken),
        dropped=tuple(column.name for column in before.columns if column.name not in names),
        renamed=tuple((was.name, now.name) for was, now in pairs if was.name != now.name),
        type_changed=tuple(
            (now.name, was.type, now.type) for was, now in pairs if was.type != now.type
        ),
        incomparable=tuple(
            now.name for was, now in pairs if now.name not in known and not _is_computed(was, now)
        ),
        renamed_table=before.name != live.name,
        recreated=before.oid != live.oid,
        readded=readded_columns(before, live),
    )


def readded_columns(before: Table, live: Table) -> tuple[str, ...]:
    """Return the columns of one table that were dropped since and added again under their names."""
    if before.oid != live.oid:
        return ()
    pairs = (
        (before.column(old), live.column(new)) for old, new in same_columns(before, live).items()
    )
    return tuple(now.name for was, now in pairs if was.number != now.number)


def _is_computed(was: Column, now: Column) -> bool:
    return was.is_generated and now.is_generated
