"""log, when, sql: the commands that read the past."""

from __future__ import annotations

import shlex

import click

from pitr.cli.options import TARGET_FORMS, json_option, settings_of, source_options
from pitr.cli.render import (
    emit,
    emit_json,
    emit_rows,
    emit_target_echo,
    json_value,
    note,
    table_text,
    text_value,
    time_cell,
    time_header,
)
from pitr.cli.unread import ended_when_unread
from pitr.clock import now_us
from pitr.errors import UsageError
from pitr.operations.history import LogRequest, log_transactions
from pitr.operations.sql import query_past
from pitr.operations.when import find_row
from pitr.target_text import format_time
from pitr.vocabulary.change import TableChange, Transaction, WhenOutcome
from pitr.vocabulary.target import ResolvedTarget

_PLOT_COLUMNS = 60

tables_option = click.option(
    "-t",
    "--table",
    "tables",
    multiple=True,
    metavar="TABLE",
    help="A table, or several by * and ?; repeatable.",
)
with_parents_option = click.option(
    "--with-parents",
    is_flag=True,
    help="A merge of it also brings back missing rows that foreign keys name. PostgreSQL: their "
    "tables come along.",
)
with_children_option = click.option(
    "--with-children",
    is_flag=True,
    help="A merge of it also brings back rows that went by ON DELETE CASCADE, or forgot their "
    "parent. PostgreSQL: their tables come along.",
)


def echo_target(target: ResolvedTarget) -> None:
    """Print on stderr what a target came to."""
    emit_target_echo(target, now_us=now_us())


@click.command()
@tables_option
@click.option("--since", metavar="TARGET", help="Only transactions after this target.")
@click.option("--until", metavar="TARGET", help="Only transactions up to this target.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, the newest ones.")
@click.option(
    "--aborted",
    "with_aborted",
    is_flag=True,
    help="Also what was rolled back (PostgreSQL; a SQLite WAL has no trace of it).",
)
@click.option(
    "--plot",
    "as_plot",
    is_flag=True,
    help="Draw rows inserted, updated and deleted over time, and mark what stands out.",
)
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
    with_aborted: bool,
    as_plot: bool,
    as_json: bool,
) -> None:
    """Show the transactions that touched the tables, newest last.

    Rows inserted, updated and deleted are counted exactly: on SQLite net, from the pages that each
    commit changed; on PostgreSQL as the statements reported them, from the index of the WAL. Works
    from the archive alone. In a TABLE * and ? are wild; on PostgreSQL it is
    [database.]schema.table.
    """
    if as_plot and as_json:
        raise UsageError(
            "--plot is for people, --json for programs",
            hint="Leave one out; --json has every transaction with its counts.",
        )
    settings = settings_of(config, source, archive)
    request = LogRequest(tables, since, until, limit, with_aborted=with_aborted)
    found = log_transactions(settings, request)
    if as_json:
        emit_json({"transactions": [transaction_json(item) for item in found]})
    elif not found:
        note("no transaction in the archive touched that")
    elif as_plot:
        from pitr.cli.plot import activity_text
        from pitr.operations.activity import activity_of, slices_of

        slices = slices_of(found, count_max=_PLOT_COLUMNS)
        emit(activity_text(activity_of(found, slices), slices))
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
    found = find_row(settings, table, where, gone=gone is not None, on_progress=note)
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
@click.option("--database", metavar="NAME", help="PostgreSQL: the database to ask.")
@click.argument("statement")
@source_options
@json_option
def sql(
    at: str,
    statement: str,
    database: str | None,
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
    with (
        ended_when_unread(),
        query_past(settings, at, statement, database=database, on_target=echo_target) as result,
    ):
        emit_rows(result.columns, result.rows, as_json=as_json)
