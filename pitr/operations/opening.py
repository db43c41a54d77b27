"""Open the store of an archive, with its key where it is encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pitr.archive.archive import IDENTITY_KEY
from pitr.archive.location import open_store
from pitr.archive.store import Store, find_object
from pitr.config import Setting, Settings
from pitr.errors import NotConfigured, PreconditionFailed

if TYPE_CHECKING:  # cryptography is loaded for archives that are encrypted, and only then
    from pitr.archive.keys import Secret


def open_archive_store(settings: Settings) -> Store:
    """Return the store of the archive, opened when a key is configured.

    An archive that is encrypted while no key is configured is found out by `open_archive`. Raises
    NotConfigured without an archive, UsageError for a location of another form, WrongKey, and
    PreconditionFailed when a key is configured for an archive that is not encrypted.
    """
    store = open_store(settings.needed_archive())
    if settings.secret is None:
        return store
    from pitr.archive.keys import has_keys, open_encrypted

    if not has_keys(store):
        raise _not_encrypted(store, settings.secret)
    return open_encrypted(store, read_secret(settings.secret))


def make_archive_store(store: Store, settings: Settings) -> tuple[Store, Path | None]:
    """Return the store of an archive that may be new, and the path of a key file that was made.

    With a key configured a new archive is encrypted. Raises as `open_archive_store`.
    """
    exists = find_object(store, IDENTITY_KEY) is not None
    setting = settings.secret
    if setting is None:
        if not exists and any(store.list("key/")):
            raise NotConfigured(
                f"the archive at {store.location} is encrypted",
                detail="An init that was stopped made its keys and no more.",
                hint="Name its key again, or use an empty location.",
            )
        return store, None
    from pitr.archive.keys import create_keys, has_keys, open_encrypted

    if has_keys(store):
        return open_encrypted(store, read_secret(setting)), None
    if exists:
        raise _not_encrypted(store, setting)
    made = new_key_file(setting)
    return create_keys(store, read_secret(setting)), made


def new_key_file(setting: Setting) -> Path | None:
    """Make the key file of a setting when there is none; return its path when it was made."""
    from pitr.archive.keys import make_key_file

    path = Path(setting.value)
    if setting.key != "key_file" or path.exists():
        return None
    make_key_file(path)
    return path


def read_secret(setting: Setting) -> Secret:
    """Return the secret that a setting leads to. Raises NotConfigured, PreconditionFailed."""
    from pitr.archive.keys import passphrase, read_key_file, read_passphrase_file

    if setting.key == "key_file":
        return read_key_file(Path(setting.value))
    if setting.key == "passphrase_file":
        return read_passphrase_file(Path(setting.value))
    return passphrase(setting.value, setting.origin)


def _not_encrypted(store: Store, setting: Setting) -> PreconditionFailed:
    return PreconditionFailed(
        f"the archive at {store.location} is not encrypted",
        detail=f"A key is configured for it: {setting.origin}. Nothing is written in plain where "
        "encryption is expected.",
        hint="Check the location. For a plain archive leave the key away; for an encrypted one "
        "begin anew: 'pitr init SOURCE --archive LOCATION --key-file FILE' with another location.",
    )
