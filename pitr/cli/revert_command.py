"""revert: one transaction as a recovery, ready to be compared and merged."""

from __future__ import annotations

import click

from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.past import echo_target, with_children_option, with_parents_option
from pitr.cli.restore_command import destination, emit_restored, to_option
from pitr.operations.revert import RevertRequest
from pitr.operations.revert import revert as revert_transaction


@click.command()
@click.argument("transaction", metavar="TRANSACTION")
@click.option(
    "-t", "--table", "tables", multiple=True, metavar="TABLE", help="Only this table; repeatable."
)
@to_option
@with_parents_option
@with_children_option
@click.option("--no-compare", is_flag=True, help="Do not count against the live database.")
@source_options
@json_option
def revert(
    transaction: str,
    tables: tuple[str, ...],
    to: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    no_compare: bool,
    with_parents: bool,
    with_children: bool,
    as_json: bool,
) -> None:
    """Make a recovery of exactly what one transaction changed.

    TRANSACTION is a position that 'pitr log' and 'pitr when' show, as in commit:4711. The sidecar
    holds its tables as they were before it; 'pitr diff' then tells its damage from what came
    later. Nothing is written to the source.
    """
    place = destination(to)
    request = RevertRequest(
        transaction=transaction,
        tables=tables,
        destination=place.file,
        load_into=place.database,
        compare=not no_compare,
        with_parents=with_parents,
        with_children=with_children,
    )
    settings = settings_of(config, source, archive)
    outcome = revert_transaction(settings, request, on_target=echo_target)
    emit_restored(outcome.restored, outcome.warnings, as_json=as_json)
