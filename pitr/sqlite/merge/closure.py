"""Rows of other tables that belong to the lost ones, copied out of the archive.

Upwards: the parents that rows of the plan name and that are not there any more. Downwards: the
children that went with a parent (ON DELETE CASCADE), or that forgot it (SET NULL, SET DEFAULT).

Both come from the whole past state at the target, attached by itself, into tables of their own
definition in a temporary database, and from there into the plan like rows of the sidecar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import apsw

from pitr.sqlite.diff.joining import balanced
from pitr.sqlite.diff.row_key import PlacedTable, key_collation, shared_key
from pitr.sqlite.merge.foreign_keys import ForeignKey, ForeignKeys
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.merge.scratch import make_fresh
from pitr.sqlite.past.tables import PastTable, find_table, folded
from pitr.sqlite.statement.restatement import restated
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.row_class import Action, RowClass

CLOSURE = "closure"
_FORGETS = ("SET NULL", "SET DEFAULT")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Children that went with lost parents and are not in the plan.

    `how` is what the foreign key does when a parent is deleted.
    """

    child: str
    parent: str
    how: str
    rows: int


@dataclass(frozen=True, slots=True)
class _Kin:
    """A table of the closure, in the past and, where it still exists, in live."""

    schema: str
    past: PastTable
    live: PastTable | None
    key: tuple[str, ...]
    collations: tuple[str, ...]

    @property
    def copied(self) -> str:
        return f"{CLOSURE}.{quoted(self.past.name)}"

    @property
    def source(self) -> str:
        return f"{self.schema}.{quoted(self.past.name)}"

    def is_new(self, alias: str) -> str:
        """Return the condition that a row of the past has not been copied yet."""
        copied = f"SELECT 1 FROM {self.copied} AS c WHERE {self.same_row('c', alias)}"
        return f"NOT EXISTS ({copied})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that can be given values on both sides."""
        if self.live is None:
            return self.past.plain_columns
        live = set(map(folded, self.live.plain_columns))
        return tuple(name for name in self.past.plain_columns if folded(name) in live)

    def same_row(self, left: str, right: str) -> str:
        """Return the condition that two rows have the same key."""
        return " AND ".join(
            f"{left}.{quoted(name)} = {right}.{quoted(name)} COLLATE {collation}"
            for name, collation in zip(self.key, self.collations, strict=True)
        )

    def absent(self, alias: str) -> str:
        """Return the condition that live has no row of this key."""
        if self.live is None:
            return "TRUE"
        live = f"main.{quoted(self.live.name)}"
        return f"NOT EXISTS (SELECT 1 FROM {live} AS l WHERE {self.same_row('l', alias)})"


def index_texts(connection: apsw.Connection, schema: str, table: str) -> tuple[str, ...]:
    """Return the texts that make the indexes of a table of a schema."""
    rows = connection.execute(
        f"SELECT sql FROM {schema}.sqlite_schema"
        " WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL ORDER BY rowid",
        (table,),
    )
    return tuple(str(sql) for (sql,) in rows)


class Closure:
    """The kin of the rows of a plan, out of the schema `past` of the connection."""

    def __init__(
        self,
        connection: apsw.Connection,
        past: str,
        tables: Sequence[PlannedTable],
        *,
        complete: frozenset[str],
    ) -> None:
        """`complete` has the folded names of tables whose rows are all in the plan already."""
        self._connection = connection
        self._past = past
        self._tables = tables
        self._complete = complete
        self._live_keys = ForeignKeys.read(connection, "main")
        self._past_keys = ForeignKeys.read(connection, past)
        self._kin: dict[str, _Kin | None] = {}
        make_fresh(connection, CLOSURE)

    # --- what is collected -----------------------------------------------------------------------

    def add_parents(self) -> None:
        """Copy the parents that rows of the plan and of the closure name and that are not there."""
        while any(self._add_parents_of(*child) for child in self._inserted()):
            pass

    def _add_parents_of(self, name: str, source: str, names: Mapping[str, str]) -> int:
        # A table that is gone has its foreign keys in the past alone.
        keys = self._live_keys.of(name) or self._past_keys.of(name)
        return sum(self._add_parents_by(key, source, names) for key in keys)

    def _add_parents_by(self, key: ForeignKey, source: str, names: Mapping[str, str]) -> int:
        kin = self._kin_of(key.parent)
        columns = self._named_columns(key)
        if kin is None or not columns:
            return 0
        named = ", ".join(f"s.{quoted(names.get(c, c))}" for c in key.child_columns)
        wanted = ", ".join(f"p.{quoted(name)}" for name in columns)
        return self._copy(
            kin, f"({wanted}) IN (SELECT {named} FROM {source} AS s) AND {kin.absent('p')}"
        )

    def _named_columns(self, key: ForeignKey) -> tuple[str, ...]:
        """Return the parent's columns; those that the past tells, where live has no such table."""
        if key.parent_columns:
            return key.parent_columns
        then = [k for k in self._past_keys.of(key.child) if k.child_columns == key.child_columns]
        return then[0].parent_columns if then else ()

    def add_children(self) -> None:
        """Copy the children of rows that are lost, and theirs, as far as they went or forgot."""
        while any(self._add_children_of(*parent) for parent in self._inserted()):
            pass

    def _add_children_of(self, name: str, source: str, _names: Mapping[str, str]) -> int:
        return sum(
            self._copy(kin, condition) for key, kin, condition in self._children(name, source)
        )

    def forgotten(self) -> list[Forgotten]:
        """Count the children that went or forgot and are in neither plan nor closure."""
        found = []
        for name, source, _ in self._inserted():
            for key, kin, condition in self._children(name, source):
                condition += f" AND {kin.is_new('p')}"
                rows = self._connection.execute(
                    f"SELECT count(*) FROM {kin.source} AS p WHERE {condition}"
                ).get
                if rows:
                    found.append(Forgotten(kin.past.name, name, key.on_delete, int(rows)))
        return found

    def _children(self, name: str, source: str) -> Iterator[tuple[ForeignKey, _Kin, str]]:
        """Yield the keys to a table with the condition, on `p`, that a child went or forgot."""
        for key in self._past_keys.to(name):
            kin = self._kin_of(key.child)
            if kin is None or folded(key.child) in self._complete or not key.parent_columns:
                continue
            of_lost = f"EXISTS (SELECT 1 FROM {source} AS s WHERE {key.has_parent('s', 'p')})"
            if key.on_delete == "CASCADE":
                yield key, kin, f"{of_lost} AND {kin.absent('p')}"
            elif key.on_delete in _FORGETS and kin.live is not None:
                live = f"main.{quoted(kin.live.name)}"
                now = f"SELECT 1 FROM {live} AS l WHERE {kin.same_row('l', 'p')}"
                yield key, kin, f"{of_lost} AND EXISTS ({now} AND {self._has_forgotten(key)})"

    def _has_forgotten(self, key: ForeignKey) -> str:
        """Return the condition that the live child names no row now, where it named one then."""
        if key.on_delete == "SET NULL":
            return " AND ".join(f"l.{quoted(name)} IS NULL" for name in key.child_columns)
        changed = (f"l.{quoted(name)} IS NOT p.{quoted(name)}" for name in key.child_columns)
        return f"({' OR '.join(changed)})"

    def _inserted(self) -> list[tuple[str, str, Mapping[str, str]]]:
        """Return, of each table with rows to be inserted: name, relation, names of its columns."""
        found = []
        for table in self._tables:
            if table.classes(Action.INSERT):
                rows = f"SELECT b.* FROM {table.rows} AS r {table.before_row()}"
                names = table.before_names
                if table.keyless:
                    rows = f"SELECT x.* FROM {table.rows} AS r {table.becoming()}"
                    names = {}
                found.append((table.name, f"({rows} WHERE {table.acting(Action.INSERT)})", names))
        found += [(kin.past.name, kin.copied, {}) for kin in self._kin.values() if kin]
        return found

    def _copy(self, kin: _Kin, condition: str) -> int:
        columns = ", ".join(map(quoted, kin.past.plain_columns))
        self._connection.execute(
            f"INSERT INTO {kin.copied}({columns}) SELECT {columns}"
            f" FROM {kin.source} AS p WHERE {condition} AND {kin.is_new('p')}"
        )
        return self._connection.changes()

    def _kin_of(self, name: str) -> _Kin | None:
        """Return a table of the past, with an empty copy of it; None when it cannot be had."""
        if folded(name) not in self._kin:
            self._kin[folded(name)] = self._make_kin(name)
        return self._kin[folded(name)]

    def _make_kin(self, name: str) -> _Kin | None:
        past = find_table(self._connection, self._past, name)
        if past is None or past.virtual:
            return None
        live = find_table(self._connection, "main", name)
        sides = [PlacedTable(self._past, past)] + ([PlacedTable("main", live)] if live else [])
        key = shared_key(self._connection, sides)
        if not key:
            return None
        try:
            self._connection.execute(restated(past.sql, CLOSURE))
        except apsw.SQLError:
            return None  # a function of the application: then its rows cannot be written either
        collations = [key_collation(self._connection, sides, [n] * len(sides)) for n in key]
        return _Kin(self._past, past, live, key, tuple(collations))

    # --- what comes into the plan ----------------------------------------------------------------

    def planned(self, first_index: int, like: PlannedTable) -> list[PlannedTable]:
        """Return the tables of the closure that got rows, with the actions of another one."""
        found: list[PlannedTable] = []
        for kin in self._kin.values():
            if kin and self._connection.execute(f"SELECT count(*) FROM {kin.copied}").get:
                found.append(self._planned(kin, first_index + len(found), like))
        return found

    def _planned(self, kin: _Kin, index: int, like: PlannedTable) -> PlannedTable:
        rows = f"temp.pitr_rows_{index}"
        columns = tuple(name for name in kin.columns if name not in kin.key)
        self._fill(kin, rows, columns)
        counts = self._connection.execute(f"SELECT class, count(*) FROM {rows} GROUP BY class")

        def match(rows: str, _state: str, alias: str) -> str:
            return " AND ".join(
                f"{alias}.{quoted(name)} = {rows}.key_{at} COLLATE {collation}"
                for at, (name, collation) in enumerate(zip(kin.key, kin.collations, strict=True))
            )

        return replace(
            like,
            name=(kin.live or kin.past).name,
            before=kin.copied,
            rows=rows,
            key=kin.key,
            columns=columns,
            insert_columns=(*kin.key, *columns),
            before_names={name: name for name in kin.columns},
            match=match,
            counts={RowClass(str(name)): int(str(count)) for name, count in counts},
            keyless=False,
            drift=SchemaDrift(missing=kin.live is None),
            definition=kin.live or kin.past,
            created_by=None if kin.live else kin.past.sql,
            index_texts=()
            if kin.live
            else index_texts(self._connection, self._past, kin.past.name),
            sequence=None,
            values=(),
            is_rehearsed=False,
        )

    def _fill(self, kin: _Kin, rows: str, columns: Sequence[str]) -> None:
        """Put the rows under their classes: those that went are lost, those that forgot damaged."""
        names = ", ".join(f"key_{at} COLLATE {c}" for at, c in enumerate(kin.collations))
        plain = ", ".join(f"key_{at}" for at in range(len(kin.key)))
        self._connection.execute(f"DROP TABLE IF EXISTS {rows}")
        self._connection.execute(
            f"CREATE TABLE {rows} ({names}, class TEXT, mask TEXT, reason TEXT,"
            f" PRIMARY KEY ({plain})) WITHOUT ROWID"
        )
        keys = ", ".join(f"c.{quoted(name)}" for name in kin.key)
        lost = f"SELECT {keys}, '{RowClass.LOST}', '', NULL FROM {kin.copied} AS c"
        self._connection.execute(f"INSERT INTO {rows} {lost} WHERE {kin.absent('c')}")
        if kin.live is not None:
            live = f"main.{quoted(kin.live.name)}"
            verdict = f"'{RowClass.DAMAGED}', {self._mask(kin, columns)}"
            self._connection.execute(
                f"INSERT INTO {rows} SELECT {keys}, {verdict}, NULL"
                f" FROM {kin.copied} AS c JOIN {live} AS l ON {kin.same_row('l', 'c')}"
            )

    def _mask(self, kin: _Kin, columns: Sequence[str]) -> str:
        """Return the SQL of a mask: of a row that forgot its parent, the columns that named it."""
        forgetting = {
            name
            for key in self._past_keys.of(kin.past.name)
            if key.on_delete in _FORGETS
            for name in key.child_columns
        }
        marks = [
            f"iif(l.{quoted(name)} IS NOT c.{quoted(name)}, 'r', '.')"
            if name in forgetting
            else "'.'"
            for name in columns
        ]
        return balanced(marks, "||")
