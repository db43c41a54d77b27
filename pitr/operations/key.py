"""key: what opens an encrypted archive, and what new objects are encrypted with."""

from __future__ import annotations

from pathlib import Path

from pitr.archive.keys import KeyState, read_key_state
from pitr.archive.keys import rotate as rotate_keys
from pitr.archive.location import open_store
from pitr.config import Setting, Settings
from pitr.errors import NotConfigured
from pitr.operations.opening import new_key_file, read_secret


def show_keys(settings: Settings) -> KeyState:
    """Return what may be shown of the keys of an archive.

    Raises NotConfigured without a key or for a plain archive, WrongKey, StoreUnusable.
    """
    store = open_store(settings.needed_archive())
    return read_key_state(store, read_secret(_needed(settings)))


def rotate(settings: Settings, new_secret: Setting | None) -> tuple[KeyState, Path | None]:
    """Encrypt with a new key what is written from now on; return the keys there are then.

    With `new_secret` it alone opens the archive; its key file is made when it is missing, and its
    path returned. Raises as `show_keys`, and PreconditionFailed when another rotation came first.
    """
    store = open_store(settings.needed_archive())
    secret = read_secret(_needed(settings))
    read_key_state(store, secret)  # before anything is made
    if new_secret is None:
        return rotate_keys(store, secret), None
    made = new_key_file(new_secret)
    return rotate_keys(store, secret, read_secret(new_secret)), made


def _needed(settings: Settings) -> Setting:
    if settings.secret is None:
        raise NotConfigured(
            "no key is configured for the archive",
            detail="An archive is encrypted from its 'pitr init' on, or never.",
            hint="Begin an encrypted one: 'pitr init SOURCE --archive LOCATION --key-file FILE' "
            "with another location.",
        )
    return settings.secret
