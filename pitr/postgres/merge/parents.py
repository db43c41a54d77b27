"""What foreign keys hold against a plan: parents that are missing, children that would lose theirs.

A row with children that stay is never deleted, whatever the key does on delete: that would change
rows that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pitr.postgres.diff.states import check_readable
from pitr.postgres.merge.planned import NUMBER, PlannedTable
from pitr.postgres.tables.definition import ForeignKey, Table
from pitr.postgres.tables.session import Connection
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The planned tables and their foreign keys, as of the live database.

    `relatives` are the live tables at the other ends, by OID.
    """

    keys: Sequence[ForeignKey]
    tables: Sequence[PlannedTable]
    relatives: dict[int, Table]

    def of(self, table: PlannedTable) -> list[ForeignKey]:
        """Return the foreign keys that a table has."""
        return [key for key in self.keys if key.child_oid == table.live.oid]

    def to(self, table: PlannedTable) -> list[ForeignKey]:
        """Return the foreign keys that refer to a table."""
        return [key for key in self.keys if key.parent_oid == table.live.oid]

    def check_readable(self, connection: Connection) -> None:
        """Raise PrivilegeMissing when the role may not see what the foreign keys are judged by."""
        for table in self.tables:
            for key in self.of(table) if table.classes(Action.INSERT, Action.UPDATE) else []:
                check_readable(connection, self.relatives[key.parent_oid], key.parent_columns)
            for key in self.to(table) if table.classes(Action.UPDATE, Action.DELETE) else []:
                check_readable(connection, self.relatives[key.child_oid], key.child_columns)

    def planned(self, oid: int) -> Iterator[PlannedTable]:
        """Yield the planned tables of an OID."""
        return (table for table in self.tables if table.live.oid == oid)


def find_orphans(connection: Connection, family: Family, resolution: Resolution) -> list[Blocker]:
    """Leave out rows that would have no parent, and rows whose children would lose theirs."""
    found: list[Blocker] = []
    for table in family.tables:
        for key in family.to(table):
            chosen = _abandoning(family, table, key)
            if chosen is not None:
                detail = f"rows of {key.child} that stay refer to it by "
                detail += ", ".join(key.child_columns)
                found += table.refuse(
                    connection, BlockerKind.PARENT_MISSING, detail, resolution, chosen
                )
    for table in family.tables:
        for key in family.of(table):
            if table.classes(Action.INSERT, Action.UPDATE):
                detail = f"{', '.join(key.child_columns)} names rows of {key.parent} that are"
                detail += " not there"
                chosen = _without_parent(family, table, key)
                found += table.refuse(
                    connection, BlockerKind.PARENT_MISSING, detail, resolution, chosen
                )
    return found


def _without_parent(family: Family, table: PlannedTable, key: ForeignKey) -> str:
    """Return a SELECT of the numbers of rows that would have no parent.

    A parent is a live row that stays, or one that the plan writes.
    """
    live = family.relatives[key.parent_oid].name.sql
    stays = "".join(f" AND NOT EXISTS ({one})" for one in _parents_going(family, key))
    places = [f"SELECT 1 FROM {live} AS p WHERE {key.joins('p', 'x')}{stays}"]
    for parent in family.planned(key.parent_oid):
        if parent.classes(Action.INSERT, Action.UPDATE):
            places.append(
                f"SELECT 1 FROM {parent.rows} AS q {parent.becoming('p', 'q')}"
                f" WHERE {key.joins('p', 'x')}"
                f" AND {parent.acting(Action.INSERT, Action.UPDATE, rows='q')}"
            )
    absent = "".join(f" AND NOT EXISTS ({place})" for place in places)
    return (
        f"SELECT r.n FROM {table.rows} AS r {table.becoming()}"
        f" WHERE {table.writes_columns(key.child_columns)} AND {key.names_parent('x')}{absent}"
    )


def _parents_going(family: Family, key: ForeignKey) -> Iterator[str]:
    """Yield a SELECT of the rows of each planned parent that go, or lose the key, and are `p`."""
    for parent in family.planned(key.parent_oid):
        if not parent.keyless and parent.classes(Action.UPDATE, Action.DELETE):
            goes = parent.acting(Action.DELETE, rows="g")
            changes = parent.changes_any(key.parent_columns, rows="g")
            yield (
                f"SELECT 1 FROM {parent.rows} AS g WHERE {parent.same_key('g', 'p')}"
                f" AND ({goes} OR ({parent.acting(Action.UPDATE, rows='g')} AND {changes}))"
            )


def _abandoning(family: Family, table: PlannedTable, key: ForeignKey) -> str | None:
    """Return a SELECT of the rows that go, or lose their key, while live children name them.

    Children that the plan deletes or gives another parent do not count. None: no row goes.
    """
    going = [table.acting(Action.DELETE)] if table.classes(Action.DELETE) else []
    if table.classes(Action.UPDATE):
        changed = table.changes_any(key.parent_columns)
        if any(table.live.column(name).is_generated for name in key.parent_columns):
            kept = f"SELECT FROM {table.becomes} AS x WHERE x.{NUMBER} = r.n"
            changed = f"NOT EXISTS ({kept} AND {key.joins('x', 'c')})"
        going.append(f"({table.acting(Action.UPDATE)} AND {changed})")
    if table.keyless or not going:
        return None
    child = family.relatives[key.child_oid].name.sql
    stay = "".join(f" AND NOT EXISTS ({one})" for one in _children_written(family, key))
    return (
        f"SELECT r.n FROM {table.rows} AS r {table.live_row()}"
        f" JOIN {child} AS c ON {key.joins('l', 'c')} WHERE ({' OR '.join(going)}){stay}"
    )


def _children_written(family: Family, key: ForeignKey) -> Iterator[str]:
    for child in family.planned(key.child_oid):
        if not child.classes(Action.UPDATE, Action.DELETE):
            continue
        goes = child.acting(Action.DELETE, rows="w")
        if child.keyless:
            # Copies cannot be told apart: only where all of them go does none stay behind.
            alike = f"SELECT count(*) FROM {child.live.source} AS k"
            every = f"w.copies >= ({alike} WHERE {child.same_content('w', 'k')})"
            same = child.same_content("w", "c")
            yield f"SELECT 1 FROM {child.rows} AS w WHERE {same} AND {goes} AND {every}"
        else:
            moves = child.changes_any(key.child_columns, rows="w")
            yield (
                f"SELECT 1 FROM {child.rows} AS w WHERE {child.same_key('w', 'c')}"
                f" AND ({goes} OR ({child.acting(Action.UPDATE, rows='w')} AND {moves}))"
            )
