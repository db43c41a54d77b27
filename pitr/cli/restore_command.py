"""restore: tables as they were, into a sidecar, and with --merge on into the live database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from pitr.cli.options import TARGET_FORMS, json_option, settings_of, source_options
from pitr.cli.past import (
    echo_target,
    tables_option,
    with_children_option,
    with_parents_option,
)
from pitr.cli.render import bytes_text, emit, emit_json, note, table_text, target_json
from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.restore import RestoreOutcome, RestoreRequest, TableOutcome
from pitr.operations.restore import restore as restore_tables
from pitr.source_text import POSTGRES, parse_source

to_option = click.option(
    "--to",
    metavar="FILE|URL",
    help="Where to write the sidecar, a file that must not exist; PostgreSQL: a database that the "
    "tables are loaded into, in a schema of the recovery's name.",
)


@click.command()
@tables_option
@click.option(
    "--at", required=True, metavar="TARGET", help=f"The moment to go back to: {TARGET_FORMS}."
)
@click.option("--until", metavar="TARGET", help="The moment just after the damage.")
@click.option("--where", metavar="SQL", help="Only the rows for which this was true then.")
@click.option(
    "--columns",
    multiple=True,
    metavar="COLUMN,…",
    help="Compare and set back only these columns, TABLE.COLUMN for those of one table; rows that "
    "are gone come back whole. Repeatable.",
)
@to_option
@click.option("--no-compare", is_flag=True, help="Do not count against the live database.")
@click.option("--merge", is_flag=True, help="Then merge, as 'pitr merge' does, asking first.")
@with_parents_option
@with_children_option
@click.option("--yes", is_flag=True, help="With --merge: write without asking.")
@click.option("--database", metavar="NAME", help="PostgreSQL: the database of the tables.")
@click.option(
    "--from-backup",
    metavar="DIR",
    type=click.Path(exists=True, path_type=Path),
    help="PostgreSQL: recover from what pg_basebackup wrote, a folder or tar files.",
)
@click.option(
    "--from-wal",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --from-backup: the folder of WAL segments, plain, .gz or .zst.",
)
@source_options
@json_option
def restore(
    tables: tuple[str, ...],
    at: str,
    until: str | None,
    where: str | None,
    columns: tuple[str, ...],
    to: str | None,
    database: str | None,
    from_backup: Path | None,
    from_wal: Path | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    no_compare: bool,
    merge: bool,
    with_parents: bool,
    with_children: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring tables back as they were, into a sidecar.

    The sidecar stands beside the live database. Of SQLite it is a file, of PostgreSQL a server of
    its own that is stopped again: 'pitr recoveries psql' starts it. Only what the chosen tables
    need is read. The live database is not written without --merge. With --until, damage can be
    told from later work.
    """
    if not tables:
        raise UsageError("restore needs a table", hint="Name one with '-t TABLE'.")
    if (from_backup is None) != (from_wal is None):
        raise UsageError(
            "--from-backup and --from-wal belong together",
            hint="Name both: the base backup, and the folder with the WAL since.",
        )
    if yes and not merge:
        raise UsageError("--yes belongs to --merge", hint="Add --merge, or run 'pitr merge'.")
    if merge:
        from pitr.cli.merge_commands import require_agreement

        require_agreement("restore --merge", yes=yes)
    place = destination(to)
    request = RestoreRequest(
        tables=tables,
        target=at,
        until=until,
        where=where,
        columns=_column_names(columns),
        with_parents=with_parents,
        with_children=with_children,
        destination=place.file,
        load_into=place.database,
        compare=not no_compare,
        database=database,
        backup=from_backup,
        wal=from_wal,
    )
    settings = settings_of(config, source, archive)
    outcome = restore_tables(settings, request, on_target=echo_target)
    if merge:
        _merge(settings, outcome, yes=yes, as_json=as_json)
    else:
        emit_restored(outcome, as_json=as_json)


def _column_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the lists of --columns. Raises UsageError for an empty one."""
    names = [name.strip() for text in texts for name in text.split(",")]
    if not all(names):
        raise UsageError(
            f"--columns {','.join(texts)} is not understood",
            hint="Name columns as in '--columns price,status'.",
        )
    return tuple(names)


def _merge(
    settings: Settings,
    outcome: RestoreOutcome,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Merge a new recovery; print both outcomes, as JSON in one document."""
    from pitr.cli.merge_commands import emit_result, merge_now, result_document
    from pitr.cli.settled import report_settled
    from pitr.operations.merge import MergeWish

    report_settled(settings)
    wish = MergeWish(recovery_id=outcome.recovery.id, is_agreed=yes)
    if not as_json:
        _emit_restore(outcome)
        emit()
        emit_result(merge_now(settings, wish, yes=yes), as_json=False)
        return
    result = merge_now(settings, wish, yes=yes)
    # The tables are those of the restore, which come with its counts.
    merged = result_document(result)
    warnings = [*result.plan.warnings, *result.warnings]
    emit_json({**merged, **_document(outcome, warnings), "merge_tables": merged["tables"]})
    if result.plan.blocking:
        click.get_current_context().exit(1)


class Destination(NamedTuple):
    """Where --to leads: a file for the sidecar, or a database to load the tables into."""

    file: Path | None
    database: str | None


def destination(name: str | None) -> Destination:
    """Return what --to names. Raises UsageError for what names neither."""
    if name is None:
        return Destination(None, None)
    if "://" in name:
        found = parse_source(name, folder=Path.cwd())
        if found.engine == POSTGRES:
            return Destination(None, found.location)
    if not name or "://" in name:
        raise UsageError(
            f"this is no place for a sidecar: {name!r}",
            hint="Name a file that does not exist yet, as in '--to orders-then.db', or for "
            "PostgreSQL a database, as in '--to postgresql://HOST/DATABASE'.",
        )
    return Destination(Path(name).absolute(), None)


def emit_restored(outcome: RestoreOutcome, warnings: Sequence[str] = (), *, as_json: bool) -> None:
    """Print a new recovery, as restore and revert do."""
    if as_json:
        emit_json(_document(outcome, warnings))
        return
    _emit_restore(outcome)
    for warning in warnings:
        note(f"warning: {warning}")


def _document(outcome: RestoreOutcome, warnings: Sequence[str]) -> dict[str, object]:
    recovery = outcome.recovery
    return {
        "recovery": recovery.id,
        "target": target_json(recovery.resolved),
        "until": target_json(recovery.until) if recovery.until else None,
        "sidecar": recovery.sidecar,
        "tables": [
            {
                "table": table.table,
                "rows": table.rows,
                "columns": None if table.columns is None else list(table.columns),
                "missing_in_live": table.missing_in_live,
                "differs": table.differs,
                "extra_in_live": table.extra_in_live,
                "warnings": list(table.warnings),
            }
            for table in outcome.tables
        ],
        "seconds": recovery.seconds,
        "bytes_read": recovery.bytes_read,
        "warnings": list(warnings),
    }


def _emit_restore(outcome: RestoreOutcome) -> None:
    recovery = outcome.recovery
    emit(f"recovery  {recovery.id}")
    emit(f"sidecar   {recovery.sidecar}")
    if recovery.where is not None:
        emit(f"rows      where {recovery.where}")
    emit(f"took      {recovery.seconds:.2f} s, {bytes_text(recovery.bytes_read)} read\n")
    headers = ["table", "rows", "missing in live", "differ", "extra in live"]
    emit(table_text(headers, [_restore_row(table) for table in outcome.tables]))
    for table in outcome.tables:
        for warning in table.warnings:
            note(f"warning: {warning}")


def _restore_row(table: TableOutcome) -> list[object]:
    counts = [table.missing_in_live, table.differs, table.extra_in_live]
    return [table.table, table.rows, *("-" if count is None else count for count in counts)]
