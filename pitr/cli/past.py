"""log, when, sql, restore: the commands that read the past."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from pitr.cli.options import TARGET_FORMS, json_option, settings_of, source_options
from pitr.cli.render import (
    bytes_text,
    emit,
    emit_json,
    emit_rows,
    emit_target_echo,
    json_value,
    note,
    table_text,
    target_json,
    text_value,
    time_cell,
    time_header,
)
from pitr.errors import UsageError
from pitr.operations.clock import now_us
from pitr.operations.history import LogRequest, log_transactions
from pitr.operations.restore import RestoreOutcome, RestoreRequest, TableOutcome
from pitr.operations.restore import restore as restore_tables
from pitr.operations.sql import query_past
from pitr.operations.when import find_row
from pitr.sqlite.when import WhenOutcome
from pitr.target_text import format_time
from pitr.vocabulary.change import TableChange, Transaction
from pitr.vocabulary.target import ResolvedTarget

_tables_option = click.option(
    "-t", "--table", "tables", multiple=True, metavar="TABLE", help="A table; repeatable."
)


def echo_target(target: ResolvedTarget) -> None:
    """Print on stderr what a target came to."""
    emit_target_echo(target, now_us=now_us())


@click.command()
@_tables_option
@click.option("--since", metavar="TARGET", help="Only transactions after this target.")
@click.option("--until", metavar="TARGET", help="Only transactions up to this target.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, the newest ones.")
@source_options
@json_option
def log(
    tables: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Show the transactions that touched the tables, newest last.

    Rows inserted, updated and deleted are counted exactly, from the pages that each commit
    changed. Works from the archive alone.
    """
    settings = settings_of(config, source, archive)
    found = log_transactions(settings, LogRequest(tables, since, until, limit))
    if as_json:
        emit_json({"transactions": [transaction_json(item) for item in found]})
    elif not found:
        note("no transaction in the archive touched that")
    else:
        rows = [row for item in found for row in _log_rows(item)]
        emit(table_text(_log_headers(), rows))


def transaction_json(transaction: Transaction) -> dict[str, object]:
    """Return a transaction under the keys that scripts rely on."""
    return {
        "position": transaction.position,
        "xid": transaction.xid,
        "time": format_time(transaction.time_us),
        "time_width_ms": transaction.time_width_us // 1000,
        "kind": transaction.kind,
        "tables": [_change_json(change) for change in transaction.tables],
    }


def _change_json(change: TableChange) -> dict[str, object]:
    return {
        "table": change.table,
        "inserted": change.inserted,
        "updated": change.updated,
        "deleted": change.deleted,
        "truncated": change.truncated,
        "rewritten": change.rewritten,
        "dropped": change.dropped,
        "created": change.created,
        "altered": change.altered,
    }


def _log_headers() -> list[str]:
    return ["position", time_header(), "table", "inserted", "updated", "deleted", "note"]


def _log_rows(transaction: Transaction) -> list[list[object]]:
    begin = [transaction.position, time_cell(transaction.time_us)]
    kind = [] if transaction.kind == "commit" else [transaction.kind]
    if not transaction.tables:
        return [[*begin, "", None, None, None, *kind]]
    rows: list[list[object]] = []
    for change in transaction.tables:
        flags = ("truncated", "rewritten", "dropped", "created", "altered")
        words = [*kind, *(flag for flag in flags if getattr(change, flag))]
        counts = [change.inserted, change.updated, change.deleted]
        rows.append([*begin, change.table, *counts, " ".join(words)])
    return rows


@click.command()
@click.option("-t", "--table", required=True, metavar="TABLE", help="The table of the row.")
@click.option("--gone", metavar="WHERE", help="The row that is no longer there, as SQL.")
@click.option("--changed", metavar="WHERE", help="The row that was changed, as SQL.")
@source_options
@json_option
def when(
    table: str,
    gone: str | None,
    changed: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Find the transaction in which a row vanished or changed.

    The newest one, when there are several. Works from the archive alone.
    """
    if (gone is None) == (changed is None):
        raise UsageError(
            "when needs either --gone or --changed",
            hint="For example: pitr when -t orders --gone 'id = 42'",
        )
    settings = settings_of(config, source, archive)
    where = gone if gone is not None else changed
    assert where is not None
    found = find_row(settings, table, where, gone=gone is not None)
    if as_json:
        _emit_when_json(found)
    else:
        _emit_when(found, table)
    if found.transaction is None:
        click.get_current_context().exit(1)


def _emit_when_json(found: WhenOutcome) -> None:
    row = {name: json_value(value) for name, value in found.row.items()} if found.row else None
    emit_json(
        {
            "transaction": transaction_json(found.transaction) if found.transaction else None,
            "before": found.before,
            "row": row,
            "reason": found.reason,
        }
    )


def _emit_when(found: WhenOutcome, table: str) -> None:
    if found.transaction is None:
        note(f"not found: {found.reason}")
        return
    emit(table_text(_log_headers(), _log_rows(found.transaction)))
    if found.row:
        emit("\nthe row as it was:")
        width = max(len(name) for name in found.row)
        for name, value in found.row.items():
            emit(f"  {name.ljust(width)}  {text_value(value)}")
    if found.before:
        _emit_ways_back(found.transaction, found.before, table)


def _emit_ways_back(transaction: Transaction, before: str, table: str) -> None:
    emit()
    if transaction.kind == "commit":  # seen by itself
        words = ["pitr", "revert", transaction.position, "-t", table]
        emit(f"to take back what it did:   {shlex.join(words)}")
    words = ["pitr", "restore", "-t", table, "--at", before]
    emit(f"the whole table as it was:  {shlex.join(words)}")


@click.command()
@click.option("--at", required=True, metavar="TARGET", help=f"The moment to ask: {TARGET_FORMS}.")
@click.argument("statement")
@source_options
@json_option
def sql(
    at: str,
    statement: str,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Ask the database as it was, without restoring anything.

    STATEMENT is one SELECT. The pages it needs are read from the archive, and no others.
    """
    settings = settings_of(config, source, archive)
    with query_past(settings, at, statement, on_target=echo_target) as result:
        emit_rows(result.columns, result.rows, as_json=as_json)


@click.command()
@_tables_option
@click.option(
    "--at", required=True, metavar="TARGET", help=f"The moment to go back to: {TARGET_FORMS}."
)
@click.option("--until", metavar="TARGET", help="The moment just after the damage.")
@click.option("--where", metavar="SQL", help="Only the rows for which this was true then.")
@click.option("--to", metavar="FILE", help="Where to write the sidecar; must not exist.")
@click.option("--no-compare", is_flag=True, help="Do not count against the live database.")
@source_options
@json_option
def restore(
    tables: tuple[str, ...],
    at: str,
    until: str | None,
    where: str | None,
    to: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    no_compare: bool,
    as_json: bool,
) -> None:
    """Bring tables back as they were, into a sidecar.

    The sidecar is a SQLite file beside the live database. Only the pages of the chosen tables
    are read from the archive. The live database is read for the comparison and never written.
    With --until, damage can be told from later work.
    """
    if not tables:
        raise UsageError("restore needs a table", hint="Name one with '-t TABLE'.")
    request = RestoreRequest(
        tables=tables,
        target=at,
        until=until,
        where=where,
        destination=None if to is None else destination(to),
        compare=not no_compare,
    )
    outcome = restore_tables(settings_of(config, source, archive), request, on_target=echo_target)
    emit_restored(outcome, as_json=as_json)


def destination(name: str) -> Path:
    """Return the file that --to names. Raises UsageError for what names no file."""
    if not name or "://" in name:
        raise UsageError(
            f"this is no place for a sidecar: {name!r}",
            detail="Tables of a SQLite source are restored into a file.",
            hint="Name a file that does not exist yet, as in '--to orders-then.db'.",
        )
    return Path(name).absolute()


def emit_restored(outcome: RestoreOutcome, warnings: Sequence[str] = (), *, as_json: bool) -> None:
    """Print a new recovery, as restore and revert do."""
    if as_json:
        _emit_restore_json(outcome, warnings)
        return
    _emit_restore(outcome)
    for warning in warnings:
        note(f"warning: {warning}")


def _emit_restore_json(outcome: RestoreOutcome, warnings: Sequence[str]) -> None:
    recovery = outcome.recovery
    emit_json(
        {
            "recovery": recovery.id,
            "target": target_json(recovery.resolved),
            "until": target_json(recovery.until) if recovery.until else None,
            "sidecar": recovery.sidecar,
            "tables": [
                {
                    "table": table.table,
                    "rows": table.rows,
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
    )


def _emit_restore(outcome: RestoreOutcome) -> None:
    recovery = outcome.recovery
    emit(f"recovery  {recovery.id}")
    emit(f"sidecar   {recovery.sidecar}")
    emit(f"took      {recovery.seconds:.2f} s, {bytes_text(recovery.bytes_read)} read\n")
    headers = ["table", "rows", "missing in live", "differ", "extra in live"]
    emit(table_text(headers, [_restore_row(table) for table in outcome.tables]))
    for table in outcome.tables:
        for warning in table.warnings:
            note(f"warning: {warning}")


def _restore_row(table: TableOutcome) -> list[object]:
    counts = [table.missing_in_live, table.differs, table.extra_in_live]
    return [table.table, table.rows, *("-" if count is None else count for count in counts)]
