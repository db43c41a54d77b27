"""Make tables anew that are gone, within the transaction of a plan or a merge.

The definitions are pg_dump's, of the state before. First comes what rows need: types, tables,
sequences, defaults, keys and indexes. What could act on the rows, or holds of whole tables, comes
when they are in: foreign keys, triggers, rules, policies, comments, owner, grants. A partition of
a table that is still there is made in full and attached then, so that it keeps its own indexes.

A plan does the same and is rolled back; what comes later is tried there too, but for foreign keys,
which would lock the tables that they name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from pitr.errors import PitrError
from pitr.merge.fingerprint import fingerprint
from pitr.postgres.diff.states import States, table_there
from pitr.postgres.merge.dumped import DumpedDefinition, dumped_definitions
from pitr.postgres.tables.definition import Creation, ForeignKey, NewDefinition, Table
from pitr.postgres.tables.name import TableName, literal, quoted
from pitr.postgres.tables.reading import read_foreign_keys, read_table
from pitr.postgres.tables.session import (
    Connection,
    rows_of,
    run,
    set_local,
    statement_text,
    value_of,
)

_FOREIGN_KEY = "FK CONSTRAINT"
_FIRST = (
    "TYPE", "DOMAIN", "TABLE", "SEQUENCE", "SEQUENCE OWNED BY", "DEFAULT", "TABLE ATTACH",
    "CONSTRAINT", "CHECK CONSTRAINT", "INDEX", "INDEX ATTACH",
)  # fmt: skip
_TYPES = ("TYPE", "DOMAIN")
_LOCK_TIMEOUT = "5s"


def make_missing(states: States, tables: Sequence[TableName]) -> Creation | None:
    """Make those of these tables that live does not have, and partitions that they have lost.

    Return what was done, None when nothing is missing. What keeps it from being done is in
    `fault`; then nothing of it was.
    """
    assert states.before is not None
    missing = _missing(states, tables)
    if not missing:
        return None
    try:
        with _savepoint(states.live):
            return _Maker(states, missing).make()
    except psycopg.Error as error:
        return Creation(fault=_says(error), names=tuple(t.name for t in missing))
    except PitrError as error:
        return Creation(fault=error.sentence, names=tuple(t.name for t in missing))


def created_keys(states: States, tables: Sequence[Table]) -> list[ForeignKey]:
    """Return the foreign keys that tables made anew are to have, as live would have them.

    `tables` are as before. A key whose parent live does not have is left out, and not made.
    """
    assert states.before is not None
    own = {table.oid for table in tables}
    found = []
    for key in read_foreign_keys(states.before, own):
        if key.child_oid not in own:
            continue
        child, parent = (read_table(states.live, name) for name in (key.child, key.parent))
        if child is not None and parent is not None:
            found.append(replace(key, child_oid=child.oid, parent_oid=parent.oid))
    return found


def finish(live: Connection, creations: Sequence[Creation]) -> tuple[NewDefinition, ...]:
    """Do what comes when the rows are in; return what was made. Raises psycopg.Error."""
    for creation in creations:
        for statement in creation.later:
            run(live, statement)
    made = []
    for one in (one for creation in creations for one in creation.made):
        table = read_table(live, one.name) if one.kind == "table" else None
        made.append(replace(one, stamp=_stamp(table)) if table else one)
    return tuple(made)


def take_back(live: Connection, made: Sequence[NewDefinition]) -> tuple[tuple[str, ...], list[str]]:
    """Drop what a merge made, as long as nothing was done to it; return what went, and what not.

    A table goes only when it is empty and defined as the merge left it, and nothing depends on it.
    """
    together = _drop_together(live, [one for one in made if one.kind == "table"])
    gone, warnings = [str(one.name) for one in together], []
    for one in reversed(made):
        if one in together:
            continue
        reason = _kept_because(live, one)
        if reason is None:
            gone.append(str(one.name))
        elif reason:
            warnings.append(f"{one.name}: the merge had made it, and it stays: {reason}")
    return tuple(gone), warnings


def _drop_together(live: Connection, tables: Sequence[NewDefinition]) -> Sequence[NewDefinition]:
    """Drop tables that may refer to each other, if none has to stay; return those that went."""
    if len(tables) < 2 or any(_in_use(live, one) is not None for one in tables):
        return ()
    try:
        with _savepoint(live):
            run(live, f"DROP TABLE {', '.join(one.name.sql for one in tables)}")
    except psycopg.Error:
        return ()
    return tables


def _in_use(live: Connection, one: NewDefinition) -> str | None:
    """Return why a table stays, an empty text when it is not there, None when nothing is known."""
    table = read_table(live, one.name)
    if table is None:
        return ""
    if _stamp(table) != one.stamp:
        return "it was altered since"
    if value_of(live, f"SELECT EXISTS (SELECT FROM {one.name.sql})"):
        return "there are rows in it"
    return None


def _kept_because(live: Connection, one: NewDefinition) -> str | None:
    """Drop what was made, or return why it stays; an empty text: it is not there any more."""
    reason = _in_use(live, one) if one.kind == "table" else None
    if reason is not None:
        return reason
    name = quoted(one.name.schema) if one.kind == "schema" else one.name.sql
    try:
        with _savepoint(live):
            run(live, f"DROP {one.kind.upper()} IF EXISTS {name}")
    except psycopg.Error as error:
        return _says(error)
    return None


def _stamp(table: Table) -> str:
    """Return what stands for a table's definition."""
    columns = [[c.number, c.name, c.type, c.not_null, c.default] for c in table.columns]
    parts = [sorted(index.name for index in table.indexes), sorted(map(list, table.checks))]
    return fingerprint([table.oid, columns, *parts, sorted(t.name for t in table.triggers)])


def _missing(states: States, tables: Sequence[TableName]) -> list[Table]:
    """Return the tables, as before, that live does not have, each with its partitions behind it."""
    assert states.before is not None
    found: dict[TableName, Table] = {}
    for name in tables:
        before = read_table(states.before, name)
        if before is None or before.kind not in ("r", "p"):
            continue
        names = [name]
        if before.kind == "p":
            rows = rows_of(states.before, statement_text("table_partitions"), {"oid": before.oid})
            names += [TableName(*row) for row in rows]
        for one in names:
            table = read_table(states.before, one)
            if table is not None and table_there(states.live, table) is None:
                found[one] = table
    return list(found.values())


class _Maker:
    def __init__(self, states: States, missing: Sequence[Table]) -> None:
        assert states.before is not None
        self._states = states
        self._live, self._before = states.live, states.before
        self._missing = missing
        self._names = {(table.name.schema, table.name.name) for table in missing}
        self._made: list[NewDefinition] = []
        self._warnings: list[str] = []

    def make(self) -> Creation:
        if not value_of(self._live, "SELECT current_setting('lock_timeout')::interval > '0'"):
            set_local(self._live, {"lock_timeout": _LOCK_TIMEOUT})
        statements = [*self._schemas(), *self._types()]
        objects = list(dumped_definitions(self._dump([table.name for table in self._missing])))
        statements += [one.text for one in self._first(objects)]
        self._made += [NewDefinition("table", table.name) for table in self._missing]
        for statement in statements:
            run(self._live, statement)
        statements += self._sequences()
        later = [one for one in objects if one.kind not in _FIRST]
        return Creation(
            names=tuple(table.name for table in self._missing),
            statements=tuple(statements),
            later=(*self._keys(later), *self._tried(later)),
            made=tuple(self._made),
            warnings=(*self._warnings, *self._keys_to_it(), *self._around_it()),
        )

    def _dump(self, names: Sequence[TableName]) -> str:
        define = self._states.define
        if define is None:
            raise PitrError("nothing tells how the tables were defined")
        return define([name.sql for name in names])

    # --- what comes first ------------------------------------------------------------------------

    def _schemas(self) -> Iterator[str]:
        for schema in dict.fromkeys(table.name.schema for table in self._missing):
            known = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)"
            if not value_of(self._live, known, (schema,)):
                self._made.append(NewDefinition("schema", TableName(schema, "")))
                yield f"CREATE SCHEMA {quoted(schema)};"

    def _types(self) -> list[str]:
        """Return the statements that make the types that live does not have."""
        oids = [table.oid for table in self._missing]
        rows = rows_of(self._before, statement_text("table_types"), {"oids": oids})
        absent = {
            (schema, name)
            for schema, name in rows
            if value_of(self._live, "SELECT to_regtype(%s) IS NULL", (TableName(schema, name).sql,))
        }
        if not absent:
            return []
        chosen = [
            one
            for one in dumped_definitions(self._dump([]))
            if one.kind in _TYPES and (one.schema, one.name) in absent
        ]
        for one in chosen:
            kind = "domain" if one.kind == "DOMAIN" else "type"
            self._made.append(NewDefinition(kind, TableName(one.schema, one.name)))
        return [one.text for one in chosen]

    def _first(self, objects: Sequence[DumpedDefinition]) -> list[DumpedDefinition]:
        """Return what rows need; partitions of tables that are there are attached at the end."""
        first = [one for one in objects if one.kind in _FIRST]
        orphans = {table.name.name for table in self._missing if self._parent_is_there(table)}
        attached = [o for o in first if o.kind == "TABLE ATTACH" and o.name in orphans]
        # What ATTACH PARTITION finds alike it takes over; there is no index left to attach.
        indexes = [o for o in first if o.kind == "INDEX ATTACH" and self._is_there(o)]
        return [o for o in first if o not in attached and o not in indexes] + attached

    def _is_there(self, one: DumpedDefinition) -> bool:
        """Return whether live has the index that another is to be attached to."""
        index = one.text.removeprefix("ALTER INDEX ").partition(" ATTACH PARTITION ")[0]
        return bool(value_of(self._live, "SELECT to_regclass(%s) IS NOT NULL", (index,)))

    def _parent_is_there(self, table: Table) -> bool:
        rows = rows_of(
            self._before,
            "SELECT n.nspname, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhrelid = %s::bigint::oid",
            (table.oid,),
        )
        return any((schema, name) not in self._names for schema, name in rows)

    def _sequences(self) -> Iterator[str]:
        """Set the sequences that were made to what they were, or a little beyond: never behind."""
        for table in self._missing:
            now = read_table(self._live, table.name)
            names = {one.name for one in now.sequences} if now else set()
            for sequence in table.sequences:
                if sequence.name not in names:
                    continue
                last, called = rows_of(
                    self._before, f"SELECT last_value, is_called FROM {sequence.name.sql}"
                )[0]
                statement = (
                    f"SELECT pg_catalog.setval({literal(sequence.name.sql)}, {last},"
                    f" {str(called).lower()});"
                )
                run(self._live, statement)
                yield statement

    # --- what comes later ------------------------------------------------------------------------

    def _keys(self, later: Sequence[DumpedDefinition]) -> Iterator[str]:
        there = created_keys(self._states, self._missing)
        names = {f"{key.child.name} {key.name}" for key in there}
        for one in later:
            if one.kind != _FOREIGN_KEY:
                continue
            if one.name in names:
                yield one.text
            else:
                self._warnings.append(
                    f"the foreign key {one.name.split(' ', 1)[-1]} of {one.schema}."
                    f"{one.name.split(' ', 1)[0]} is not made again: its parent is gone"
                )

    def _tried(self, later: Sequence[DumpedDefinition]) -> list[str]:
        """Return what works of all the rest, after trying it."""
        others = [one.text for one in later if one.kind != _FOREIGN_KEY]
        statements = [*self._owners(), *others]
        works = []
        run(self._live, "SAVEPOINT pitr_trial")
        for statement in statements:
            try:
                with _savepoint(self._live):
                    run(self._live, statement)
                works.append(statement)
            except psycopg.Error as error:
                line = statement.splitlines()[0]
                self._warnings.append(f"not made again, since {_says(error)}: {line}")
        run(self._live, "ROLLBACK TO SAVEPOINT pitr_trial")
        return works

    def _owners(self) -> Iterator[str]:
        role = str(value_of(self._live, "SELECT current_user"))
        for table in self._missing:
            if table.owner != role:
                yield f"ALTER TABLE {table.name.sql} OWNER TO {quoted(table.owner)};"

    def _keys_to_it(self) -> Iterator[str]:
        """Name the foreign keys of other tables that were dropped with these."""
        oids = {table.oid for table in self._missing}
        for key in read_foreign_keys(self._before, oids):
            if key.child_oid in oids or read_table(self._live, key.child) is None:
                continue
            text = value_of(
                self._before,
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE conname = %s AND conrelid = %s::bigint::oid",
                (key.name, key.child_oid),
            )
            yield (
                f"{key.child}: its foreign key to {key.parent} went with the table and is not made"
                f" again: ALTER TABLE {key.child.sql} ADD CONSTRAINT {quoted(key.name)} {text};"
            )

    def _around_it(self) -> Iterator[str]:
        """Name publications that had these tables, and views that read them and went with them."""
        for table in self._missing:
            now = read_table(self._live, table.name)
            published = {*table.changes_published_by, *table.inserts_published_by}
            if now is not None:
                published -= {*now.changes_published_by, *now.inserts_published_by}
            for publication in sorted(published):
                yield (
                    f"{table.name}: it is not in the publication {publication} again: ALTER"
                    f" PUBLICATION {quoted(publication)} ADD TABLE {table.name.sql};"
                )
            views = rows_of(self._before, statement_text("table_views"), {"oid": table.oid})
            for schema, name in views:
                view = TableName(schema, name)
                if read_table(self._live, view) is None:
                    yield f"{table.name}: the view {view} of it is gone, too, and not made again"


@contextmanager
def _savepoint(live: Connection) -> Iterator[None]:
    run(live, "SAVEPOINT pitr_making")
    try:
        yield
    except BaseException:
        if not live.closed:
            run(live, "ROLLBACK TO SAVEPOINT pitr_making")
        raise
    run(live, "RELEASE SAVEPOINT pitr_making")


def _says(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).splitlines()[0]
