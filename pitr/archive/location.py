"""From what a user writes for an archive's place to the store that is there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pitr.archive.local import LocalStore
from pitr.archive.store import Store
from pitr.errors import UsageError

ALLOWED = "a folder, file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_CLOUDS = ("s3", "gs", "az")


def open_store(location: str) -> Store:
    """Return the store at a location; nothing is read, made or asked of the network yet.

    Raises UsageError for a location of another form, PreconditionFailed when the environment
    contradicts itself. No error shows what might be a password in the location.
    """
    match = _SCHEME.match(location)
    if match is None:
        return LocalStore(_folder(location))
    scheme = match[1].lower()
    if scheme not in ("file", *_CLOUDS):
        raise _not_allowed(f"The scheme {scheme}: is none of them.")
    try:
        parts = urlsplit(location)
    except ValueError:
        raise _not_allowed("It is not a URL.") from None
    if not location[match.end() :].startswith("//"):
        raise _not_allowed(f"{scheme}: has to be followed by two slashes.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "a location holds neither credentials nor parameters",
            detail="It would be written to pitr.toml and shown in messages.",
            hint="Put credentials into the environment, and encode @, ? and # in names as %XX.",
        )
    if scheme == "file":
        return LocalStore(_file_folder(parts.netloc, parts.path))
    return _open_cloud(scheme, parts.netloc, parts.path)


def make_store(location: str) -> Store:
    """Return the store at a location, making the folder of a local one; a bucket must exist.

    Raises as `open_store`, and StoreUnusable when the folder cannot be made.
    """
    store = open_store(location)
    if isinstance(store, LocalStore):
        store.make()
    return store


def _folder(location: str) -> Path:
    if not location or "\0" in location:
        raise _not_allowed("It is empty." if not location else "It holds a zero byte.")
    try:
        return Path(location).expanduser()
    except RuntimeError:
        raise _not_allowed("Its ~ names a user without a home folder.") from None


def _file_folder(host: str, path: str) -> Path:
    if host not in ("", "localhost"):
        raise _not_allowed(f"file://{host} is another machine; a path begins with file:///.")
    folder = unquote(path)
    if not folder.startswith("/") or "\0" in folder:
        raise _not_allowed("file:// has to be followed by an absolute path.")
    return Path(folder)


def _open_cloud(scheme: str, bucket: str, path: str) -> Store:
    # Imported here: a local archive must not pay for loading a network library.
    from pitr.archive.cloud import open_cloud

    prefix = unquote(path).strip("/")
    if not bucket or ":" in bucket:
        raise _not_allowed(f"{scheme}:// has to be followed by the name of a bucket.")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise _not_allowed("The prefix has an empty part, or one that is . or ...")
    return open_cloud(scheme, bucket, prefix)


def _not_allowed(why: str) -> UsageError:
    return UsageError(
        "this is no place for an archive", detail=why, hint=f"Name one of: {ALLOWED}."
    )
