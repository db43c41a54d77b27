"""debug: look into pitr's own formats."""

from __future__ import annotations

from pathlib import Path

import click

from pitr.cli.debug_control import debug_control
from pitr.cli.debug_export import debug_export
from pitr.cli.debug_wal import debug_wal
from pitr.cli.options import Group, json_option
from pitr.cli.render import emit, emit_json
from pitr.errors import Corrupt
from pitr.operations.debug_object import describe_object


@click.group(cls=Group)
def debug() -> None:
    """Look into pitr's own formats."""


@debug.command("object")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def debug_object(file: Path, *, as_json: bool) -> None:
    """Show what an archive object holds.

    Its frame and sections, and what is in them: commits and pages, WAL and its records, chunks,
    files of a base, relations, rows of the index. Damage is described, and ends with exit 5.
    """
    lines = describe_object(file.read_bytes())
    is_damaged = any(line.startswith("damaged") for line in lines)
    if as_json:
        emit_json({"damaged": is_damaged, "lines": lines})
    else:
        emit("\n".join(lines))
    if is_damaged:
        click.get_current_context().exit(Corrupt.exit_code)


debug.add_command(debug_wal)
debug.add_command(debug_control)
debug.add_command(debug_export)
