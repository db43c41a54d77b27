"""Which columns the tables of a state have, and which of them another state has no more."""

from __future__ import annotations

from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.pages import PageSource
from pitr.sqlite.past.schema import Schema
from pitr.sqlite.past.tables import folded

Columns = dict[str, tuple[str, tuple[str, ...]]]


def columns_of(source: PageSource) -> Columns:
    """Return the name and the columns of every table but virtual ones, by folded name."""
    schema = Schema.read(Snapshot(source))
    return {
        key: (entry.name, tuple(column.name for column in entry.definition.columns))
        for key, entry in schema.tables.items()
        if entry.module is None
    }


def dropped_columns(before: Columns, after: Columns) -> dict[str, tuple[str, ...]]:
    """Return, by table, the columns that it had and has not; nothing of tables that are gone."""
    found = {}
    for key, (name, columns) in before.items():
        kept = {folded(column) for column in after[key][1]} if key in after else None
        gone = tuple(one for one in columns if kept is not None and folded(one) not in kept)
        if gone:
            found[name] = gone
    return found
