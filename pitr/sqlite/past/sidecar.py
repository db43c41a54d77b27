"""Write tables of the past into a new SQLite file, the sidecar.

The rows go from the past to the sidecar inside SQLite, in one statement a table:

    1  a connection to the sidecar alone creates the tables, by the texts of the time
    2  a connection whose main database is the past attaches the sidecar and copies, so that a
       condition, with its subselects, sees nothing but the past
    3  a connection to the sidecar alone creates the indexes

The file gets its name at the end and whole; until then it has a temporary name beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from pitr import durable
from pitr.errors import CorruptDatabase, PreconditionFailed, UsageError
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.past.creation import Creation, create, creation_of
from pitr.sqlite.past.replay import allow_signals, attach, connect, past_pages, past_uri
from pitr.sqlite.past.tables import PastTable, find_tables, root_pages
from pitr.sqlite.statement.expression import check_expression
from pitr.sqlite.statement.faults import sqlite_faults
from pitr.sqlite.statement.tokens import quoted, statement_tokens
from pitr.sqlite.statement.virtual import SHADOW_SUFFIXES


@dataclass(frozen=True, slots=True)
class RestoredTable:
    """One table of a sidecar, the rows it got, and what could not be brought back as it was."""

    table: str
    rows: int
    warnings: tuple[str, ...]


def restore_tables(
    past: apsw.Connection,
    tables: Sequence[str],
    destination: Path,
    *,
    where: str | None = None,
    explain_absence: Callable[[str], str | None] | None = None,
) -> list[RestoredTable]:
    """Write the tables, as they were, into a new file; the results in the order of the names.

    With columns, constraints, indexes and AUTOINCREMENT values, without triggers and views;
    foreign keys are declared, not enforced. `past` is a connection of `open_past`. `where` is one
    condition that must make sense for every table. The file has mode 0600.

    Raises TableUnknown and UsageError (see `find_tables`, `check_expression`), PreconditionFailed
    when the destination exists or cannot be written, CorruptObject, ObjectMissing, CorruptDatabase
    from reading the past. On any error there is no file.
    """
    chosen = find_tables(past, tables, explain_absence=explain_absence)
    _check_virtual(chosen)
    if where is not None:
        for table in chosen:
            if not _is_rebuilt(table):
                where = check_expression(past, table.name, where)
    with _published(destination) as temporary, sqlite_faults(f"cannot restore to {destination}"):
        return _write(past, chosen, temporary, where)


def open_sidecar(path: Path) -> apsw.Connection:
    """Open a sidecar for reading only; close it with its own `close`."""
    with sqlite_faults(f"cannot open {path}"):
        return connect(f"{path.absolute().as_uri()}?mode=ro", writable_others=False)


# --- what can come back ------------------------------------------------------------------------


def _check_virtual(chosen: Sequence[PastTable]) -> None:
    names = {table.name.lower() for table in chosen}
    for table in chosen:
        if table.virtual is None:
            continue
        if table.virtual.module not in SHADOW_SUFFIXES:
            raise UsageError(
                f"the virtual table {table.name} cannot be restored",
                detail=f"Its module {table.virtual.module} shows rows that rest elsewhere.",
                hint="Restore the tables that it shows.",
            )
        if table.virtual.content == "":
            raise UsageError(
                f"the full-text index {table.name} cannot be restored",
                detail="It is contentless: only the index was kept, never the text.",
                hint="Restore the tables that it was made from, and make it anew.",
            )
        if table.virtual.content and table.virtual.content.lower() not in names:
            raise UsageError(
                f"the full-text index {table.name} cannot be restored by itself",
                detail=f"Its rows are those of {table.virtual.content}.",
                hint=f"Restore both: -t {table.virtual.content} -t {table.name}",
            )


def _is_rebuilt(table: PastTable) -> bool:
    """Return whether the table is an index over another one, built anew once that has its rows."""
    return bool(table.virtual and table.virtual.content)


# --- the file ----------------------------------------------------------------------------------


@contextmanager
def _published(destination: Path) -> Iterator[Path]:
    """Give the name of an empty file to write; at the end it takes the name `destination`."""
    _check_free(destination)
    temporary = durable.temporary_beside(destination)
    try:
        durable.sweep(destination.parent)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield temporary
        durable.publish_new(temporary, destination)
    except FileExistsError:
        raise _exists(destination) from None
    except OSError as error:
        raise PreconditionFailed(
            f"cannot write {destination}", detail=f"The system says: {error.strerror}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            durable.remove(temporary)


def _check_free(destination: Path) -> None:
    if os.path.lexists(destination):
        raise _exists(destination)


def _exists(destination: Path) -> PreconditionFailed:
    return PreconditionFailed(
        f"{destination} exists already",
        detail="A restore never overwrites a file.",
        hint="Name another file with --to, or move this one away.",
    )


# --- the content -------------------------------------------------------------------------------


def _write(
    past: apsw.Connection, chosen: Sequence[PastTable], path: Path, where: str | None
) -> list[RestoredTable]:
    creations = {table.name: creation_of(past, table) for table in chosen}
    _create_tables(past, path, [creation.sql for creation in creations.values()])
    rows = _copy_tables(past, path, chosen, creations, where)
    losses = _create_indexes(past, path, chosen)
    return [
        RestoredTable(
            table.name, rows[table.name], creations[table.name].warnings + losses[table.name]
        )
        for table in chosen
    ]


def _create_tables(past: apsw.Connection, path: Path, statements: Sequence[str]) -> None:
    with closing(_connect_alone(path)) as sidecar:
        sidecar.pragma("page_size", past.pragma("page_size"))
        sidecar.pragma("encoding", past.pragma("encoding"))
        _write_carelessly(sidecar, "main")
        for statement in statements:
            create(sidecar, statement)


def _connect_alone(path: Path) -> apsw.Connection:
    """Open the new file without what `connect` adds: a collation nobody knows must be refused."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"{path.absolute().as_uri()}?mode=rw", flags=flags)


def _write_carelessly(connection: apsw.Connection, schema: str) -> None:
    """Write without syncs and journal file: the file is synced once, before it gets its name."""
    connection.pragma("journal_mode", "memory", schema=schema)
    connection.pragma("synchronous", 0, schema=schema)


def _copy_tables(
    past: apsw.Connection,
    path: Path,
    chosen: Sequence[PastTable],
    creations: dict[str, Creation],
    where: str | None,
) -> dict[str, int]:
    with closing(connect(past_uri(past), writable_others=True)) as copier:
        attach(copier, path, "side", writable=True)
        _write_carelessly(copier, "side")
        copier.pragma("ignore_check_constraints", True)
        copier.pragma("foreign_keys", False)
        # The text of an index on another table comes after that table, whatever the order given.
        order = sorted(chosen, key=_is_rebuilt)
        return {
            table.name: _copy(copier, past, table, creations[table.name], where) for table in order
        }


def _copy(
    copier: apsw.Connection,
    past: apsw.Connection,
    table: PastTable,
    creation: Creation,
    where: str | None,
) -> int:
    target = f"side.{quoted(table.name)}"
    if _is_rebuilt(table) and creation.is_exact:
        name = quoted(table.name)
        copier.execute(f"INSERT INTO {target}({name}) VALUES ('rebuild')")
    else:
        statement = _copy_statement(table, creation, where)
        if _reads_everything(copier, statement):
            past_pages(past).expect(_row_pages(past, table))
        copier.execute(statement)
        past_pages(past).expect(())
    if table.has_autoincrement:
        _copy_sequence(copier, table.name)
    return int(str(copier.execute(f"SELECT count(*) FROM {target}").get))


def _copy_statement(table: PastTable, creation: Creation, where: str | None) -> str:
    """Return the INSERT. Under the same text SQLite copies `SELECT *` record by record, undecoded;

    it can where the row's key is in its columns and none of them is computed.
    """
    target = f"INSERT INTO side.{quoted(table.name)}"
    source = f"FROM main.{quoted(table.name)}"
    has_key = table.integer_key or "WITHOUT" in table.options
    is_plain = len(creation.columns) == len(table.columns) and not table.virtual
    if creation.is_exact and is_plain and has_key and where is None:
        return f"{target} SELECT * {source}"
    names = ", ".join(_written_columns(table, creation))
    condition = f" WHERE (\n{where}\n)" if where else ""
    return f"{target}({names}) SELECT {names} {source}{condition}"


def _written_columns(table: PastTable, creation: Creation) -> list[str]:
    names = [quoted(name) for name in creation.columns]
    if table.virtual and creation.is_exact:
        extra = (table.virtual.key_column, table.virtual.language_column)
        return [*(quoted(name) for name in extra if name), *names]
    if table.virtual:
        return ["rowid", *names]
    if table.rowid_name and not table.integer_key:
        return [table.rowid_name, *names]
    return names


def _reads_everything(copier: apsw.Connection, statement: str) -> bool:
    plan = copier.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    return not any(
        parent == 0 and str(detail).startswith("SEARCH") for _, parent, _, detail in plan
    )


def _row_pages(past: apsw.Connection, table: PastTable) -> list[int]:
    """Return the pages that hold the rows; fewer where the tree is damaged, as SQLite will say."""
    roots = [table.root_page]
    if table.virtual:
        roots = root_pages(past, table.name, table.virtual.row_shadows)
    snapshot = Snapshot(past_pages(past).source)
    found: list[int] = []
    with contextlib.suppress(CorruptDatabase):
        for root in roots:
            found += snapshot.row_pages(root)
    return found


def _copy_sequence(copier: apsw.Connection, table_name: str) -> None:
    copier.execute("DELETE FROM side.sqlite_sequence WHERE name = ?", (table_name,))
    copier.execute(
        "INSERT INTO side.sqlite_sequence(name, seq)"
        " SELECT name, seq FROM main.sqlite_sequence WHERE name = ?",
        (table_name,),
    )


def _create_indexes(
    past: apsw.Connection, path: Path, chosen: Sequence[PastTable]
) -> dict[str, tuple[str, ...]]:
    with closing(_connect_alone(path)) as sidecar:
        _write_carelessly(sidecar, "main")
        allow_signals(sidecar)
        return {table.name: _indexes_of(past, sidecar, table) for table in chosen}


def _indexes_of(
    past: apsw.Connection, sidecar: apsw.Connection, table: PastTable
) -> tuple[str, ...]:
    """Create the indexes of one table; return a warning for each that cannot be built here."""
    entries = past.execute(
        "SELECT name, sql FROM main.sqlite_schema"
        " WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL ORDER BY rowid",
        (table.name,),
    ).fetchall()
    warnings = []
    for name, sql in entries:
        try:
            statement_tokens(str(sql))  # one statement, whatever the schema says
            sidecar.execute(str(sql))
        except (apsw.SQLError, apsw.ConstraintError) as error:
            warnings.append(f"{table.name}: the index {name} is left out ({error})")
    return tuple(warnings)
