"""recoveries: list what was brought back, ask it, drop it."""

from __future__ import annotations

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
from pitr.operations.recoveries import all_recoveries, drop
from pitr.operations.sql import query_sidecar
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
    found = all_recoveries(settings_of(config, source, archive))
    if as_json:
        emit_json(
            {
                "recoveries": [
                    {
                        "recovery": item.id,
                        "created": format_time(item.created_us),
                        "target": target_json(item.resolved),
                        "sidecar": item.sidecar,
                        "tables": [{"table": t.table, "rows": t.rows} for t in item.tables],
                    }
                    for item in found
                ]
            }
        )
    elif not found:
        note("there are no recoveries")
    else:
        rows = [
            [
                item.id,
                time_cell(item.created_us),
                item.resolved.position,
                ", ".join(f"{t.table} ({count_text(t.rows, 'row')})" for t in item.tables),
            ]
            for item in found
        ]
        emit(table_text(["recovery", time_header("created"), "target", "tables"], rows))


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
    """Ask a sidecar: one SELECT; the last recovery is meant when no ID is given."""
    if len(words) > 2:
        raise click.UsageError("recoveries sql takes an optional ID and one statement")
    recovery_id = words[0] if len(words) == 2 else None
    settings = settings_of(config, source, archive)
    with query_sidecar(settings, recovery_id, words[-1]) as result:
        emit_rows(result.columns, result.rows, as_json=as_json)


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
    """Remove a recovery and its sidecar (one written with --to stays)."""
    drop(settings_of(config, source, archive), recovery_id)
    if as_json:
        emit_json({"dropped": recovery_id})
    else:
        emit(f"dropped {recovery_id}")
