"""Surgical replay: chosen tables as they were, recovered by PostgreSQL's own redo.

    pass 1   the catalogs alone are recovered to the target, and asked which tables there are and
             which files they and the catalogs have there
    pass 2   the tables are recovered, beside the catalogs of pass 1, into the sidecar that stays

Each pass is a sparse data directory with distilled WAL, replayed by a private server. No page is
ignored (`ignore_invalid_pages` is off): every record of a relation that is not there is filtered,
so a missing page means damage or a bug of ours, and ends in an error.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from pitr.errors import (
    ArchiveLacks,
    IdentityMismatch,
    OutsideWindow,
    SidecarFailed,
    TableUnknown,
    UsageError,
)
from pitr.postgres.base.contents import Base
from pitr.postgres.base.control import (
    CONTROL_PATH,
    BackupLabel,
    ControlFile,
    parse_backup_label,
    parse_control,
)
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.replay import datadir
from pitr.postgres.replay.catalog_rest import CatalogsAtRest
from pitr.postgres.replay.reader import (
    condition_refused,
    connect_reader,
    roll_back_prepared,
)
from pitr.postgres.replay.server import (
    RunningServer,
    ServerAccount,
    ServerBinaries,
    ServerFolder,
    running,
)
from pitr.postgres.replay.settled import is_settled, take_over
from pitr.postgres.replay.target_tables import (
    Connection,
    KinWish,
    TargetRelation,
    catalog_files,
    choose_tables,
    named_relations,
    needed_relations,
    owning_table,
    require_recoverable,
    search_path,
    tablespaces,
)
from pitr.postgres.selection.by_index import IndexedWindow, select_by_index
from pitr.postgres.selection.by_wal import WalWindow, distillation, select_records
from pitr.postgres.wal.distill import distil
from pitr.postgres.wal.history import format_history
from pitr.postgres.wal.select import Selection
from pitr.postgres.wal.wanted import WantedFiles
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.vocabulary.position import Lsn

_PASSES_MAX = 6
# For pass 2, which writes over it.
_KEEPS_WAL = {"wal_keep_size": "1TB"}
# Chooses tables on a server with the catalogs; the connection is a superuser's.
File = tuple[int, int]
ChooseTables = Callable[[RunningServer, Connection], list[TargetRelation]]


@dataclass(frozen=True, slots=True)
class StopPoint:
    """Where a recovery stops: before the record at this LSN of this timeline."""

    timeline: int
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """A base backup and the WAL after it, judged to belong together."""

    base: Base
    wal: ArchivedWal
    control: ControlFile
    label: BackupLabel

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were read from both so far."""
        return self.base.bytes_read + self.wal.bytes_read


def open_source(base: Base, wal: ArchivedWal) -> ReplaySource:
    """Judge a base and WAL. Raises IdentityMismatch when they are of different clusters."""
    control = parse_control(base.read_file(CONTROL_PATH))
    found = (str(control.system_identifier), control.major, control.wal_segment_bytes)
    of_wal = (wal.system_identifier, wal.major, wal.segment_bytes)
    if found != of_wal:
        raise IdentityMismatch(
            "the base backup and the WAL are of different clusters",
            detail=f"The backup is of {found[0]}, PostgreSQL {found[1]}; the WAL is of "
            f"{of_wal[0]}, PostgreSQL {of_wal[1]}.",
            hint="Name the WAL of the cluster that was backed up.",
        )
    label = parse_backup_label(base.backup_label.decode(errors="replace"))
    return ReplaySource(base, wal, control, label)


@dataclass(frozen=True, slots=True)
class ServerTools:
    """What a private server is run with."""

    binaries: ServerBinaries
    account: ServerAccount


@dataclass(frozen=True, slots=True)
class CatalogState:
    """What the catalogs at the target say, and what the recovery of tables goes by.

    `kin` are the tables that come along for the foreign keys of `tables`, and their partitions.
    `own_files` are those of all of them, `catalog_files` those of the database's catalogs, both as
    (tablespace, number). `touched` are the transactions that wrote to the catalogs, `templates`
    what the database was copied from after the base backup.
    """

    database: str
    oid: int
    superuser: str
    tables: tuple[TargetRelation, ...]
    kin: tuple[TargetRelation, ...]
    own_files: frozenset[tuple[int, int]]
    catalog_files: frozenset[tuple[int, int]]
    tablespaces: tuple[int, ...]
    touched: frozenset[int]
    templates: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class ReplayedTables:
    """A recovered server, stopped, with the rows of its tables by OID, and what it took.

    `wal_bytes` is the size of the distilled WAL.
    """

    server: ServerFolder
    catalogs: CatalogState
    rows: dict[int, int]
    selection: Selection
    wal_bytes: int


class Replay:
    """One recovery to one stop: its passes share the source, the tools and a folder for them."""

    def __init__(
        self,
        source: ReplaySource,
        stop: StopPoint,
        tools: ServerTools,
        folder: Path,
        index: WalIndex | None = None,
    ) -> None:
        """Take what the passes share; `folder` exists, and the servers' account can reach it.

        With an index only the records that are kept are read of the WAL, without one all of it.
        Raises OutsideWindow when the base is no backup from before the stop.
        """
        self._source = source
        self._stop = stop
        self._tools = tools
        self._folder = folder
        self._settled: ServerFolder | None = None
        self._window = WalWindow(
            source.wal,
            stop.timeline,
            source.label.redo.value,
            stop.lsn.value,
            source.control.next_xid,
        )
        self._indexed = IndexedWindow(self._window, index) if index is not None else None
        end = source.base.info.end
        if stop.lsn < (end or source.label.checkpoint):
            raise OutsideWindow(
                "the target lies before the end of the base backup",
                detail=f"The backup is usable from {end or source.label.checkpoint} on, the target "
                f"is {stop.lsn}.",
                hint="Choose a later target, or an earlier base backup.",
            )

    # --- pass 1

    def find_tables(
        self,
        database: str,
        names: Sequence[str],
        *,
        kin: KinWish | None = None,
        may_lack: bool = False,
    ) -> CatalogState:
        """Recover the catalogs, and return what they say of the tables of these names.

        With `may_lack` a table that is not there is left out. Raises TableUnknown, UsageError for
        names; SidecarFailed.
        """

        def choose_named(started: RunningServer, connection: Connection) -> list[TargetRelation]:
            known, path = named_relations(connection), search_path(connection)
            if not may_lack:
                return choose_tables(known, names, path)
            return [table for name in names for table in _choose_there(known, name, path)]

        return self.find_chosen(database, choose_named, kin=kin)

    def find_chosen(
        self, database: str, choose: ChooseTables, *, kin: KinWish | None = None
    ) -> CatalogState:
        """Recover the catalogs, and return what they say of the tables that `choose` returns.

        Raises what it raises, UsageError for the database, SidecarFailed.
        """
        at_rest = CatalogsAtRest.of_base(self._source.base)
        oid = at_rest.databases().get(database)
        wanted = _catalogs_of(at_rest, oid)
        for _ in range(_PASSES_MAX):
            selection = self._select(wanted)
            # What a database was copied from may be a copy itself.
            while selection.templates - wanted.templates:
                wanted = wanted.with_templates(selection.templates)
                selection = self._select(wanted)
            self._require_templates(selection)
            if missing := wanted.lacking(selection.mapped):
                wanted = wanted.with_files(missing)
                continue
            with self._recovered_catalogs(wanted, selection) as started:
                at_rest = CatalogsAtRest.of_server(started.server)
                found = at_rest.databases().get(database)
                if found is None:
                    raise _no_database(database, at_rest)
                missing = wanted.lacking(at_rest.catalog_files(found)) if found == oid else set()
                if found == oid and not missing:
                    request = _TableRequest(database, found, choose, kin or KinWish())
                    known = _ask(started.as_user(at_rest.superuser()), request)
                    self._settled = started.server
                    return replace(
                        known,
                        touched=frozenset(selection.touched),
                        templates=wanted.templates,
                    )
            # A catalog was moved, or the name is of another database than it was in the base.
            wanted = wanted.with_files(missing) if missing else _catalogs_of(at_rest, found)
            oid = found
        raise SidecarFailed(
            "the catalogs at the target cannot be found",
            detail=f"After {_PASSES_MAX} recoveries files are still missing: {missing}.",
            hint="Choose another target, and report this.",
        )

    def find_absent(
        self, catalogs: CatalogState, started: RunningServer, file: File
    ) -> CatalogState:
        """Return what to recover instead, so that the table is there that a file is of.

        Raises UsageError when its rows cannot be recovered.
        """
        with contextlib.closing(started.connect(catalogs.database)) as connection:
            table = owning_table(connection, file)
            require_recoverable(table)
            needed = needed_relations(connection, [table], KinWish())
        files = {relation.file for relation in needed if relation.file}
        return replace(catalogs, own_files=catalogs.own_files | files)

    def has_same_catalogs(self, catalogs: CatalogState, since: Lsn) -> bool:
        """Return whether the catalogs at an earlier stop, `since`, are those at this one.

        Then what they said there holds here, and pass 1 can be left out.
        """
        wanted = WantedFiles(catalogs.oid, catalogs.catalog_files)
        runs = self._select(wanted).runs
        return not runs or runs[-1].last < since.value

    # --- pass 2

    def recover(
        self, catalogs: CatalogState, folder: Path, where: str | None = None
    ) -> ReplayedTables:
        """Recover the tables into a server's data directory in `folder`, which is made.

        Their rows are counted, with `where` those that it is true for. The server is stopped again.
        Raises SidecarFailed, and what reading base and WAL raises.
        """
        server = self._server(folder, catalogs.superuser)
        selection, wal_bytes = self._build_tables(server, catalogs)
        with running(server) as started:
            with contextlib.closing(started.connect(catalogs.database)) as connection:
                roll_back_prepared(connection)
                if where is None:
                    rows = _counts(connection, catalogs, "")
            if where is not None:
                rows = _counts_where(started, catalogs, where)
            datadir.settle(server, self._settings(selection))
        return ReplayedTables(server, catalogs, rows, selection, wal_bytes)

    @contextlib.contextmanager
    def asked(
        self, catalogs: CatalogState, settings: Mapping[str, str] | None = None
    ) -> Iterator[RunningServer]:
        """Recover the tables into a server that runs for the block only; raises as `recover`.

        `settings` are the server's, besides those of every sidecar.
        """
        server = self._server(self._folder / "asked", catalogs.superuser)
        try:
            self._build_tables(server, catalogs, settings)
            with running(server, keep_changes=False) as started:
                with contextlib.closing(started.connect(catalogs.database)) as connection:
                    roll_back_prepared(connection)
                yield started
        finally:
            shutil.rmtree(server.folder, ignore_errors=True)

    def _build_tables(
        self,
        server: ServerFolder,
        catalogs: CatalogState,
        settings: Mapping[str, str] | None = None,
    ) -> tuple[Selection, int]:
        """Make the data directory of pass 2; return what it needs of the WAL, and its bytes."""
        if self._has_taken_catalogs(server, catalogs):
            files = catalogs.own_files - catalogs.catalog_files
            wanted = WantedFiles(catalogs.oid, files, has_shared=False)
        else:
            wanted = WantedFiles(
                catalogs.oid,
                catalogs.own_files | catalogs.catalog_files,
                templates=catalogs.templates,
            )
        selection = self._select(wanted, catalogs.touched)
        places = catalogs.tablespaces
        return selection, self._build(server, wanted, selection, places, settings)

    def _has_taken_catalogs(self, server: ServerFolder, catalogs: CatalogState) -> bool:
        """Take the catalogs of pass 1 into a new server's folder, where they are good for that.

        Not those of a database that is copied as a whole when its creation is replayed.
        """
        settled, self._settled = self._settled, None
        if settled is None:
            return False
        if not catalogs.templates and is_settled(settled, self._stop.lsn.value):
            take_over(settled, server, self._stop.timeline)
            return True
        shutil.rmtree(settled.folder)
        return False

    # --- a pass

    def _select(self, wanted: WantedFiles, touched: Collection[int] = ()) -> Selection:
        if self._indexed is None:
            selection = select_records(self._window, wanted, touched)
        else:
            paths = self._source.base.files()
            selection = select_by_index(self._indexed, wanted, paths, touched)
        if selection.backup_end is None and not self._source.label.from_standby:
            raise OutsideWindow(
                "the target lies before the end of the base backup",
                detail=f"The WAL up to {self._stop.lsn} does not record that the backup ended.",
                hint="Choose a later target, or an earlier base backup.",
            )
        return selection

    def _require_templates(self, selection: Selection) -> None:
        """Raise when files were copied from a database that neither base nor WAL has."""
        copied = selection.templates - selection.created
        if not copied:  # nearly always, and the files of a base are many
            return
        at_rest = CatalogsAtRest.of_base(self._source.base)
        for place in copied:
            if at_rest.database_place(place[1]) is None:
                raise ArchiveLacks(
                    "the database is a copy of one that is not in the base backup",
                    detail="That was dropped while the backup was taken. The WAL says that its "
                    "files were copied, and not what was in them.",
                    hint="Choose a later base backup; 'pitr backup' takes one.",
                )

    @contextlib.contextmanager
    def _recovered_catalogs(
        self, wanted: WantedFiles, selection: Selection
    ) -> Iterator[RunningServer]:
        """Recover into a folder that is removed behind the block, unless it is noted as settled."""
        server = self._server(self._folder / "catalogs", "postgres")
        try:
            self._build(server, wanted, selection, (), _KEEPS_WAL)
            with running(server, keep_changes=False) as started:
                yield started
        finally:
            if self._settled is None:
                shutil.rmtree(server.folder, ignore_errors=True)

    def _server(self, folder: Path, superuser: str) -> ServerFolder:
        folder.mkdir(mode=0o700)
        self._tools.account.own(folder)
        return ServerFolder(folder, self._tools.binaries, self._tools.account, superuser)

    def _build(
        self,
        server: ServerFolder,
        wanted: WantedFiles,
        selection: Selection,
        tablespaces: Sequence[int],
        more_settings: Mapping[str, str] | None = None,
    ) -> int:
        """Make the data directory of a pass; return the size of its WAL in bytes."""
        has_history = bool(self._source.wal.history(self._stop.timeline))
        recovery = datadir.recovery_settings(
            str(Lsn(selection.stop)),
            timeline=str(self._stop.timeline) if has_history else "current",
        )
        settings = {**self._settings(selection), **recovery, **(more_settings or {})}
        base = self._source.base
        with datadir.space_reported(server.folder):
            datadir.build(server, base, wanted, tablespaces=tablespaces, settings=settings)
            xid = self._source.control.next_xid
            datadir.extend_commit_log(server, xid, selection.zero_pages)
            if has_history:
                entries = self._source.wal.history(self._stop.timeline)
                datadir.write_history(server, self._stop.timeline, format_history(entries))
            segments = distil(distillation(self._window, selection), self._window.read)
            return datadir.write_wal(server, segments, self._source.wal.segment_bytes)

    def _settings(self, selection: Selection) -> dict[str, str]:
        control = self._source.control
        prepared = max(control.max_prepared_transactions, selection.max_prepared_transactions)
        return datadir.sidecar_settings(control, max_prepared_transactions=prepared)


@dataclass(frozen=True, slots=True)
class _TableRequest:
    database: str
    oid: int
    choose: ChooseTables
    kin: KinWish


def _choose_there(
    known: Sequence[TargetRelation], name: str, path: Sequence[str]
) -> list[TargetRelation]:
    try:
        return choose_tables(known, [name], path)
    except TableUnknown:
        return []


def _catalogs_of(at_rest: CatalogsAtRest, database: int | None) -> WantedFiles:
    """Return what a pass over the catalogs of a database wants, as far as is known."""
    if database is None:
        return WantedFiles()
    return WantedFiles(database, frozenset(at_rest.catalog_files(database)), has_catalogs=True)


def _no_database(database: str, at_rest: CatalogsAtRest) -> UsageError:
    return UsageError(
        f"there is no database {database} at the target",
        detail=f"There are {', '.join(sorted(at_rest.databases()))}.",
        hint="Choose another one with --database, or another target.",
    )


def _ask(started: RunningServer, request: _TableRequest) -> CatalogState:
    """Ask the catalogs of a server at the target for tables and files."""
    with contextlib.closing(started.connect(request.database)) as connection:
        tables = request.choose(started, connection)
        needed = needed_relations(connection, tables, request.kin)
        chosen = {table.oid for table in tables}
        own = {relation.file for relation in needed if relation.file}
        return CatalogState(
            database=request.database,
            oid=request.oid,
            superuser=started.server.superuser,
            tables=tuple(tables),
            kin=tuple(one for one in needed if one.kind in "rp" and one.oid not in chosen),
            own_files=frozenset(own),
            catalog_files=frozenset(catalog_files(connection)),
            tablespaces=tuple(tablespaces(connection)),
            touched=frozenset(),
        )


def _counts(connection: Connection, catalogs: CatalogState, ending: str) -> dict[int, int]:
    """Return how many rows each table has, its children's included."""
    rows = {}
    for table in catalogs.tables:
        statement = f"SELECT count(*) FROM {table.quoted}{ending}"
        found = connection.execute(statement.encode()).fetchone()
        assert found is not None
        rows[table.oid] = int(found[0])
    return rows


def _counts_where(started: RunningServer, catalogs: CatalogState, where: str) -> dict[int, int]:
    """Return how many rows of each table a condition is true for, asked by the reading role."""
    with contextlib.closing(connect_reader(started, catalogs.database)) as reader:
        try:
            return _counts(reader, catalogs, f" WHERE {where}")
        except psycopg.Error as error:
            raise condition_refused(error) from None
