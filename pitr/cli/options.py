"""What the commands share: option groups, the settings they lead to, the exit codes in --help."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pitr.config import Settings, resolve_settings

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes:
  0    done, or nothing to do
  1    the answer is no: differences, verification failed, conflicts
  2    usage, or confirmation missing
  3    precondition: not configured, locked, cannot connect or capture
  4    the archive lacks what the target needs
  5    corrupt input or archive
  6    the database refused: rolled back
  7    the plan is stale
  20   the guarded command failed
  70   a bug of ours
  130  interrupted
"""


class Command(click.Command):
    """A command whose help ends with the exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes below everything else."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write("\n".join(EXIT_CODES.splitlines()[1:]) + "\n")


class Group(click.Group):
    """A group whose commands are listed in the order in which they were added."""

    command_class = Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the story, not of the alphabet."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes below everything else."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write("\n".join(EXIT_CODES.splitlines()[1:]) + "\n")


def json_option(function: F) -> F:
    """Add --json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
    )(function)


def source_options(function: F) -> F:
    """Add the options that lead to a source and its archive."""
    for option in (
        click.option("--archive", metavar="LOCATION", help="The archive, instead of pitr.toml's."),
        click.option("--source", metavar="NAME", help="Which [source.NAME] of pitr.toml."),
        click.option(
            "--config", metavar="FILE", help="The pitr.toml to use, instead of the nearest one."
        ),
    ):
        function = option(function)
    return function


def settings_of(
    config: str | None, source: str | None, archive: str | None, *, poll: str | None = None
) -> Settings:
    """Return the settings that flags, environment and pitr.toml come to."""
    flags = {"archive": archive, "poll": poll}
    return resolve_settings(
        config_path=Path(config) if config else None,
        source_name=source,
        flags=flags,
        environ=os.environ,
        cwd=Path.cwd(),
    )
