"""What would keep rows of a plan from being written, found before anything is.

Each search leaves the rows that it finds out of the plan, by setting their `reason`, and returns a
blocker that names them. What the definition of a table holds of its rows is found by `rehearsal`,
what foreign keys hold by `parents`; here it is the conflicts between the states, and unique values
that other rows have.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from pitr.merge.blocking import CONFLICTS, KEYS_SHOWN
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.restatement import index_parts
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """One unique index: its expressions over the table's columns, and the rows that it covers."""

    name: str
    columns: tuple[str, ...]  # empty where an expression is indexed
    expressions: tuple[str, ...]
    collations: tuple[str, ...]
    condition: str


def conflict(
    connection: apsw.Connection,
    table: PlannedTable,
    kind: BlockerKind,
    resolution: Resolution,
    *,
    brought_back: str | None = None,
) -> list[Blocker]:
    """Return the blockers of the rows of one class that is a conflict.

    `brought_back` is the condition that a row is one that an earlier merge had written.
    """
    conditions = {CONFLICTS[kind]: f"r.class = '{kind}'"}
    if brought_back is not None:
        conditions[CONFLICTS[kind]] += f" AND NOT {brought_back}"
        conditions[_BROUGHT_BACK] = f"r.class = '{kind}' AND {brought_back}"
    return [
        Blocker(
            kind=kind,
            table=table.name,
            rows=rows,
            detail=detail,
            resolution=resolution,
            key_columns=table.key,
            keys=table.keys(connection, condition, KEYS_SHOWN),
        )
        for detail, condition in conditions.items()
        if (rows := table.count(connection, condition))
    ]


_BROUGHT_BACK = "an earlier merge brought the row back, and it has been written again since"


# --- unique values -------------------------------------------------------------------------------


def taken_values(
    connection: apsw.Connection, table: PlannedTable, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows whose unique values other live rows have, which the plan does not write."""
    if table.created_by is not None or not table.classes(Action.INSERT, Action.UPDATE):
        return []
    found = []
    for index in unique_indexes(connection, table.name):
        if not _is_identity(table, index):
            blocker = _taken(connection, table, index, resolution)
            found += [blocker] if blocker else []
    return found


def unique_indexes(connection: apsw.Connection, table: str) -> list[UniqueIndex]:
    """Return every unique index of a live table, those of its constraints included."""
    rows = connection.execute(
        "SELECT i.name, s.sql FROM pragma_index_list(?, 'main') i"
        " JOIN main.sqlite_schema s ON s.type = 'index' AND s.name = i.name"
        ' WHERE i."unique" ORDER BY i.name',
        (table,),
    ).fetchall()
    return [_unique_index(connection, str(name), sql) for name, sql in rows]


def _unique_index(connection: apsw.Connection, name: str, sql: apsw.SQLiteValue) -> UniqueIndex:
    parts = connection.execute(
        "SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno", (name,)
    ).fetchall()
    names = tuple("" if column is None else str(column) for column, _ in parts)
    texts, condition = index_parts(str(sql)) if sql else ((), "")
    expressions = [quoted(column) if column else texts[place] for place, column in enumerate(names)]
    return UniqueIndex(
        name=name,
        columns=names if all(names) else (),
        expressions=tuple(expressions),
        collations=tuple(str(collation) for _, collation in parts),
        condition=condition,
    )


def _is_identity(table: PlannedTable, index: UniqueIndex) -> bool:
    """Return whether the index is the key by which rows are matched: its values are known free."""
    same = set(map(folded, index.columns)) == set(map(folded, table.key))
    return same and not table.keyless and not set(table.key) & set(table.columns)


def _taken(
    connection: apsw.Connection, table: PlannedTable, index: UniqueIndex, resolution: Resolution
) -> Blocker | None:
    found = "temp.pitr_taken"
    connection.execute(f"DROP TABLE IF EXISTS {found}")
    connection.execute(f"CREATE TABLE {found} AS {_taken_statement(table, index)}")
    keys = ", ".join(f'"pitr key {place}"' for place in range(len(table.row_key)))
    rows = table.leave_out(connection, BlockerKind.UNIQUE_TAKEN, f"SELECT {keys} FROM {found}")
    if not rows:
        return None
    return Blocker(
        kind=BlockerKind.UNIQUE_TAKEN,
        table=table.name,
        rows=rows,
        detail=f"another row has the value of {', '.join(index.expressions)} ({index.name})",
        resolution=resolution,
        key_columns=table.key,
        **_taken_rows(connection, table, keys),
    )


def _taken_rows(
    connection: apsw.Connection, table: PlannedTable, keys: str
) -> dict[str, tuple[Row, ...]]:
    """Return the first rows that are left out, and beside each the key of a row in its way."""
    names = ", ".join(f'f."pitr holder {place}"' for place in range(len(table.key)))
    joined = " AND ".join(
        f'r.{name} IS f."pitr key {place}"' for place, name in enumerate(table.row_key)
    )
    rows = connection.execute(
        f"SELECT {table.key_values()}, {names} FROM temp.pitr_taken f JOIN {table.rows} AS r"
        f" ON {joined} GROUP BY {table.row_key_of()} LIMIT {KEYS_SHOWN}"
    ).fetchall()
    width = len(table.key)
    return {
        "keys": tuple(row[:width] for row in rows),
        "held_by": tuple(row[width:] for row in rows),
    }


def _taken_statement(table: PlannedTable, index: UniqueIndex) -> str:
    """Return a SELECT of row keys with the keys of live rows that have the same unique values.

    The live table stands outside any alias, so that the texts of expressions mean its columns.
    """
    values = [f'({text}) AS "pitr {at}"' for at, text in enumerate(index.expressions)]
    keys = [f'r.{name} AS "pitr key {at}"' for at, name in enumerate(table.row_key)]
    # The texts name columns of `x` alone: those of `r` are kept away in a query of their own.
    row_keys = ", ".join(f'"pitr key {at}"' for at in range(len(table.row_key)))
    condition = f" WHERE ({index.condition})" if index.condition else ""
    columns = ", ".join(
        f"x.{quoted(column.name)}" for column in table.definition.columns if column.hidden != 1
    )
    written = table.writes_columns(index.columns or table.columns)
    becoming = (
        f"SELECT {', '.join(keys)}, {columns} FROM {table.rows} AS r {table.becoming()}"
        f" WHERE {written}"
    )
    candidates = f"SELECT {row_keys}, {', '.join(values)} FROM ({becoming}){condition}"
    same = [
        f'({text}) = c."pitr {at}" COLLATE {collation}'
        for at, (text, collation) in enumerate(
            zip(index.expressions, index.collations, strict=True)
        )
    ]
    same += [f"({index.condition})"] if index.condition else []
    own = f"main.{quoted(table.name)}"
    holders = [f'{own}.{quoted(name)} AS "pitr holder {at}"' for at, name in enumerate(table.key)]
    return (
        f"SELECT {row_keys}, {', '.join(holders)} FROM ({candidates}) AS c"
        f" CROSS JOIN {own} WHERE {' AND '.join(same)} AND NOT {_is_written(table, own)}"
    )


def _is_written(table: PlannedTable, live: str) -> str:
    """Return the condition that a live row is one that the plan updates or deletes."""
    acting = table.acting(Action.UPDATE, Action.DELETE, rows="w")
    if table.keyless or acting == "FALSE":
        return "FALSE"
    match = table.match("w", "main", live)
    return f"EXISTS (SELECT 1 FROM {table.rows} AS w WHERE {match} AND {acting})"
