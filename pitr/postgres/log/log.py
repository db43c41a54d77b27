"""The transactions of an archive with what they did to tables, newest last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.log.collecting import Collected, Collector
from pitr.postgres.log.succession import changes_of_files, unseen_files
from pitr.postgres.log.tables import Tables
from pitr.postgres.log.verdict import table_changes
from pitr.postgres.statement.pattern import TablePattern
from pitr.vocabulary.change import TableChange, Transaction
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class LogStretch:
    """Where to look: transactions that end in (begin, end] of a timeline.

    `first` is where the WAL begins that leads to `begin` without a gap, `last` up to where it goes
    on from `end`. What a transaction did before `first` is not known and not counted.
    """

    timeline: int
    first: Lsn
    begin: Lsn
    end: Lsn
    last: Lsn


def transactions(
    index: WalIndex,
    catalog: CatalogMap,
    stretch: LogStretch,
    tables: Sequence[str] = (),
    *,
    default_database: str | None = None,
    limit: int | None = None,
    with_aborted: bool = False,
) -> list[Transaction]:
    """Return the transactions that touched tables, newest last; with `limit` the newest ones.

    `tables` are patterns as `-t` takes them, none for all tables but PostgreSQL's own. Counts are
    those that statements reported: a row that was inserted and deleted again counts in both. Rolled
    back sub-transactions count nowhere; rolled back transactions come with `with_aborted`, as kind
    `abort`. Rows of TOAST tables are not counted. Raises TableUnknown, UsageError, ArchiveGap,
    CorruptObject, CorruptWal.
    """
    known = tables_of(index, catalog, stretch, tables, default_database=default_database)
    found: list[Transaction] = []
    for collected, changes in _walk(index, known, stretch, with_aborted=with_aborted):
        found.append(_transaction(collected, changes))
        if limit is not None and len(found) >= limit:
            break
    found.reverse()
    return found


def tables_of(
    index: WalIndex,
    catalog: CatalogMap,
    stretch: LogStretch,
    tables: Sequence[str],
    *,
    default_database: str | None,
) -> Tables:
    """Return the tables that patterns name in a stretch, and their files. Raises as above."""
    begin, end = stretch.begin.value, stretch.end.value
    around = catalog.readings_around(begin, end)
    return Tables(
        catalog,
        [TablePattern.parse(text) for text in tables],
        default=default_database,
        begin=begin,
        end=end,
        find_unseen=lambda table_of: unseen_files(
            changes_of_files(
                index,
                stretch.timeline,
                max(around[0], stretch.first.value),
                min(around[1], stretch.last.value),
            ),
            table_of,
        ),
    )


def _walk(
    index: WalIndex, tables: Tables, stretch: LogStretch, *, with_aborted: bool
) -> Iterator[tuple[Collected, tuple[TableChange, ...]]]:
    collector = Collector(index, tables.files, tables.traced, with_aborted=with_aborted)
    first, begin, end = stretch.first.value, stretch.begin.value, stretch.end.value
    for collected in collector.collect(stretch.timeline, first, begin, end):
        changes = table_changes(collected, tables)
        if changes:
            yield collected, changes


def _transaction(collected: Collected, changes: tuple[TableChange, ...]) -> Transaction:
    end = collected.end
    return Transaction(
        position=f"lsn:{Lsn(end.end)}",
        xid=end.xid,
        time_us=end.time_us,
        time_width_us=0,
        kind="commit" if end.is_commit else "abort",
        tables=changes,
    )
