"""The texts that name a source and an archive: what they mean, and how they are kept.

A source is a SQLite file, `sqlite:///PATH`, or a PostgreSQL cluster as libpq names it: a
`postgresql://` URL, `service=NAME` or key=value pairs. Nothing here opens anything. A password is
neither kept nor shown: libpq finds it in ~/.pgpass or PGPASSWORD.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pitr.errors import NotConfigured, UsageError

SQLITE, POSTGRES = "sqlite", "postgres"

_POSTGRES = re.compile(
    r"postgres(?:ql)?:.*|(?:service|host|hostaddr|port|dbname|user|password|sslpassword|passfile|"
    r"sslmode|connect_timeout|application_name|target_session_attrs|options)\s*=.*",
    re.DOTALL | re.IGNORECASE,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
# Up to the last '@': a password that was not percent-encoded may hold any character.
_URL_PASSWORD = re.compile(r"(//[^:/@]*):.*@", re.DOTALL)
_PARAMETER_PASSWORD = re.compile(
    r"""([?&\s]|^)(?:ssl)?password\s*=\s*(?:'(?:[^'\\]|\\.)*(?:'|$)|[^&\s]*)""", re.IGNORECASE
)
_URL = re.compile(r"postgres(?:ql)?://(.*)", re.DOTALL | re.IGNORECASE)
_URL_PARTS = re.compile(
    r"(?:[^@/?]*@)?(?P<host>[^/?]*)(?:/(?P<database>[^?]*))?(?:\?(?P<rest>.*))?"
)
_NAMED = re.compile(r"(?:^|[\s&])(dbname|service|host)\s*=\s*'?([^'\s&]+)")


@dataclass(frozen=True, slots=True)
class Source:
    """A live database: its engine, and where it is.

    The location of a SQLite source is an absolute path, that of a PostgreSQL source is for libpq
    and holds no password.
    """

    engine: str
    location: str

    @property
    def path(self) -> Path:
        """Return the database file of a SQLite source."""
        assert self.engine == SQLITE, "only a SQLite source is a file"
        return Path(self.location)

    @property
    def default_name(self) -> str:
        """Return the name `init` gives this source when the user gives none."""
        name = self.path.stem if self.engine == SQLITE else _cluster_name(self.location)
        return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:64] or "main"


def parse_source(text: str, *, folder: Path) -> Source:
    """Return the source that SOURCE names; a relative path counts from `folder`.

    Says nothing about whether the database exists. Raises UsageError for a text that names no
    source, and for one with a password in it, which is shown nowhere.
    """
    text = text.strip()
    if _POSTGRES.fullmatch(text):
        return Source(POSTGRES, _cluster(text))
    path = text
    if text.startswith("sqlite://"):
        path = unquote(text.removeprefix("sqlite://"))
        if not path.startswith("/") or "?" in text:
            raise _no_source(text, "After 'sqlite://' comes an absolute path and nothing else.")
        path = "/" + path.lstrip("/")  # other tools write four slashes before an absolute path
    elif "://" in text:
        raise _no_source(text, "This is no kind of database that pitr knows.")
    if path in ("", "/", ":memory:") or path.startswith("file:") or "\0" in path:
        raise _no_source(text, "A SQLite source is a database file, named by its path.")
    return Source(SQLITE, absolute(path, folder))


def _cluster(text: str) -> str:
    """Return a PostgreSQL source as it is kept: as it was written, with one name for the scheme."""
    if without_password(text) != text:
        raise UsageError(
            f"source holds a password: {without_password(text)!r}",
            detail="It would be written to pitr.toml, and shown in messages and in the list of "
            "processes.",
            hint="Leave it out, and put it into ~/.pgpass (mode 0600) as "
            "HOST:PORT:*:ROLE:PASSWORD, or into PGPASSWORD.",
        )
    url = _URL.fullmatch(text)
    if (url is None and re.match(r"postgres(?:ql)?:", text, re.IGNORECASE)) or "\0" in text:
        raise _no_source(text, "A PostgreSQL source begins with 'postgresql://' or is key=value.")
    return f"postgresql://{url[1]}" if url else text


def _cluster_name(location: str) -> str:
    """Return what one would call a cluster: its service, else its database, else its host."""
    url = _URL.fullmatch(location)
    parts = _URL_PARTS.match(url[1]) if url else None
    found = dict(_NAMED.findall((parts["rest"] or "") if parts else location))
    database = (parts["database"] if parts else "") or found.get("dbname", "")
    host = (parts["host"] if parts else "") or found.get("host", "")
    return found.get("service") or unquote(database) or re.split(r"[:,]", host)[0] or POSTGRES


def database_of(location: str) -> str | None:
    """Return the database that a PostgreSQL source names, None when it leaves it to libpq."""
    url = _URL.fullmatch(location)
    parts = _URL_PARTS.match(url[1]) if url else None
    found = dict(_NAMED.findall((parts["rest"] or "") if parts else location))
    return unquote((parts["database"] if parts else "") or found.get("dbname", "")) or None


def _no_source(text: str, seen: str) -> UsageError:
    return UsageError(
        f"source is not understood: {without_password(text)!r}",
        detail=seen,
        hint="Name a SQLite file or a PostgreSQL server, as in 'pitr init orders.db --archive "
        "FOLDER' or 'pitr init postgresql://HOST/DATABASE --archive FOLDER'.",
    )


def without_password(text: str) -> str:
    """Return a connection text without its password; safe to write and to show."""
    text = _URL_PASSWORD.sub(r"\1@", text)
    return _PARAMETER_PASSWORD.sub(r"\1", text)


def parse_archive(text: str, *, folder: Path) -> str:
    """Return a LOCATION as it is kept: a folder as an absolute path, a URL as it is.

    Whether there can be an archive is for `pitr.archive.location` to say. Raises UsageError only
    for a location with a password, which must neither be kept nor shown, and for no path at all.
    """
    text = text.strip()
    if without_password(text) != text:
        raise UsageError(
            f"archive location holds a password: {without_password(text)!r}",
            detail="It would be written to the configuration and shown in messages.",
            hint="Put credentials into the environment, and leave them out of the location.",
        )
    if text.startswith("file:///"):
        text = unquote(text.removeprefix("file://"))
    return text if not text or _SCHEME.match(text) else absolute(text, folder)


def absolute(text: str, folder: Path) -> str:
    """Return a path as one that counts from `folder` when it is relative, with `~/` expanded.

    Raises UsageError for a text with a zero byte, which no path can hold.
    """
    if "\0" in text:
        raise UsageError(
            f"not a path: {text!r}",
            detail="It holds a zero byte.",
            hint="Write the path without it.",
        )
    path = folder / (home() / text[2:] if text.startswith("~/") else text)
    # '..' is resolved by the file system, because the folder before it may be a link; without
    # it links are kept, so that a path goes on meaning what its owner makes it point to.
    if ".." in path.parts:
        path = path.resolve() if path.name == ".." else path.parent.resolve() / path.name
    return str(path)


def home() -> Path:
    """Return the user's home folder. Raises NotConfigured when the system does not know it."""
    try:
        return Path.home()
    except RuntimeError:
        raise NotConfigured(
            "the home folder is not known",
            detail="HOME is not set, and the user has no entry in the password file.",
            hint="Set HOME, or set PITR_STATE to a folder for pitr's own files.",
        ) from None
