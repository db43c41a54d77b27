"""Ask a table as it was at one moment: which of some row versions a condition is true for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import LiteralString, NamedTuple

from psycopg import errors
from psycopg.sql import SQL, Composed, Literal

from pitr.errors import UsageError
from pitr.postgres.replay.reader import connect_reader
from pitr.postgres.replay.server import RunningServer
from pitr.postgres.replay.sidecar_query import query
from pitr.postgres.replay.target_tables import Connection, TargetRelation
from pitr.vocabulary.diff_row import Value

# With more places than these the server finds the rows by the condition alone.
_PLACES_MAX = 1000
_FETCH_ROWS = 10_000

_FILES: LiteralString = """
SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid)
  FROM pg_catalog.pg_class c
 WHERE c.oid = %(table)s
    OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(%(table)s) t)
    OR c.oid IN (SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = %(table)s)
"""
_KEY: LiteralString = """
SELECT a.attname
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
 WHERE i.indrelid = %s AND i.indisprimary
 ORDER BY a.attnum
"""


class Place(NamedTuple):
    """Where a row version lies: file number, block, and number within the block."""

    file: int
    block: int
    offset: int


class ConditionUnknown(Exception):
    """The table of that moment lacks something that the condition names."""


@dataclass(frozen=True, slots=True)
class PastTable:
    """One table of a sidecar that runs, open to be asked by a role that can only read.

    `files` has its file's number, and those of its partitions, by OID.
    """

    connection: Connection
    table: TargetRelation
    files: dict[int, int]

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, started: RunningServer, database: str, table: TargetRelation
    ) -> Iterator[PastTable]:
        """Open a table for a block."""
        with contextlib.closing(connect_reader(started, database)) as connection:
            found = connection.execute(_FILES, {"table": table.oid}).fetchall()
            yield cls(connection, table, dict(found))

    def key_columns(self) -> tuple[str, ...]:
        """Return the columns of the primary key."""
        return tuple(name for (name,) in self.connection.execute(_KEY, (self.table.oid,)))

    def matches(self, condition: str, places: Iterable[Place] | None) -> Iterator[Place]:
        """Yield where rows are that a condition is true for.

        With `places` those there are among them, and perhaps others. Raises ConditionUnknown;
        UsageError with the server's words.
        """
        statement = self._select(SQL("tableoid::int8, ctid::text"), condition)
        wanted = list(islice(places, _PLACES_MAX + 1)) if places is not None else []
        if places is not None and len(wanted) <= _PLACES_MAX:
            texts = [f"({place.block},{place.offset})" for place in wanted]
            statement += SQL(" AND ctid = ANY ({}::tid[])").format(Literal(texts))
        with (
            self._said(),
            self.connection.transaction(),
            self.connection.cursor("pitr") as cursor,
        ):
            cursor.itersize = _FETCH_ROWS
            for oid, ctid in cursor.execute(statement):
                block, offset = ctid[1:-1].split(",")
                yield Place(self.files[oid], int(block), int(offset))

    def has_match(self, condition: str) -> bool:
        """Return whether a condition is true for any row. Raises what `matches` raises."""
        exists = SQL("SELECT EXISTS ({})").format(self._select(SQL("1"), condition))
        with self._said():
            found = self.connection.execute(exists).fetchone()
        return bool(found and found[0])

    def row_at(self, place: Place) -> dict[str, Value]:
        """Return the row at a place."""
        oid = next(oid for oid, number in self.files.items() if number == place.file)
        statement = SQL("SELECT * FROM {} WHERE tableoid = {} AND ctid = {}::tid").format(
            _as_sql(self.table.quoted), Literal(oid), Literal(f"({place.block},{place.offset})")
        )
        result = query(self.connection, statement.as_string(self.connection))
        return dict(zip(result.columns, next(iter(result.rows)), strict=True))

    def _select(self, what: SQL, condition: str) -> Composed:
        # The condition stands on lines of its own, so that a comment in it ends with it.
        return SQL("SELECT {} FROM {} WHERE (\n{}\n)").format(
            what, _as_sql(self.table.quoted), _as_sql(condition)
        )

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (errors.UndefinedColumn, errors.UndefinedFunction, errors.UndefinedTable) as error:
            raise ConditionUnknown(str(error).splitlines()[0]) from error
        except (errors.ProgrammingError, errors.DataError) as error:
            raise UsageError(
                "the condition cannot be asked",
                detail=str(error).splitlines()[0],
                hint="Give what could stand after WHERE: one condition on the table's columns.",
            ) from None


def _as_sql(text: str) -> SQL:
    return SQL(text)
