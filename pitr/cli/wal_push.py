"""wal-push: what PostgreSQL runs for every WAL segment; loads little, to start fast."""

from __future__ import annotations

from pathlib import Path

import click

from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.render import emit_json
from pitr.operations.wal_push import wal_push as push


@click.command("wal-push")
@click.argument("path", type=click.Path(path_type=Path))
@source_options
@json_option
def wal_push(
    path: Path, config: str | None, source: str | None, archive: str | None, *, as_json: bool
) -> None:
    """Archive one file of pg_wal, for PostgreSQL's archive_command.

    A second way beside 'pitr capture', or together with it; the results are identical. Set in
    postgresql.conf: archive_command = 'pitr wal-push --config /etc/pitr.toml %p'. It ends with 0
    only when the archive holds the file durably; a file that is archived already is success.
    Another one under the same name is refused (exit 5), and so is a segment of another cluster
    or of another size (exit 3): then PostgreSQL keeps the file and asks again.
    """
    key = push(settings_of(config, source, archive), path)
    if as_json:
        emit_json({"object": key})
