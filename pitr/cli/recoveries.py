"""recoveries: list what was brought back, ask it, drop it."""

from __future__ import annotations

from collections import defaultdict

import click

from pitr.cli.options import Group, json_option, settings_of, source_options
from pitr.cli.render import (
    count_text,
    emit,
    emit_json,
    emit_rows,
    note,
    table_text,
    target_json,
    time_cell,
    time_header,
)
from pitr.cli.settled import report_settled
from pitr.cli.unread import ended_when_unread
from pitr.operations.psql import psql
from pitr.operations.recoveries import all_merges, all_recoveries, drop
from pitr.operations.sql import query_sidecar
from pitr.recovery.folder import Recovery
from pitr.recovery.merges import KeptMerge
from pitr.target_text import format_time


@click.group(cls=Group, invoke_without_command=True)
@source_options
@json_option
@click.pass_context
def recoveries(
    ctx: click.Context,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """List the recoveries; with a subcommand, ask or drop one."""
    if ctx.invoked_subcommand is not None:
        if as_json or config or source or archive:
            raise click.UsageError(f"options come after '{ctx.invoked_subcommand}'")
        return
    settings = settings_of(config, source, archive)
    report_settled(settings)
    found = all_recoveries(settings)
    merges: dict[str, list[KeptMerge]] = defaultdict(list)
    for kept in all_merges(settings):
        merges[kept.record.recovery].append(kept)
    if as_json:
        emit_json({"recoveries": [_recovery_json(item, merges[item.id]) for item in found]})
    elif not found:
        note("there are no recoveries")
    else:
        headers = ["recovery", time_header("created"), "target", "tables", "merges"]
        emit(table_text(headers, [_recovery_row(item, merges[item.id]) for item in found]))


def _recovery_json(item: Recovery, merges: list[KeptMerge]) -> dict[str, object]:
    return {
        "recovery": item.id,
        "kind": item.kind,
        "created": format_time(item.created_us),
        "target": target_json(item.resolved),
        "sidecar": item.sidecar,
        "tables": [{"table": table.table, "rows": table.rows} for table in item.tables],
        "merges": [_merge_json(kept) for kept in merges],
    }


def _merge_json(kept: KeptMerge) -> dict[str, object]:
    inserted, updated, deleted = kept.record.rows
    return {
        "merge": kept.record.id,
        "time": format_time(kept.record.created_us),
        "undoes": kept.record.undoes,
        "outcome": kept.outcome.value if kept.outcome else None,
        "inserted": inserted,
        "updated": updated,
        "deleted": deleted,
    }


def _recovery_row(item: Recovery, merges: list[KeptMerge]) -> list[object]:
    tables = ", ".join(f"{t.table} ({count_text(t.rows, 'row')})" for t in item.tables)
    names = ", ".join(kept.record.id for kept in merges)
    return [item.id, time_cell(item.created_us), item.resolved.position, tables, names]


@recoveries.command("sql")
@click.argument("words", nargs=-1, required=True, metavar="[ID] STATEMENT")
@source_options
@json_option
def recoveries_sql(
    words: tuple[str, ...],
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Ask a sidecar: one SELECT.

    The newest recovery is meant without an ID.
    """
    if len(words) > 2:
        raise click.UsageError("recoveries sql takes an optional ID and one statement")
    recovery_id = words[0] if len(words) == 2 else None
    settings = settings_of(config, source, archive)
    with ended_when_unread(), query_sidecar(settings, recovery_id, words[-1]) as result:
        emit_rows(result.columns, result.rows, as_json=as_json)


@recoveries.command("psql", context_settings={"ignore_unknown_options": True})
@click.argument("recovery_id", metavar="[ID]", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS]")
@source_options
@click.pass_context
def recoveries_psql(
    ctx: click.Context,
    recovery_id: str | None,
    arguments: tuple[str, ...],
    config: str | None,
    source: str | None,
    archive: str | None,
) -> None:
    """Start the sidecar of a PostgreSQL source for as long as psql runs.

    The newest recovery is meant without an ID. What follows '--' goes to psql. The sidecar can be
    written to; nothing of it reaches the source.
    """
    if recovery_id is not None and recovery_id.startswith("-"):
        arguments, recovery_id = (recovery_id, *arguments), None
    ctx.exit(psql(settings_of(config, source, archive), recovery_id, arguments))


@recoveries.command("drop")
@click.argument("recovery_id", metavar="ID")
@source_options
@json_option
def recoveries_drop(
    recovery_id: str,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Remove a recovery and its sidecar.

    A sidecar that was written with --to stays.
    """
    drop(settings_of(config, source, archive), recovery_id)
    if as_json:
        emit_json({"dropped": recovery_id})
    else:
        emit(f"dropped {recovery_id}")
