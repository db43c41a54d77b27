"""What foreign keys hold against a plan: parents that are missing, children that would lose theirs.

Asked for the rows that the plan writes, and for no others: what other rows violate already is not
the plan's business. A database whose application never enforces foreign keys is full of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import apsw

from pitr.merge.blocking import KEYS_SHOWN
from pitr.sqlite.merge.foreign_keys import ForeignKey, ForeignKeys
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The planned tables and their foreign keys, as of the live database.

    `live_tables` are folded names. `then` has, by folded name, the relation that holds every row of
    a table at the target: rows that had no parent then either are no fault of the plan. For an
    undo, `noted` is the schema with what `note_kin` wrote down when the merge was made.
    """

    keys: ForeignKeys
    tables: Sequence[PlannedTable]
    live_tables: frozenset[str]
    then: Mapping[str, str] = field(default_factory=dict)
    noted: str | None = None

    def planned(self, name: str) -> Iterator[PlannedTable]:
        """Yield the planned tables of a name."""
        return (table for table in self.tables if folded(table.name) == folded(name))

    def is_checked(self, key: ForeignKey) -> bool:
        """Return whether rows can be judged by the key: its parent has, or had, such a key."""
        was_there = folded(key.parent) in self.then or self.has(key.parent)
        return bool(key.parent_columns) and was_there

    def can_be_enforced(self) -> bool:
        """Return whether SQLite takes writes to the planned tables under foreign_keys = ON.

        It refuses them all where a parent, or the key that is named in it, does not exist.
        """
        return all(
            key.parent_columns and self.has(key.parent)
            for table in self.tables
            for key in self.keys.of(table.name)
        )

    def has(self, name: str) -> bool:
        """Return whether a table is there, or will be."""
        return folded(name) in self.live_tables or any(self.planned(name))


def find_orphans(
    connection: apsw.Connection, family: Family, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows that would have no parent, and rows whose children would lose theirs."""
    lacking = list(_lacking(connection, family))
    found = [*_childless(connection, family, resolution)]
    return [*found, *_parentless(connection, family, lacking, resolution)]


def tolerated_orphans(connection: apsw.Connection, family: Family) -> dict[str, int]:
    """Count the rows that are written without a parent, by table and columns: they had none."""
    found: dict[str, int] = {}
    for table, key in _lacking(connection, family):
        if family.noted or folded(key.parent) in family.then:
            chosen = _without_parent(family, table, key)
            rows = int(connection.execute(f"SELECT count(*) FROM ({chosen})").get)
            found[f"{table.name}.{', '.join(key.child_columns)}"] = rows
    return found


def _lacking(
    connection: apsw.Connection, family: Family
) -> Iterator[tuple[PlannedTable, ForeignKey]]:
    """Yield the tables and keys by which any row at all has no parent."""
    for table in family.tables:
        for key in family.keys.of(table.name):
            if table.classes(Action.INSERT, Action.UPDATE) and family.is_checked(key):
                select = f"{_without_parent(family, table, key)} LIMIT 1"
                if connection.execute(select).fetchone():
                    yield table, key


def _parentless(
    connection: apsw.Connection,
    family: Family,
    lacking: Sequence[tuple[PlannedTable, ForeignKey]],
    resolution: Resolution,
) -> Iterator[Blocker]:
    for table, key in lacking:
        select = _without_parent(family, table, key)
        chosen = f"{select} AND {_had_parent(family, table, key)}"
        detail = f"{', '.join(key.child_columns)} names rows of {key.parent} that are not there"
        yield from _leave_out(connection, table, chosen, detail, resolution)


def _leave_out(
    connection: apsw.Connection,
    table: PlannedTable,
    chosen: str,
    detail: str,
    resolution: Resolution,
) -> Iterator[Blocker]:
    keys = connection.execute(
        f"SELECT {table.key_values()} FROM {table.rows} AS r WHERE {table.acting()}"
        f" AND ({table.row_key_of()}) IN ({chosen}) LIMIT {KEYS_SHOWN}"
    ).fetchall()
    if keys:
        rows = table.leave_out(connection, BlockerKind.PARENT_MISSING, chosen)
        yield Blocker(
            kind=BlockerKind.PARENT_MISSING,
            table=table.name,
            rows=rows,
            detail=detail,
            resolution=resolution,
            key_columns=table.key,
            keys=tuple(keys),
        )


def _had_parent(family: Family, table: PlannedTable, key: ForeignKey) -> str:
    if family.noted:
        noted = f"SELECT 1 FROM {family.noted}.{_ORPHANS} WHERE {_is_noted(key)}"
        return f"NOT EXISTS ({noted} AND named = {_text_of('x', key.child_columns)})"
    then = family.then.get(folded(key.parent))
    if then is None:
        return "TRUE"  # not known: then it is asked for
    return f"EXISTS (SELECT 1 FROM {then} AS p WHERE {key.has_parent('p', 'x')})"


def _without_parent(family: Family, table: PlannedTable, key: ForeignKey) -> str:
    """Return a SELECT of the row keys of rows that would have no parent; more may be ANDed to it.

    A parent is a live row that stays, or one that the plan writes.
    """
    places = []
    if folded(key.parent) in family.live_tables:
        live = f"main.{quoted(key.parent)}"
        stays = "".join(f" AND NOT EXISTS ({one})" for one in _parents_going(family, key))
        places.append(f"SELECT 1 FROM {live} AS p WHERE {key.has_parent('p', 'x')}{stays}")
    for parent in family.planned(key.parent):
        if parent.classes(Action.INSERT, Action.UPDATE):
            places.append(
                f"SELECT 1 FROM {parent.rows} AS q {parent.becoming(alias='p', rows='q')}"
                f" WHERE {key.has_parent('p', 'x')}"
                f" AND {parent.acting(Action.INSERT, Action.UPDATE, rows='q')}"
            )
    absent = "".join(f" AND NOT EXISTS ({place})" for place in places)
    return (
        f"SELECT {table.row_key_of()} FROM {table.rows} AS r {table.becoming()}"
        f" WHERE {table.writes_columns(key.child_columns)} AND {key.names_parent('x')}{absent}"
    )


def _parents_going(family: Family, key: ForeignKey) -> Iterator[str]:
    """Yield a SELECT of the rows of each planned parent that go, or lose the key, and are `p`."""
    for parent in family.planned(key.parent):
        if parent.classes(Action.UPDATE, Action.DELETE):
            goes = parent.acting(Action.DELETE, rows="g")
            changes = parent.changes_any(key.parent_columns, rows="g")
            yield (
                f"SELECT 1 FROM {parent.rows} AS g WHERE {parent.is_row('g', 'p')}"
                f" AND ({goes} OR ({parent.acting(Action.UPDATE, rows='g')} AND {changes}))"
            )


def _childless(
    connection: apsw.Connection, family: Family, resolution: Resolution
) -> Iterator[Blocker]:
    for table in family.tables:
        for key in family.keys.to(table.name):
            chosen = abandoning(family, table, key)
            if chosen is not None:
                detail = f"rows of {key.child} that stay refer to it by "
                detail += ", ".join(key.child_columns)
                yield from _leave_out(connection, table, chosen, detail, resolution)


def abandoning(family: Family, table: PlannedTable, key: ForeignKey) -> str | None:
    """Return a SELECT of the rows that go, or lose their key, while live children name them.

    Children that the plan deletes or gives another parent do not count, and for an undo neither do
    as many as had no parent before the merge brought it. None: no row goes.
    """
    going = [table.acting(Action.DELETE)] if table.classes(Action.DELETE) else []
    if table.classes(Action.UPDATE):
        changed = table.changes_any(key.parent_columns)
        going.append(f"({table.acting(Action.UPDATE)} AND {changed})")
    if not going or not key.parent_columns:
        return None
    stay = "".join(f" AND NOT EXISTS ({one})" for one in _children_written(family, key))
    found = (
        f"SELECT {table.row_key_of()} FROM {table.rows} AS r {table.live_row()}"
        f" JOIN main.{quoted(key.child)} AS c ON {key.has_child('l', 'c')}"
        f" WHERE ({' OR '.join(going)}){stay}"
    )
    if not family.noted:
        return found
    adopted = (
        f"SELECT children FROM {family.noted}.{_ADOPTED} WHERE {_is_noted(key)}"
        f" AND named = {_text_of('l', key.parent_columns)}"
    )
    return f"{found} GROUP BY {table.row_key_of()} HAVING count(*) > coalesce(({adopted}), 0)"


def _children_written(family: Family, key: ForeignKey) -> Iterator[str]:
    for child in family.planned(key.child):
        if not child.classes(Action.UPDATE, Action.DELETE):
            continue
        goes = child.acting(Action.DELETE, rows="w")
        moves = child.changes_any(key.child_columns, rows="w")
        written = f"({goes} OR ({child.acting(Action.UPDATE, rows='w')} AND {moves}))"
        if child.keyless:
            # Copies cannot be told apart: the row goes for certain only where all of them go.
            written = f"{goes} AND w.copies >= w.held"
        yield f"SELECT 1 FROM {child.rows} AS w WHERE {child.is_row('w', 'c')} AND {written}"


def violations(connection: apsw.Connection, family: Family) -> dict[str, int]:
    """Count the live rows of the plan whose parent does not exist, once they are written.

    By table and columns. What `tolerated` had is found again here.
    """
    found: dict[str, int] = {}
    for table in family.tables:
        if not table.classes(Action.INSERT, Action.UPDATE):
            continue
        for key in family.keys.of(table.name):
            if family.is_checked(key):
                rows = _count_violations(connection, family, table, key)
                if rows:
                    found[f"{table.name}.{', '.join(key.child_columns)}"] = rows
    return found


def _count_violations(
    connection: apsw.Connection, family: Family, table: PlannedTable, key: ForeignKey
) -> int:
    parent = f"SELECT 1 FROM main.{quoted(key.parent)} AS p WHERE {key.has_parent('p', 'l')}"
    if not family.has(key.parent):
        parent = "SELECT 1 WHERE FALSE"
    counted = "count(DISTINCT r.rowid)" if table.keyless else "count(*)"
    return int(
        connection.execute(
            f"SELECT {counted} FROM {table.rows} AS r {table.live_row()}"
            f" WHERE {table.writes_columns(key.child_columns)} AND {key.names_parent('l')}"
            f" AND NOT EXISTS ({parent})"
        ).get
    )


# --- what an undo has to know --------------------------------------------------------------------

_ORPHANS, _ADOPTED = "pitr_orphans", "pitr_adopted"


def note_kin(connection: apsw.Connection, family: Family, schema: str) -> None:
    """Write down, before a merge writes, which of its rows have no parent, and which get children.

    Where foreign keys are not enforced a merge may bring back the parents of rows that have lost
    them, and delete or mend rows that have none. Taking it back has to be allowed all the same.
    What a row is known by may be another key by then; the values by which it is named stay.
    """
    connection.execute(f"CREATE TABLE {schema}.{_ORPHANS} (child, columns, parent, named)")
    connection.execute(
        f"CREATE TABLE {schema}.{_ADOPTED} (child, columns, parent, named, children)"
    )
    for table in family.tables:
        if table.created_by is not None:
            continue
        for key in family.keys.of(table.name):
            if family.is_checked(key) and table.classes(Action.UPDATE, Action.DELETE):
                connection.execute(
                    f"INSERT INTO {schema}.{_ORPHANS}"
                    f" SELECT DISTINCT ?, ?, ?, {_text_of('l', key.child_columns)}"
                    f" FROM {table.rows} AS r {table.live_row()}"
                    f" WHERE {table.acting(Action.UPDATE, Action.DELETE)}"
                    f" AND {key.names_parent('l')} AND NOT {_has_live_parent(family, key)}",
                    _name(key),
                )
        for key in family.keys.to(table.name):
            if key.parent_columns and table.classes(Action.INSERT, Action.UPDATE):
                connection.execute(
                    f"INSERT INTO {schema}.{_ADOPTED}"
                    f" SELECT ?, ?, ?, {_text_of('x', key.parent_columns)}, count(*)"
                    f" FROM {table.rows} AS r {table.becoming()}"
                    f" JOIN main.{quoted(key.child)} AS c ON {key.has_child('x', 'c')}"
                    f" WHERE {table.writes_columns(key.parent_columns)}"
                    f" GROUP BY {table.row_key_of()}",
                    _name(key),
                )


def has_adopted(connection: apsw.Connection, family: Family) -> bool:
    """Return whether an undo may leave children without a parent, as they had been."""
    if not family.noted:
        return False
    return bool(connection.execute(f"SELECT EXISTS (SELECT 1 FROM {family.noted}.{_ADOPTED})").get)


def _has_live_parent(family: Family, key: ForeignKey) -> str:
    if folded(key.parent) not in family.live_tables:
        return "FALSE"
    parent = f"main.{quoted(key.parent)}"
    return f"EXISTS (SELECT 1 FROM {parent} AS p WHERE {key.has_parent('p', 'l')})"


def _name(key: ForeignKey) -> tuple[str, str, str]:
    return folded(key.child), folded(",".join(key.child_columns)), folded(key.parent)


def _is_noted(key: ForeignKey) -> str:
    child, columns, parent = (text.replace("'", "''") for text in _name(key))
    return f"child = '{child}' AND columns = '{columns}' AND parent = '{parent}'"


def _text_of(alias: str, columns: Sequence[str]) -> str:
    """Return some columns of a row as one text."""
    return " || ',' || ".join(f"quote({alias}.{quoted(name)})" for name in columns)
