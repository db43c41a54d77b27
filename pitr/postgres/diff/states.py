"""The states of a recovery: up to three databases, each behind a connection of its own.

`before` and `after` are ordinary servers of the version of live, only read; they may be two
databases of one server. All temporary tables are live's, and live is where rows are classified.
Each connection must be in a pinned transaction (`tables.session`) while the states are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pitr.errors import SourceUnusable, TableUnknown
from pitr.postgres.diff.alignment import AlignedTable, align
from pitr.postgres.tables.definition import Table
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.reading import read_table
from pitr.postgres.tables.session import Connection, begin, is_open, reading, run

_PERSISTENCE = {"u": "unlogged", "t": "temporary"}
_KINDS = {"v": "view", "m": "materialised view", "f": "foreign table", "S": "sequence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The open states. `tables` are names at the target; `where` is a condition over their rows."""

    before: Connection
    live: Connection
    tables: tuple[TableName, ...]
    after: Connection | None = None
    where: str | None = None


@contextmanager
def comparing(states: States) -> Iterator[None]:
    """Run the block in one snapshot of each state; the temporary tables go with it."""
    with _sidecars(states):
        begin(states.live)
        try:
            yield
        finally:
            if is_open(states.live):
                run(states.live, "ROLLBACK")


@contextmanager
def _sidecars(states: States) -> Iterator[None]:
    with reading(states.before):
        if states.after is None or states.after is states.before:
            yield
            return
        with reading(states.after):
            yield


def align_states(states: States) -> list[AlignedTable]:
    """Find the tables in all states. Raises TableUnknown, SourceUnusable, psycopg.Error."""
    return [_align_one(states, at, name) for at, name in enumerate(states.tables)]


def _align_one(states: States, index: int, name: TableName) -> AlignedTable:
    before = read_table(states.before, name)
    if before is None:
        raise TableUnknown(
            f"no table {name} at the target",
            hint="Tables are named as schema.table; 'pitr log -t' shows when one was dropped.",
        )
    _check_kind(before)
    after = None
    if states.after is not None:
        after = _same_table(states.after, before)
    return align(
        index,
        before,
        after,
        _same_table(states.live, before),
        after_known=states.after is not None,
    )


def _check_kind(table: Table) -> None:
    kind = _KINDS.get(table.kind) or _PERSISTENCE.get(table.persistence)
    if kind is not None:
        raise SourceUnusable(
            f"cannot recover {table.name}",
            detail=f"It is {'an' if kind[0] in 'u' else 'a'} {kind}"
            f"{'' if table.kind in _KINDS else ' table'}, and its rows are not in the WAL.",
        )


def _same_table(connection: Connection, before: Table) -> Table | None:
    """Return the table in another state: by its name, or renamed, which keeps OID and columns."""
    found = read_table(connection, before.name)
    if found is not None:
        return found if found.kind in ("r", "p") else None
    found = read_table(connection, oid=before.oid)
    if found is None or found.kind not in ("r", "p"):
        return None
    was = [(column.number, column.type) for column in before.columns]
    return found if [(c.number, c.type) for c in found.columns] == was else None


def choose(states: States, names: Sequence[TableName]) -> States:
    """Return the same states of some of their tables."""
    return States(
        before=states.before,
        live=states.live,
        tables=tuple(names),
        after=states.after,
        where=states.where,
    )
