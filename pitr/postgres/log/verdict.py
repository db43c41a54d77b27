"""From what a transaction did to relation files to what it did to tables.

TRUNCATE gives a table a new, empty file. VACUUM FULL, CLUSTER and a rewriting ALTER TABLE give it a
new file with the rows moved into it: they fill a table that is made for the purpose, swap the two,
and drop the other one. Both drop the old file. The catalog tells them apart: after the new file is
made, pg_class gets a new row for that table (a rewrite), or the row of the old one is changed
(TRUNCATE). What is inserted into the new file before that row is deleted again was moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pitr.postgres.log.collecting import Collected, FileChanges
from pitr.postgres.log.tables import TableKey, Tables
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal.scan import RowChange
from pitr.vocabulary.change import TableChange

# FirstNormalObjectId: files below belong to what initdb made.
_FIRST_NUMBER = 16384
_Files = list[tuple[RelationFile, FileChanges]]
_ClassChanges = Sequence[tuple[int, int]]


@dataclass(slots=True)
class _Line:
    """The sums of one line of the log."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    moved: int = 0
    flags: dict[str, bool] = field(default_factory=dict)

    def add(self, other: _Line) -> None:
        """Take in the counts of a partition."""
        self.inserted += other.inserted
        self.updated += other.updated
        self.deleted += other.deleted
        self.moved += other.moved

    def change(self, table: str, *, is_whole: bool) -> TableChange | None:
        """Return the line, or None when nothing happened.

        A row that an update moved to another partition was deleted here and inserted there; seen as
        one table (`is_whole`) it was updated.
        """
        out, across = (0, self.moved) if is_whole else (self.moved, 0)
        inserted, updated = self.inserted - across, self.updated + across
        deleted = self.deleted + out
        if not (inserted or updated or deleted or any(self.flags.values())):
            return None
        return TableChange(
            table=table, inserted=inserted, updated=updated, deleted=deleted, **self.flags
        )


def table_changes(collected: Collected, tables: Tables) -> tuple[TableChange, ...]:
    """Return what a transaction did to the tables that the log is about, in order of names."""
    by_table, unknown = _group(collected, tables)
    lines: dict[TableKey, _Line] = {}
    whole: set[TableKey] = set()
    for key, files in by_table.items():
        shown = tables.shown_as(key)
        if shown is None:
            continue
        line = _line(files, _class_changes(collected, tables, key), unknown)
        if shown != key and line.flags.get("dropped"):
            lines[key] = line  # the partition is gone, not the table
            continue
        if shown != key:
            whole.add(shown)
        into = lines.setdefault(shown, _Line())
        into.add(line)
        for flag, is_set in line.flags.items():
            if shown == key or flag in ("truncated", "rewritten"):
                into.flags[flag] = into.flags.get(flag, False) or is_set
    found = (
        line.change(tables.name(key, collected.end.lsn), is_whole=key in whole)
        for key, line in sorted(lines.items())
    )
    return tuple(sorted(filter(None, found), key=lambda change: change.table))


def _group(
    collected: Collected, tables: Tables
) -> tuple[dict[TableKey, _Files], list[FileChanges]]:
    """Return files by table, and the new files that no reading has seen."""
    by_table: dict[TableKey, _Files] = {}
    unknown = []
    for file, changes in collected.files.items():
        if not changes.is_change:
            continue
        found = tables.table_of(file)
        if found is None and file.number < _FIRST_NUMBER:
            continue  # a catalog of a database that was never read
        if found is None:
            if changes.created and not changes.dropped:
                unknown.append(changes)
            is_passing = changes.created and changes.dropped
            if not is_passing and (changes.inserts or changes.updated or changes.deleted):
                key = TableKey(file.database, 0, file.number)
                by_table.setdefault(key, []).append((file, changes))
        elif tables.is_table(found[1]):
            by_table.setdefault(found[0], []).append((file, changes))
    return by_table, unknown


def _class_changes(collected: Collected, tables: Tables, key: TableKey) -> _ClassChanges:
    """Return the changes of pg_class in the table's database, in the order of LSNs."""
    return sorted(
        change
        for file in tables.traced
        if file.database == key.database and file in collected.files
        for change in collected.files[file].changes
    )


def _line(files: _Files, class_changes: _ClassChanges, unknown: list[FileChanges]) -> _Line:
    """Return the line of one table."""
    line = _Line()
    created = [(file, found) for file, found in files if found.created]
    # A file that was made in this very transaction and is gone again was never the table's.
    dropped = [(file, found) for file, found in files if found.dropped and not found.created]
    news = [found for _, found in created] or (unknown if dropped else [])
    if dropped and news:
        has_moved = {file.tablespace for file, _ in dropped} != {
            file.tablespace for file, _ in created or dropped
        }
        is_rewrite = [has_moved or _is_rewrite(found, class_changes) for found in news]
        line.flags = {"rewritten": any(is_rewrite), "truncated": not all(is_rewrite)}
    elif created:
        line.flags = {"created": True}
    elif dropped:
        line.flags = {"dropped": True}
    # Of a file that it has made itself TRUNCATE cuts the blocks off. So does VACUUM, of any file.
    if any(found.truncated and found.created for _, found in files):
        line.flags["truncated"] = True
    for _, found in files:
        is_moved_into = line.flags.get("rewritten", False) and found.created
        line.inserted += _inserted(found, class_changes if is_moved_into else ())
        line.updated += found.updated
        line.deleted += found.deleted
        line.moved += found.moved
    return line


def _is_rewrite(found: FileChanges, class_changes: _ClassChanges) -> bool:
    following = [change for lsn, change in class_changes if lsn > found.created]
    return bool(following) and following[0] == RowChange.INSERT


def _inserted(found: FileChanges, class_changes: _ClassChanges) -> int:
    """Return the rows inserted; with changes of pg_class, those after the rewrite."""
    begin = 0
    if class_changes:
        ends = (lsn for lsn, c in class_changes if c == RowChange.DELETE and lsn > found.created)
        begin = next(ends, 1 << 64)
    return sum(rows for lsn, rows in found.inserts if lsn >= begin)
