"""backup: write a base of the present state."""

from __future__ import annotations

import click

from pitr.cli.options import json_option, quantity, settings_of, source_options
from pitr.cli.progress import Reporter
from pitr.cli.render import bytes_text, emit, emit_json
from pitr.operations.backup import BackupOutcome, BackupWish
from pitr.operations.backup import backup as back_up
from pitr.target_text import format_local, format_time
from pitr.vocabulary.quantity import parse_size_bytes


@click.command()
@click.option(
    "--checkpoint",
    type=click.Choice(["spread", "fast"]),
    default="spread",
    help="PostgreSQL: begin after a gentle checkpoint (minutes), or after one at full speed.",
)
@click.option("--max-rate", metavar="SIZE", help="PostgreSQL: read at most so much in a second.")
@source_options
@json_option
def backup(
    checkpoint: str,
    max_rate: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Write a base of the present state.

    Only what changed is stored anew: what the archive holds already is referred to. Legal with
    and without a running capture. On PostgreSQL a base backup over the replication protocol.
    """
    rate = None
    if max_rate is not None:
        rate = quantity("--max-rate", max_rate, parse_size_bytes, "50MB")
    wish = BackupWish(is_fast=checkpoint == "fast", rate_bytes=rate)
    settings = settings_of(config, source, archive)
    outcome = back_up(settings, wish, Reporter(as_json=as_json).report)
    if as_json:
        emit_json(_json(outcome))
    else:
        time_text = format_local(outcome.time_us)
        emit(f"base {outcome.id}  {time_text}  {bytes_text(outcome.bytes)} added")


def _json(outcome: BackupOutcome) -> dict[str, object]:
    return {
        "id": outcome.id,
        "time": format_time(outcome.time_us),
        "bytes": outcome.bytes,
        "damaged": [
            {"file": file, "begin": begin, "end": end} for file, begin, end in outcome.damaged
        ],
    }
