"""Say when a table was there that is not there at a target.

Only a commit that wrote page 1 can have changed the schema, and it has if the schema cookie there
is another than before. Of such commits alone the schema is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from pitr.errors import ArchiveLacks, Corrupt
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.sqlite.past.schema import Schema
from pitr.sqlite.past.tables import folded
from pitr.target_text import format_time
from pitr.vocabulary.position import CommitNumber

# So many commits are looked at before the target, and as many after it.
_COMMITS_MAX = 4096


def explain_absence(archive: PageArchive, number: int, table: str) -> str | None:
    """Return a sentence on when the table was there that commit `number` does not have.

    None when no commit near the target has it, and when the archive cannot tell: what this is
    asked for is the detail of another error.
    """
    first = max(archive.catalog.first_commit, number - _COMMITS_MAX)
    last = min(archive.catalog.last_commit, number + _COMMITS_MAX)
    try:
        return _explain(_schemas(archive, first, last), number, folded(table))
    except (ArchiveLacks, Corrupt):
        return None


def _explain(schemas: Iterator[tuple[CommitRecord, Schema]], number: int, table: str) -> str | None:
    was_there = False
    gone: CommitRecord | None = None
    for record, schema in schemas:
        is_there = table in schema.tables
        if record.number > number:
            if is_there:
                return f"It is there from {_text(record)} on; this target is earlier."
        elif was_there != is_there:
            gone = None if is_there else record
            was_there = is_there
    if gone is None:
        return None
    last = f"before:commit:{gone.first_covered}"
    return f"It was there until {_text(gone)}: '{last}' still has it."


def _schemas(archive: PageArchive, first: int, last: int) -> Iterator[tuple[CommitRecord, Schema]]:
    """Yield the first commit, and every later one that changed the schema."""
    history = archive.window(first, last)
    records = [r for r in history.records if r.number == first or 1 in history.changed(r.number)]
    places = (history.place(1, record.number) for record in records)
    archive.images.prefetch(place for place in places if place is not None)
    cookie = None
    for record in records:
        snapshot = Snapshot(history.at(record.number))
        if snapshot.page_count and snapshot.header.schema_cookie != cookie:
            cookie = snapshot.header.schema_cookie
            yield record, Schema.read(snapshot)


def _text(record: CommitRecord) -> str:
    return f"{CommitNumber(record.number)} ({format_time(record.time_end_us)})"
