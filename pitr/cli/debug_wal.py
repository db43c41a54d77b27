"""debug wal: look into a WAL segment of PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import click

from pitr.cli.options import json_option
from pitr.cli.render import emit, emit_json
from pitr.errors import Corrupt
from pitr.postgres.wal.dump import describe_counts, describe_history, describe_segment
from pitr.postgres.wal.segment_name import timeline_of_history


@click.command("wal")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--stats", is_flag=True, help="Count the records instead of showing each.")
@json_option
def debug_wal(file: Path, *, stats: bool, as_json: bool) -> None:
    """Show the records of a WAL segment of PostgreSQL.

    Every checksum is verified. Damage is described, and ends with exit 5; WAL that is not
    written yet is no damage. A FILE named like 00000002.history is shown as what it is.
    """
    timeline = timeline_of_history(file.name)
    if timeline is not None:
        found = describe_history(timeline, file.read_bytes())
    else:
        found = (describe_counts if stats else describe_segment)(file.read_bytes())
    if as_json:
        emit_json({"damaged": found.is_damaged, "lines": found.lines})
    else:
        emit("\n".join(found.lines))
    if found.is_damaged:
        click.get_current_context().exit(Corrupt.exit_code)
