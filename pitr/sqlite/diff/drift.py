"""What became of the columns of a table: which are the same ones, under which name.

SQLite's ALTER TABLE keeps the place of a column that it renames, puts a new one last, and writes
every row anew to drop one. So a column that has another name at the same place of the same table
is the same column, unless the rows were written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pitr.sqlite.past.definition import ColumnDefinition
from pitr.sqlite.past.tables import PastTable, folded
from pitr.vocabulary.drift import SchemaDrift


def same_columns(
    old: Sequence[ColumnDefinition],
    new: Sequence[ColumnDefinition],
    *,
    is_same_table: bool,
    rows_kept: bool,
) -> dict[str, str]:
    """Return which column is which: folded old name to new name; those that are gone are absent.

    Without `rows_kept` the last columns may have been dropped, and others added in their places.
    """
    by_name = {folded(column.name): column.name for column in new}
    found = {
        folded(column.name): by_name[folded(column.name)]
        for column in old
        if folded(column.name) in by_name
    }
    if not is_same_table or len(new) < len(old):
        return found
    known = {folded(column.name) for column in old}
    renamed = {}
    for place, (was, now) in enumerate(zip(old, new, strict=False)):
        if folded(was.name) == folded(now.name):
            continue
        if folded(was.name) in by_name or folded(now.name) in known or not _is_alike(was, now):
            return found  # columns came and went: places tell nothing
        if not rows_kept and not any(folded(later.name) in found for later in old[place:]):
            return found
        renamed[folded(was.name)] = now.name
    return found | renamed


def _is_alike(was: ColumnDefinition, now: ColumnDefinition) -> bool:
    return (was.affinity, was.collation, was.default, was.generated) == (
        now.affinity,
        now.collation,
        now.default,
        now.generated,
    )


def columns_by_name(old: PastTable, new: PastTable) -> dict[str, str]:
    """Return the columns of the same name: folded old name to new name."""
    by_name = {folded(column.name): column.name for column in new.columns}
    names = (folded(column.name) for column in old.columns)
    return {name: by_name[name] for name in names if name in by_name}


def drift_between(
    before: PastTable,
    live: PastTable | None,
    columns: Mapping[str, str],
    *,
    compared: Sequence[str],
    recreated: bool,
) -> SchemaDrift:
    """Return how a live table differs from what it was; `columns` is as of `same_columns`.

    `compared` are the live names of the columns that all states have.
    """
    if live is None:
        return SchemaDrift(missing=True)
    then = {folded(column.name): column for column in before.columns}
    now = {column.name: column for column in live.columns}
    kept = {name: now[new] for name, new in columns.items() if new in now}
    taken = {column.name for column in kept.values()}
    return SchemaDrift(
        added=tuple(name for name in now if name not in taken),
        dropped=tuple(column.name for name, column in then.items() if name not in kept),
        renamed=tuple(
            (then[name].name, column.name)
            for name, column in kept.items()
            if folded(column.name) != name
        ),
        type_changed=tuple(
            (column.name, then[name].declared_type, column.declared_type)
            for name, column in kept.items()
            if then[name].declared_type.upper() != column.declared_type.upper()
        ),
        incomparable=tuple(
            column.name
            for name, column in kept.items()
            if column.name not in compared and not (column.is_generated and then[name].is_generated)
        ),
        renamed_table=folded(before.name) != folded(live.name),
        recreated=recreated,
    )
