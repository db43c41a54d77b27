"""What the commands share: option groups, the settings they lead to, the exit codes in --help."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from pitr.config import Settings, resolve_settings
from pitr.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_KEY_FILE = "pitr.key_file"
TARGET_FORMS = "'2026-11-22 14:03', '10m', commit:N or xid:N, before:commit:N, name:MARK, latest"
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


class Group(click.Group):
    """A group that lists its commands in the order of the story and shows exit codes everywhere."""

    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added, not of the alphabet."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, its help ending with the exit codes as that of every command does."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.epilog = EXIT_CODES
        return command


class LazyCommands(Mapping[str, click.Command]):
    """Commands by name, each given as `module:function` and imported when it is asked for.

    So `pitr --version` and a typing error cost no more than this package, and `pitr log` does not
    wait for what only `pitr capture` needs.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> click.Command:
        """Return a command. Raises KeyError when there is none of that name."""
        module, _, attribute = self._places[name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return how many commands there are."""
        return len(self._places)


def json_option(function: F) -> F:
    """Add --json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
    )(function)


def source_options(function: F) -> F:
    """Add the options that lead to a source and its archive.

    The key does not become a parameter of the command: `settings_of` finds it in click's context.
    """
    for option in (
        click.option(
            "--key-file",
            metavar="FILE",
            expose_value=False,
            callback=_remember_key,
            help="The key of an encrypted archive, instead of pitr.toml's.",
        ),
        click.option("--archive", metavar="LOCATION", help="The archive, instead of pitr.toml's."),
        click.option("--source", metavar="NAME", help="Which [source.NAME] of pitr.toml."),
        click.option(
            "--config", metavar="FILE", help="The pitr.toml to use, instead of the nearest one."
        ),
    ):
        function = option(function)
    return function


def _remember_key(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    context.meta[_KEY_FILE] = value


def settings_of(
    config: str | None, source: str | None, archive: str | None, **more: str | None
) -> Settings:
    """Return the settings that flags, environment and pitr.toml come to.

    `more` are flags of one command, named as the settings that they override.
    """
    key_file = click.get_current_context().meta.get(_KEY_FILE)
    flags = {"archive": archive, "key_file": key_file, **more}
    return resolve_settings(
        config_path=Path(config) if config else None,
        source_name=source,
        flags=flags,
        environ=os.environ,
        cwd=Path.cwd(),
    )


def quantity(option: str, text: str, parse: Callable[[str], T], example: str) -> T:
    """Return the value of an option that is a size or a length of time. Raises UsageError."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(
            f"{option} is not understood: {text!r}",
            detail=str(error),
            hint=f"Write, for example, '{option} {example}'.",
        ) from None
