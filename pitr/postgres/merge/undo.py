"""Take a merge back: its rows as they were are "before", as it made them "after".

So an undo is a repair like any other, under the same rules: what was changed since is a conflict,
what is back already is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pitr.postgres.diff.alignment import AFTER, BEFORE, AlignedTable
from pitr.postgres.diff.classified import (
    ClassifiedTable,
    class_counts,
    classify_staged,
    live_contents,
    rows_name,
)
from pitr.postgres.diff.staging import analyze_staged, fill_staged, make_staged
from pitr.postgres.merge.images import align_image, read_images, read_pieces
from pitr.postgres.tables.session import Connection, run
from pitr.vocabulary.row_class import RowClass


def classify_merged(live: Connection, folder: Path) -> list[ClassifiedTable]:
    """Classify the rows of a merge, from the files in its folder, in the open transaction.

    Raises Corrupt, PlanStale when a table has changed too much, psycopg.Error.
    """
    found = []
    for index, image in enumerate(read_images(folder)):
        table = align_image(live, index, image)
        make_staged(live, table)
        for state in (BEFORE, AFTER):
            fill_staged(live, table, state, read_pieces(folder, index, state))
        analyze_staged(live, table)
        found.append(_classified(live, table))
    return found


def classify_merged_again(
    live: Connection, tables: Sequence[ClassifiedTable]
) -> list[ClassifiedTable]:
    """Classify the same rows beside live as it is now."""
    return [_classified(live, table.aligned) for table in tables]


def _classified(live: Connection, table: AlignedTable) -> ClassifiedTable:
    classified = classify_staged(live, table, None)
    return classified if table.key else _count_copies(live, classified)


def _count_copies(live: Connection, table: ClassifiedTable) -> ClassifiedTable:
    """Class the rows of a table without a key by their copies.

    Copies of a row cannot be told apart. So of those that the merge put in as many are still there
    as live has more than there were before it; of those that it took as many are to come back as
    live has fewer than there were before.
    """
    aligned = table.aligned
    columns = ", ".join(f"c{at}" for at in range(len(aligned.columns)))
    keys = ", ".join(f"c{at} AS key_{at}" for at in range(len(aligned.columns)))
    parts = [
        f"SELECT copies AS was, 0 AS became, 0 AS now, {columns} FROM {aligned.source(BEFORE)}",
        f"SELECT 0, copies, 0, {columns} FROM {aligned.source(AFTER)}",
        f"SELECT 0, 0, copies, {columns} FROM {live_contents(aligned, None)}",
    ]
    groups = (
        f"SELECT {columns}, sum(was) AS was, sum(became) AS became, sum(now) AS now"
        f" FROM ({' UNION ALL '.join(parts)}) AS every GROUP BY {columns}"
        " HAVING sum(was) <> sum(became)"
    )
    kinds = (
        (RowClass.BOGUS_INSERT, "greatest(0, least(now, became) - was)"),
        (RowClass.ALREADY_BACK, "greatest(0, became - greatest(was, now))"),
        (RowClass.LOST, "greatest(0, least(was - became, was - now))"),
        (RowClass.ALREADY_BACK, "greatest(0, least(was, now) - became)"),
    )
    classes = " UNION ALL ".join(
        f"SELECT {columns}, '{row_class}'::text AS class, ({copies})::bigint AS copies FROM groups"
        for row_class, copies in kinds
    )
    own = rows_name(aligned.index)
    run(live, f"DROP TABLE IF EXISTS {own}")
    run(
        live,
        f"CREATE TEMP TABLE {own.partition('.')[2]} ON COMMIT DROP AS WITH groups AS ({groups})"
        f" SELECT row_number() OVER (ORDER BY {columns}, class) AS n, {keys}, class, ''::text AS"
        f" mask, NULL::text AS reason, copies FROM ({classes}) AS classed WHERE copies > 0",
    )
    return replace(table, counts=class_counts(live, aligned))
