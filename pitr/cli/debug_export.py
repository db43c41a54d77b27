"""debug export: a base of the archive and its WAL, in PostgreSQL's own layout."""

from __future__ import annotations

from pathlib import Path

import click

from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.progress import Reporter
from pitr.cli.render import bytes_text, count_text, emit, emit_json
from pitr.errors import UsageError
from pitr.operations.postgres.export import ExportWish, export
from pitr.vocabulary.position import Lsn


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--base", metavar="ID", help="Which base; else the newest that fits.")
@click.option("--until", metavar="LSN", help="Where the WAL shall end; else with the archive.")
@click.option(
    "--timeline",
    type=click.IntRange(min=1),
    metavar="N",
    help="Which timeline the WAL shall lead to; else the newest.",
)
@click.option(
    "--tablespaces",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where tablespaces go, a folder each; else FOLDER-tablespaces.",
)
@source_options
@json_option
def debug_export(
    folder: Path,
    base: str | None,
    until: str | None,
    timeline: int | None,
    tablespaces: Path | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Write a PostgreSQL base and its WAL as a data directory.

    As pg_basebackup would have written it: pg_verifybackup accepts it, and a server that is
    started on it replays the WAL. Tablespaces are linked to where they are written. When the WAL
    leads to another timeline than the base's, the folder is set to recover to it, and the server
    begins a timeline of its own there, as PostgreSQL does.
    """
    settings = settings_of(config, source, archive)
    beside = tablespaces or folder.absolute().with_name(f"{folder.absolute().name}-tablespaces")
    wish = ExportWish(folder, beside, base, _lsn(until), timeline)
    done = export(settings, wish, Reporter(as_json=as_json).report)
    if as_json:
        emit_json(
            {
                "base": done.base,
                "folder": str(done.folder),
                "bytes": done.bytes,
                "segments": done.segments,
                "until": f"lsn:{done.until}",
                "timeline": done.timeline,
            }
        )
    else:
        emit(
            f"{done.folder}: base {done.base}, {bytes_text(done.bytes)}, "
            f"{count_text(done.segments, 'WAL segment')} up to lsn:{done.until} of timeline "
            f"{done.timeline}"
        )


def _lsn(text: str | None) -> Lsn | None:
    if text is None:
        return None
    try:
        return Lsn.of_position(text)
    except ValueError as error:
        raise UsageError(
            f"LSN is not understood: {text!r}",
            detail=f"{error}.",
            hint="Write it as lsn:0/16B3748.",
        ) from None
