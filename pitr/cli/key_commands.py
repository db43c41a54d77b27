"""key: show and rotate the keys of an encrypted archive."""

from __future__ import annotations

from pathlib import Path

import click

from pitr.archive.keys import KeyState
from pitr.cli.options import Group, json_option, settings_of, source_options
from pitr.cli.render import emit, emit_json, note, time_cell
from pitr.config import Setting
from pitr.errors import UsageError
from pitr.operations.key import rotate as rotate_key
from pitr.operations.key import show_keys


@click.group(cls=Group)
def key() -> None:
    """Show and rotate the keys of an encrypted archive."""


@key.command("show")
@source_options
@json_option
def key_show(config: str | None, source: str | None, archive: str | None, *, as_json: bool) -> None:
    """Show what opens the archive, and the ids of its keys. Never a key."""
    _emit(show_keys(settings_of(config, source, archive)), as_json=as_json)


@key.command("rotate")
@click.option("--new-key-file", metavar="FILE", help="From now on this opens it; made if missing.")
@click.option("--new-passphrase-file", metavar="FILE", help="From now on this opens it.")
@source_options
@json_option
def key_rotate(
    new_key_file: str | None,
    new_passphrase_file: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Encrypt with a new key what is written from now on.

    What is there stays readable and is not encrypted again. With a new key file or passphrase the
    old one no longer opens the archive: change pitr.toml too. A running capture goes on with the
    old key; start it again.
    """
    if new_key_file and new_passphrase_file:
        raise UsageError(
            "an archive is opened by a key file or a passphrase, not by both",
            hint="Leave one of them away.",
        )
    new = None
    for name, given in (("key_file", new_key_file), ("passphrase_file", new_passphrase_file)):
        if given:
            new = Setting(name, str(Path(given).absolute()), f"flag --new-{name.replace('_', '-')}")
    state, made = rotate_key(settings_of(config, source, archive), new)
    _emit(state, as_json=as_json)
    if made:
        note(f"written: {made}; keep a copy elsewhere")
    if new:
        note(f'next: write {new.key} = "{new.value}" into pitr.toml, and start a capture again')
    else:
        note("next: start a running capture again; until then it goes on with the old key")


def _emit(state: KeyState, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "opened_by": state.method,
                "serial": state.serial,
                "written_us": state.created_us,
                "current": state.current,
                "known": list(state.known),
            }
        )
        return
    emit(f"opened by  {state.method}, written {time_cell(state.created_us)}")
    emit(f"new        is encrypted with key {state.current}")
    emit(f"keys       {', '.join(state.known)}")
