"""The states of a recovery: up to three databases, each behind a connection of its own.

`before` and `after` are ordinary servers of the version of live, only read; they may be two
databases of one server. All temporary tables are live's, and live is where rows are classified.
Each connection must be in a pinned transaction (`tables.session`) while the states are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from pitr.errors import PrivilegeMissing, SourceUnusable, TableUnknown
from pitr.postgres.diff.alignment import AlignedTable, align
from pitr.postgres.diff.wide import check_width
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.tables.definition import Table
from pitr.postgres.tables.name import TableName, quoted
from pitr.postgres.tables.reading import read_table
from pitr.postgres.tables.session import Connection, begin, is_open, reading, run, value_of
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.vocabulary.position import Lsn

_PERSISTENCE = {"u": "an unlogged table", "t": "a temporary table"}
_KINDS = {
    "v": "a view",
    "m": "a materialised view",
    "f": "a foreign table",
    "S": "a sequence",
}


@dataclass(frozen=True)
class PastWal:
    """The archive that the states are of: its WAL, and the index of it.

    `flushed` waits until live has written out what can be seen of it, and returns timeline and LSN
    of the end; None where that takes long, and on a standby. It uses a connection of its own.
    """

    wal: ArchivedWal
    index: WalIndex
    flushed: Callable[[], tuple[int, Lsn] | None]

    @cached_property
    def end_of_live(self) -> tuple[int, Lsn] | None:
        """Timeline and LSN behind everything that the snapshot of live has seen.

        Taken once, before the comparison makes temporary tables: their records stay in memory. None
        where `flushed` has none, and when the archive had more than the server has: then they have
        parted.
        """
        archived = {timeline: self.wal.ranges(timeline) for timeline in self.wal.timelines()}
        found = self.flushed()
        if found is None:
            return None
        ranges = archived.get(found[0])
        return found if ranges and ranges[-1][1] <= found[1] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The open states. `tables` are names at the target; `where` is a condition over their rows.

    `columns` has, by table, those that alone are to be compared and set back. `held` are the
    tables that the other states hold as they were, all of them when None. `define` returns what
    pg_dump writes of tables of `before`, named as SQL, or of everything when there are none. `past`
    opens the archive, where before and after are servers that have replayed its WAL; it returns
    None when that cannot be asked.

    Without `before` the rows are staged from elsewhere: an undo has them in files.
    """

    live: Connection
    before: Connection | None
    tables: tuple[TableName, ...]
    after: Connection | None = None
    where: str | None = None
    columns: Mapping[TableName, Sequence[str]] = field(default_factory=dict)
    held: frozenset[TableName] | None = None
    define: Callable[[Sequence[str]], str] | None = None
    past: Callable[[], PastWal | None] | None = None


@contextmanager
def comparing(states: States) -> Iterator[None]:
    """Run the block in one snapshot of each state; the temporary tables go with it."""
    with sidecars(states):
        begin(states.live)
        try:
            yield
        finally:
            if is_open(states.live):
                run(states.live, "ROLLBACK")


@contextmanager
def sidecars(states: States) -> Iterator[None]:
    """Run the block in one snapshot of each state but live."""
    if states.before is None:
        yield
        return
    with reading(states.before):
        if states.after is None or states.after is states.before:
            yield
            return
        with reading(states.after):
            yield


def align_table(states: States, index: int, name: TableName) -> AlignedTable:
    """Find a table in all states. Raises TableUnknown, SourceUnusable, PrivilegeMissing."""
    assert states.before is not None
    before = read_table(states.before, name)
    if before is None:
        raise TableUnknown(
            f"no table {name} at the target",
            hint="Tables are named as schema.table; 'pitr log -t' shows when one was dropped.",
        )
    _check_kind(before)
    check_readable(states.before, before)
    after = None
    if states.after is not None:
        after = table_there(states.after, before)
        if after is not None:
            check_readable(states.after, after)
    live = table_there(states.live, before)
    if live is not None:
        check_readable(states.live, live)
    found = align(
        index,
        before,
        after,
        live,
        after_known=states.after is not None,
        chosen=states.columns.get(name),
    )
    check_width(found)
    return found


def check_readable(
    connection: Connection, table: Table, columns: Sequence[str] | None = None
) -> None:
    """Raise PrivilegeMissing when the role would not see every row and column of a table.

    `columns` are those that are to be seen, if not the whole table.

    Row security does not fail: it shows fewer rows, and the others would be taken for lost.
    """
    role = str(value_of(connection, "SELECT current_user"))
    if table.hides_rows:
        raise PrivilegeMissing(
            f"row security hides rows of {table.name} from {role} (rls_hidden)",
            detail="Rows that are hidden would look as if they were lost.",
            hint=f"Connect as {table.owner}, the owner, or as a role with BYPASSRLS.",
        )
    grants = []
    if "USAGE" not in table.privileges:
        grants.append(f"GRANT USAGE ON SCHEMA {quoted(table.name.schema)} TO {quoted(role)}")
    lacking = [c.name for c in table.columns if "SELECT" not in c.privileges]
    if columns is None and "SELECT" not in table.privileges:
        grants.append(f"GRANT SELECT ON {table.name.sql} TO {quoted(role)}")
    elif columns is not None and (found := [name for name in columns if name in lacking]):
        listed = ", ".join(map(quoted, found))
        grants.append(f"GRANT SELECT ({listed}) ON {table.name.sql} TO {quoted(role)}")
    if grants:
        detail = "Every column is read to compare the rows."
        if columns is not None:
            detail = f"It is at the other end of a foreign key by {', '.join(columns)}."
        raise PrivilegeMissing(
            f"{role} may not read {table.name}",
            detail=detail,
            hint=f"As its owner: {'; '.join(grants)};",
        )


def _check_kind(table: Table) -> None:
    kind = _KINDS.get(table.kind) or _PERSISTENCE.get(table.persistence)
    if kind is not None:
        raise SourceUnusable(
            f"cannot recover {table.name}: it is {kind}",
            detail="Its rows are not in the WAL, or it has none of its own.",
            hint="Leave it out with -t, naming the tables that hold the rows.",
        )


def table_there(connection: Connection, before: Table) -> Table | None:
    """Return the table in another state: by its name, or renamed, which keeps OID and numbers.

    One that only has the name, and not its columns, is taken where the table itself is not there.
    """
    named = read_table(connection, before.name)
    if named is not None and (named.oid == before.oid or _has_columns(named, before)):
        return named if named.kind in ("r", "p") else None
    found = read_table(connection, oid=before.oid)
    types = {column.number: column.type for column in before.columns}
    if found is not None and found.kind in ("r", "p"):
        shared = [column for column in found.columns if column.number in types]
        if shared and all(types[column.number] == column.type for column in shared):
            return found
    return named if named is not None and named.kind in ("r", "p") else None


def _has_columns(table: Table, before: Table) -> bool:
    """Return whether a table made anew has every column, or another took the name."""
    return all(table.find(column.name) is not None for column in before.columns)
