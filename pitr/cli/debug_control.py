"""debug control: look into a cluster's pg_control."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from pitr.cli.options import json_option
from pitr.cli.render import emit, emit_json
from pitr.postgres.base.control import parse_control
from pitr.vocabulary.position import Lsn


@click.command("control")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def debug_control(file: Path, *, as_json: bool) -> None:
    """Show what a cluster knows of itself, from its pg_control."""
    found = dataclasses.asdict(parse_control(file.read_bytes()))
    # asdict takes an LSN apart, too.
    fields = {
        key: str(Lsn(**value)) if isinstance(value, dict) else value for key, value in found.items()
    }
    if as_json:
        emit_json(fields)
    else:
        width = max(map(len, fields))
        emit("\n".join(f"{key:{width}}  {value}" for key, value in fields.items()))
