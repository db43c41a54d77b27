"""Select the records of the wanted relations by the index of the WAL, without reading the WAL.

The same selection as `by_wal.select_records` makes, from the rows of the index. Only those
records are read whose payload is needed: about the cluster, and of prepared transactions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pitr.postgres.index.rows import RowKind
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.selection.by_wal import WalWindow, last_boundary, selector_of
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal.select import Selection
from pitr.postgres.wal.transaction import OPERATION_MASK, PREPARE
from pitr.postgres.wal.versions import RM_XACT
from pitr.postgres.wal.wanted import DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, WantedFiles
from pitr.vocabulary.position import Lsn

_SYSTEM = ("lsn", "length", "kind", "rmgr", "info", "xid")
_OF_FILE = ("lsn", "length", "kind", "xid")
_RELATION = re.compile(
    r"(?:global|base/(?P<database>\d+)|pg_tblspc/(?P<tablespace>\d+)/PG_\w+/(?P<elsewhere>\d+))/"
    r"(?P<number>\d+)"
)


def select_by_index(
    window: WalWindow, wanted: WantedFiles, index: WalIndex, paths: Iterable[str]
) -> Selection:
    """Return what a recovery of the wanted relations needs of the WAL.

    `paths` are the files of the base backup: of what is wanted by rule and not by name, they say
    which files there are. Raises ArchiveGap, CorruptWal, CorruptObject.
    """
    selector = selector_of(window, wanted)
    begin, end = Lsn(window.redo), Lsn(window.stop)
    chosen: dict[int, tuple[int, int]] = {}
    ends: dict[int, tuple[int, int]] = {}
    xids: dict[int, list[int]] = defaultdict(list)
    for rows in index.system_rows(window.timeline, begin, end, _SYSTEM):
        selector.selection.scanned_records += len(rows)
        for lsn, length, kind, manager, info, xid in rows.select(*_SYSTEM):
            if manager == RM_XACT:
                xids[lsn].append(xid)
                if kind == RowKind.RECORD:
                    ends[lsn] = (length, info)
            elif selector.is_state(manager) or (
                selector.is_readable(manager, info)
                and selector.is_kept(lsn, manager, window.record(lsn, length))
            ):
                chosen[lsn] = (length, xid)
    files = dict.fromkeys(_files(wanted, selector.selection, paths))
    for rows in index.relation_rows(window.timeline, begin, end, files, _OF_FILE):
        for lsn, length, kind, xid in rows.select(*_OF_FILE):
            if kind != RowKind.DROPPED:
                chosen[lsn] = (length, xid)
    selector.touch(xid for _, xid in chosen.values())
    for lsn, (length, info) in ends.items():
        if info & OPERATION_MASK == PREPARE:
            is_wanted = selector.ends_wanted(lsn, window.record(lsn, length))
        else:
            is_wanted = selector.is_end(info) and any(map(selector.is_wanted, xids[lsn]))
        if is_wanted:
            chosen[lsn] = (length, 0)
    selector.selection.stop = last_boundary(window)
    selector.add_records((lsn, chosen[lsn][0]) for lsn in sorted(chosen))
    return selector.selection


def _files(
    wanted: WantedFiles, selection: Selection, paths: Iterable[str]
) -> Iterator[RelationFile]:
    """Yield every relation file that is wanted and that may have records."""
    database = wanted.database or 0
    for tablespace, number in wanted.files:
        yield RelationFile(tablespace, database, number)
    for number in selection.shared_mapped:
        yield RelationFile(GLOBAL_TABLESPACE, 0, number)
    for path in paths:
        match = _RELATION.match(path)
        if match is None:
            continue
        number = int(match["number"])
        if path.startswith("global/"):
            yield RelationFile(GLOBAL_TABLESPACE, 0, number)
            continue
        of = int(match["database"] or match["elsewhere"])
        tablespace = int(match["tablespace"] or DEFAULT_TABLESPACE)
        if wanted.has_file(tablespace, of, number):
            yield RelationFile(tablespace, of, number)
