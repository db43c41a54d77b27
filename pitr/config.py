"""pitr.toml and the environment: which source, which archive, and where every value came from.

    [source.orders]
    source = "/srv/shop/orders.db"
    engine = "sqlite"
    archive = "s3://backups/orders"

    [source.shop]
    source = "postgresql://pitr@db.example/shop"
    engine = "postgres"
    archive = "s3://backups/shop"

A value comes from the command line, else from the environment (`PITR_ARCHIVE`, `PITR_POLL`, ...),
else from the file, else it is the default. Relative paths in the file count from the file's folder.
Nothing here opens a database or an archive.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pitr.durable import write_new, write_replace
from pitr.errors import NotConfigured, UsageError
from pitr.source_text import (
    POSTGRES,
    SQLITE,
    Source,
    absolute,
    home,
    parse_archive,
    parse_source,
    without_password,
)
from pitr.vocabulary.quantity import parse_duration_us, parse_size_bytes

FILE_NAME = "pitr.toml"
_DEFAULTS = {
    "poll": "250ms",
    "flush": "2s",
    "spool_limit": "1GB",
    "fine_window": "7d",
    "sidecar_user": "postgres",
}
# What one engine has a use for and the other has not; `database`, `pg_bindir` and
# `sidecar_folder` have no default,
# and that of `slot` follows from the source's name.
_OF_ENGINE = {
    SQLITE: ("poll",),
    POSTGRES: ("slot", "database", "pg_bindir", "sidecar_user", "sidecar_folder"),
}
# What opens an encrypted archive, one of them. A passphrase itself does not stand in pitr.toml.
_SECRETS = ("key_file", "passphrase_file", "passphrase")
_VALUES = (*_OF_ENGINE[SQLITE], "flush", "spool_limit", "fine_window", *_OF_ENGINE[POSTGRES])
# The source is what NAME stands for, so it has no flag and no variable: name another source.
_KEYS = ("source", "engine", "archive", *_SECRETS[:2], *_VALUES, "state")
_PATHS = ("state", "pg_bindir", "sidecar_folder", *_SECRETS[:2])
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# PostgreSQL's rule for the name of a replication slot.
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


# --- what a command works with -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as text, and where it came from: a line of `pitr config show`."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one command works with; `shown` says where each value came from.

    `name` and `source` are None when only an archive was named: reading the past needs no more.
    The archive need not belong to the source until their identities have been compared. `secret` is
    what opens an encrypted archive: its key is one of `key_file`, `passphrase_file` (paths) and
    `passphrase`. The last five are PostgreSQL's: the replication slot that keeps WAL until it is
    archived, the database that table names are looked up in (None: the one that the source leads
    to), the folder with the server's programs (None: looked for), the user that a sidecar runs as
    when we are root, and the folder for sidecars (None: the state folder, for root one that this
    user can walk to).
    """

    config: Path | None
    name: str | None
    source: Source | None
    archive: str | None
    secret: Setting | None = field(repr=False)
    poll_us: int
    flush_us: int
    spool_limit_bytes: int
    fine_window_us: int
    state: Path
    slot: str
    database: str | None
    pg_bindir: Path | None
    sidecar_user: str
    sidecar_folder: Path | None
    shown: tuple[Setting, ...]

    @property
    def is_archive_of_source(self) -> bool:
        """Return whether source and archive were named together, in one table of pitr.toml."""
        origins = {setting.key: setting.origin for setting in self.shown}
        return "source" in origins and origins["source"] == origins.get("archive")

    def needed_source(self) -> Source:
        """Return the source. Raises NotConfigured when there is none."""
        if self.source is None:
            raise self._missing("source")
        return self.source

    def source_of(self, engine: str) -> Source | None:
        """Return the source when it is of an engine: an archive may have been named beside another.

        Whether it is the very source that the archive holds is not known.
        """
        source = self.source
        return source if source is not None and source.engine == engine else None

    def needed_archive(self) -> str:
        """Return the archive's location. Raises NotConfigured when there is none."""
        if self.archive is None:
            raise self._missing("archive")
        return self.archive

    def _missing(self, what: str) -> NotConfigured:
        if self.config is None:
            detail = f"There is no {FILE_NAME} in this folder or above it."
        else:
            detail = f"{self.config} was read, and no {what} follows from it."
        return NotConfigured(
            f"no {what} is configured",
            detail=detail,
            hint="Run 'pitr init SOURCE --archive LOCATION' first, or choose with '--source NAME'"
            " or '--config FILE'.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A pitr.toml that was read and checked, or its absence, and the environment beside it.

    `sources` holds the tables by name, as written. `folder` is where the command runs.
    """

    path: Path | None
    sources: Mapping[str, Mapping[str, str]]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path

    def choose(
        self, name: str | None = None, *, flags: Mapping[str, str | None] | None = None
    ) -> Settings:
        """Return the settings for the source called `name`, or for the only one.

        `flags` holds the command line's values by key (`archive`, `poll`, ...), None when not
        given. With several sources and none chosen, an archive that was named decides; without
        any source an archive is enough. Raises UsageError, NotConfigured, SourceUnusable.
        """
        flags = flags or {}
        chosen = self._chosen(name, flags)
        name = None if chosen is None else chosen.value
        source = None if name is None else self._in_file("source", name)
        archive = self._find("archive", name, flags)
        secret = self._secret(name, flags)
        state = self._find("state", name, flags) or self._default_state()
        parsed = None if source is None else parse_source(source.value, folder=self.folder)
        foreign = _foreign_keys(parsed.engine if parsed else None)
        if name is not None and parsed is not None:
            self._check_engine(name, parsed.engine, foreign)
        found = {key: self._value(key, name, flags) for key in _VALUES}
        used = (setting for key, setting in found.items() if key not in foreign)
        shown = (chosen, source, archive, _hidden(secret), *used, state)
        values = {key: setting.value for key, setting in found.items() if setting is not None}
        return Settings(
            config=self.path,
            name=name,
            source=parsed,
            archive=None if archive is None else archive.value,
            secret=secret,
            poll_us=_quantity(found["poll"], _parse_interval_us),
            flush_us=_quantity(found["flush"], parse_duration_us),
            spool_limit_bytes=_quantity(found["spool_limit"], parse_size_bytes),
            fine_window_us=_quantity(found["fine_window"], parse_duration_us),
            state=Path(state.value),
            slot=_quantity(found["slot"], _parse_slot),
            database=values.get("database"),
            pg_bindir=Path(values["pg_bindir"]) if "pg_bindir" in values else None,
            sidecar_user=values["sidecar_user"],
            sidecar_folder=Path(values["sidecar_folder"]) if "sidecar_folder" in values else None,
            shown=tuple(setting for setting in shown if setting is not None),
        )

    def _check_engine(self, name: str, engine: str, foreign: Sequence[str]) -> None:
        """Refuse an engine that the source is not of, and settings of the other engine."""
        table = self.sources[name]
        assert self.path is not None, "a table with a source was read from a file"
        if table.get("engine", engine) != engine:
            hint = f'Write engine = "{engine}".'
            raise _wrong(self.path, f"source.{name}.engine", "is not that of the source", hint)
        for key in foreign:
            if key in table:
                hint = f"It is for a source of another engine than {engine}: remove it."
                raise _wrong(self.path, f"source.{name}.{key}", "means nothing here", hint)

    def _value(self, key: str, name: str | None, flags: Mapping[str, str | None]) -> Setting | None:
        """Return a setting from where it is given, else its default, else None."""
        default = _default_slot(name) if key == "slot" else _DEFAULTS.get(key)
        found = self._find(key, name, flags)
        if found is None and default is not None:
            found = Setting(key, default, "default")
        return found

    def _chosen(self, name: str | None, flags: Mapping[str, str | None]) -> Setting | None:
        """Return the name of the source to work with, and who chose it."""
        variable = self.environment.get("PITR_SOURCE")
        for text, origin in ((name, "flag --source"), (variable, "environment PITR_SOURCE")):
            if text is not None:
                if text not in self.sources:
                    raise self._unknown_source(text)
                return Setting("name", text, origin)
        if len(self.sources) == 1:
            return Setting("name", next(iter(self.sources)), "the only source")
        archive = self._outside_file("archive", flags)
        if archive is None and self.sources:
            raise UsageError(
                "several sources are configured and none is chosen",
                detail=self._names(),
                hint=f"Choose one with '--source {min(self.sources)}', or set PITR_SOURCE.",
            )
        for candidate in self.sources:
            own = self._in_file("archive", candidate)
            if own is not None and archive is not None and own.value == archive.value:
                return Setting("name", candidate, f"its archive, by {archive.origin}")
        return None

    def _names(self) -> str:
        if self.path is None:
            return f"There is no {FILE_NAME} in this folder or above it."
        return f"{self.path} names {', '.join(sorted(self.sources)) or 'no source'}."

    def _unknown_source(self, name: str) -> NotConfigured:
        return NotConfigured(
            f"no source is called {name!r}",
            detail=self._names(),
            hint="Choose one that is there, or add it with 'pitr init SOURCE --archive LOCATION "
            "--name NAME'.",
        )

    def _find(self, key: str, name: str | None, flags: Mapping[str, str | None]) -> Setting | None:
        """Return one value from the most special place that has it: flag, environment, file."""
        found = self._outside_file(key, flags)
        if found is None and name is not None:
            found = self._in_file(key, name)
        return found

    def _secret(self, name: str | None, flags: Mapping[str, str | None]) -> Setting | None:
        """Return what opens the archive, from the most special place that has one of its forms."""
        found = [item for key in _SECRETS if (item := self._outside_file(key, flags)) is not None]
        from_flags = [item for item in found if item.origin.startswith("flag ")]
        found = from_flags or found
        if not found and name is not None:
            in_file = (self._in_file(key, name) for key in _SECRETS[:2])
            found = [item for item in in_file if item is not None]
        if len(found) > 1:
            raise UsageError(
                "an archive is opened by a key file or a passphrase, not by both",
                detail=f"There is {found[0].origin}, and {found[1].origin}.",
                hint="Leave one of them away.",
            )
        return found[0] if found else None

    def _outside_file(self, key: str, flags: Mapping[str, str | None]) -> Setting | None:
        variable = f"PITR_{key.upper()}"
        for text, origin in (
            (flags.get(key), f"flag --{key.replace('_', '-')}"),
            (self.environment.get(variable), f"environment {variable}"),
        ):
            if text is not None:
                return Setting(key, _normal(key, text, self.folder), origin)
        return None

    def _in_file(self, key: str, name: str) -> Setting | None:
        text = self.sources[name].get(key)
        if text is None or self.path is None:
            return None
        origin = f"{self.path} [source.{name}]"
        return Setting(key, _normal(key, text, self.path.parent), origin)

    def _default_state(self) -> Setting:
        if self.path is not None:
            return Setting("state", str(self.path.parent / ".pitr"), "default")
        # The XDG rule: a relative path in this variable counts as if it were not set.
        base = Path(self.environment.get("XDG_STATE_HOME", ""))
        if not base.is_absolute():
            base = home() / ".local" / "state"
        return Setting("state", str(base / "pitr"), "default")


def _normal(key: str, text: str, folder: Path) -> str:
    """Return a value as it is compared and shown: places absolute, everything else as written."""
    if key == "source":
        return parse_source(text, folder=folder).location
    if key == "archive":
        return parse_archive(text, folder=folder)
    return absolute(text, folder) if key in _PATHS else text


def _hidden(secret: Setting | None) -> Setting | None:
    """Return a setting as it may be shown."""
    if secret is None or secret.key != "passphrase":
        return secret
    return Setting(secret.key, "(not shown)", secret.origin)


def _foreign_keys(engine: str | None) -> tuple[str, ...]:
    """Return the keys that mean nothing to an engine; without an engine all may mean something."""
    return () if engine is None else _OF_ENGINE[POSTGRES if engine == SQLITE else SQLITE]


def _default_slot(name: str | None) -> str:
    """Return the name of the slot for a source, so that two sources of one cluster have two."""
    return "_".join(["pitr", *re.findall(r"[a-z0-9]+", (name or "").lower())])[:63]


def _parse_slot(text: str) -> str:
    if not _SLOT.fullmatch(text):
        raise ValueError("It is no slot's name: a-z, 0-9 and _ only, at most 63 of them.")
    return text


def _parse_interval_us(text: str) -> int:
    interval_us = parse_duration_us(text)
    if not interval_us:
        raise ValueError("It must not be zero.")
    return interval_us


def _quantity(setting: Setting | None, parse: Callable[[str], T]) -> T:
    assert setting is not None, "a setting with a default has a value"
    try:
        return parse(setting.value)
    except ValueError as error:
        raise UsageError(
            f"{setting.key} is not understood: {setting.value!r}",
            detail=f"{error} It comes from {setting.origin}.",
            hint=f"The default is '{_DEFAULTS.get(setting.key, _default_slot(None))}'.",
        ) from None


# --- the file ------------------------------------------------------------------------------------


def load(path: Path | None, *, environ: Mapping[str, str], cwd: Path) -> Config:
    """Read pitr.toml: `path`, else PITR_CONFIG, else the next one from `cwd` upwards.

    None of them is no fault. Raises NotConfigured when a file that was named cannot be read,
    UsageError when a file is not as it must be, naming the line or the key.
    """
    environment = _ours(environ)
    if path is None and "PITR_CONFIG" in environment:
        path = Path(environment["PITR_CONFIG"])
    folder = cwd.absolute()
    if path is None:
        path = next(
            (
                candidate / FILE_NAME
                for candidate in (folder, *folder.parents)
                if (candidate / FILE_NAME).is_file()
            ),
            None,
        )
    else:
        path = folder / path
    sources = {} if path is None else _checked(path, _parsed(path, _read(path)))
    return Config(path=path, sources=sources, environment=environment, folder=folder)


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that say something to us; an empty one counts as not set."""
    return {
        key: value
        for key, value in environ.items()
        if value and (key.startswith("PITR_") or key == "XDG_STATE_HOME")
    }


def resolve_settings(
    *,
    config_path: Path | None,
    source_name: str | None,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    cwd: Path,
) -> Settings:
    """Return what one command works with: `load`, then `Config.choose`, with their errors."""
    return load(config_path, environ=environ, cwd=cwd).choose(source_name, flags=flags)


def proposed_settings(
    path: Path, name: str, values: Mapping[str, str], *, environ: Mapping[str, str], cwd: Path
) -> Settings:
    """Return what a command would work with if a pitr.toml had this table. Raises UsageError."""
    sources = _checked(path, {"source": {name: dict(values)}})
    config = Config(path=path, sources=sources, environment=_ours(environ), folder=cwd)
    return config.choose(name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotConfigured(
            f"configuration cannot be read: {path}",
            detail=f"{error.strerror}.",
            hint="Name another file with '--config FILE' or PITR_CONFIG, or write one with "
            "'pitr init SOURCE --archive LOCATION'.",
        ) from None


def _parsed(path: Path, data: bytes) -> dict[str, object]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        reason = f"Byte {error.start} is not UTF-8."
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        reason = f"{error}."
    raise UsageError(
        f"configuration is not TOML: {path}",
        detail=reason,
        hint="Mend that line; text values stand in double quotes.",
    )


def _checked(path: Path, document: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Return the tables of the sources by name. Raises UsageError naming the first wrong key."""
    _check_keys(path, "", document, ("source",))
    tables = document.get("source", {})
    if not isinstance(tables, dict):
        raise _wrong(path, "source", "is no table", "Write '[source.NAME]' above its keys.")
    for name, table in tables.items():
        where = f"source.{name}"
        if not _NAME.fullmatch(name):
            raise _wrong(path, where, "is no name", "Names have letters, digits, '-' and '_' only.")
        if not isinstance(table, dict):
            raise _wrong(path, where, "is no table", f"Write '[{where}]' above its keys.")
        _check_keys(path, f"{where}.", table, _KEYS)
        for key, value in table.items():
            if not isinstance(value, str) or not value:
                raise _wrong(path, f"{where}.{key}", "is no text", f'Write {key} = "…".')
        if "source" not in table:
            raise _wrong(path, where, "names no source", 'Write source = "FILE" below it.')
        if table.get("engine", SQLITE) not in _OF_ENGINE:
            raise _wrong(path, f"{where}.engine", "is unknown", 'Write engine = "sqlite".')
    return tables


def _check_keys(path: Path, prefix: str, table: Mapping[str, object], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(known)}."
            raise _wrong(path, f"{prefix}{key}", "is unknown", hint)


def _wrong(path: Path, key: str, what: str, hint: str) -> UsageError:
    return UsageError(f"configuration is wrong: {key} {what}", detail=f"In {path}.", hint=hint)


# --- writing the file ----------------------------------------------------------------------------


def write_source(path: Path, name: str, settings: Mapping[str, str]) -> bool:
    """Append a [source.NAME] table to a pitr.toml, made when missing; the rest stays untouched.

    Returns False, and writes nothing, when the file already says the same about NAME. Durable
    on return. Raises as `check_writable` does.
    """
    path = path.resolve()  # what a link points to is replaced, and the link stays
    new = _extended(path, name, settings)
    if new is None:
        return False
    if not path.exists():
        write_new(path, new)
        return True
    mode = path.stat().st_mode & 0o777
    write_replace(path, new)
    path.chmod(mode)
    return True


def check_writable(path: Path, name: str, settings: Mapping[str, str]) -> None:
    """Raise UsageError unless `write_source` can write this table.

    It cannot when NAME is taken by other values or is no name, and when the file is written in a
    way that cannot be appended to.
    """
    _extended(path.resolve(), name, settings)


def _extended(path: Path, name: str, settings: Mapping[str, str]) -> bytes | None:
    """Return the file with the new table, None when it says the same already."""
    _checked(path, {"source": {name: dict(settings)}})
    old = _read(path) if path.exists() else b""
    sources = _checked(path, _parsed(path, old))
    if name in sources:
        _check_same(path, name, sources[name], settings)
        return None
    table = _encoded(path, name, settings)
    gap = b"" if not old else b"\n" if old.endswith(b"\n") else b"\n\n"
    new = old + gap + table
    try:
        tomllib.loads(new.decode())
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"configuration cannot be extended: {path}",
            detail=f"With the new table it would not be TOML: {error}.",
            hint=f"Add it by hand, as a table [source.{name}].",
        ) from None
    return new


def _check_same(
    path: Path, name: str, there: Mapping[str, str], settings: Mapping[str, str]
) -> None:
    for key, value in settings.items():
        # The engine may be left out, since it follows from the source, which is compared as well.
        said = there.get(key, value if key == "engine" else "")
        if not said or _normal(key, said, path.parent) != _normal(key, value, path.parent):
            raise UsageError(
                f"source {name!r} is configured already, and differently",
                detail=f"In {path}, its {key} is {without_password(said)!r}.",
                hint="Choose another name with '--name NAME', or edit the file.",
            )


def _encoded(path: Path, name: str, settings: Mapping[str, str]) -> bytes:
    """Return the lines of a table. JSON's strings are TOML's, except for one character."""
    lines = [f"[source.{name}]"]
    for key, value in settings.items():
        quoted = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"{key} = {quoted}")
    try:
        return ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"source {name!r} cannot be written to {path}",
            detail="A path in it is not UTF-8.",
            hint="Give the path another name, or reach it through a link with a UTF-8 name.",
        ) from None
