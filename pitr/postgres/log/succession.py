"""Files that no reading of the catalog has seen: which table they were of, from what replaced what.

TRUNCATE, VACUUM FULL and a rewriting ALTER TABLE make new files for a table, its TOAST table and
its indexes, in this order and so with ascending numbers, and drop as many. So when one transaction
drops the files of one known table and makes as many unknown ones, the lowest of them was the
table's; and the other way round. From transaction to transaction a whole chain is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pitr.postgres.index.ends import ends_of
from pitr.postgres.index.wal_index import FileEvent, WalIndex
from pitr.postgres.log.tables import TableKey, TableOf
from pitr.postgres.wal.record import RelationFile

_TABLES = "rm"


@dataclass(frozen=True, slots=True)
class FileChange:
    """The files that one transaction made and those that it dropped, passing ones left out."""

    made: tuple[RelationFile, ...]
    dropped: tuple[RelationFile, ...]


def changes_of_files(index: WalIndex, timeline: int, begin: int, end: int) -> list[FileChange]:
    """Return the transactions of a stretch that both made files and dropped some."""
    made: dict[int, list[FileEvent]] = {}
    found = []
    for part in index.parts(timeline, begin, end):
        dropped: dict[int, list[RelationFile]] = {}
        for event in index.file_events_of(part):
            if event.is_drop:
                dropped.setdefault(event.lsn, []).append(event.file)
            else:
                made.setdefault(event.xid, []).append(event)
        if not dropped:
            continue
        for ending in ends_of(index, part):
            gone = set(dropped.get(ending.lsn, ()))
            xids = (ending.xid, *ending.subxids)
            new = {event.file for xid in xids for event in made.get(xid, ())}
            if ending.is_commit and gone and new:
                found.append(FileChange(tuple(sorted(new - gone)), tuple(sorted(gone - new))))
    return found


def unseen_files(changes: Sequence[FileChange], table_of: TableOf) -> dict[RelationFile, TableKey]:
    """Return the tables of files that no reading has seen, as far as they follow. Pure."""
    found: dict[RelationFile, TableKey] = {}
    pending = [change for change in changes if len(change.made) == len(change.dropped)]
    is_news = True
    while is_news:
        is_news = False
        for change in pending:
            made = _tables(change.made, table_of, found)
            dropped = _tables(change.dropped, table_of, found)
            for known, other, files in (
                (made, dropped, change.dropped),
                (dropped, made, change.made),
            ):
                alone = [key for key in known if key not in other]
                unknown = [f for f in files if f not in found and table_of(f) is None]
                # A new table's first file has the number of its OID: it replaces nothing.
                is_new = known is made and alone and made[alone[0]].number == alone[0].oid
                if len(alone) == 1 and unknown and not is_new:
                    found[min(unknown, key=lambda file: file.number)] = alone[0]
                    is_news = True
    return found


def _tables(
    files: Iterable[RelationFile], table_of: TableOf, found: dict[RelationFile, TableKey]
) -> dict[TableKey, RelationFile]:
    """Return the tables among relations, each with its file."""
    tables = {}
    for file in files:
        known = (found[file], _TABLES[0]) if file in found else table_of(file)
        if known is not None and known[1] in _TABLES:
            tables[known[0]] = file
    return tables
