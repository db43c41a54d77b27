"""init: name a source and its archive, once; adopt an archive that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pitr.archive.archive import IDENTITY_KEY, Identity, create_or_adopt
from pitr.archive.location import make_store
from pitr.archive.store import find_object
from pitr.config import FILE_NAME, Settings, check_writable, proposed_settings, write_source
from pitr.errors import SourceUnusable
from pitr.operations.check import Examination, examine
from pitr.operations.opening import make_archive_store
from pitr.source_text import absolute, parse_archive, parse_source, without_password
from pitr.vocabulary.finding import Finding


@dataclass(frozen=True, slots=True)
class InitOutcome:
    """What init came to. `adopted`: the archive was there already.

    `key_file` is the path of a key file that was made.
    """

    name: str
    config: Path
    source: str
    location: str
    identity: Identity
    adopted: bool
    findings: tuple[Finding, ...]
    key_file: Path | None = None


def init(
    source_text: str,
    archive_text: str,
    *,
    name: str | None,
    folder: Path,
    environ: Mapping[str, str],
    keys: Mapping[str, str | None] | None = None,
) -> InitOutcome:
    """Make or adopt the archive and write the source's table into `folder`/pitr.toml.

    `keys` has a `key_file` or a `passphrase_file` that the archive is to be encrypted with; a key
    file of a new archive is made when it is missing.

    Raises SourceUnusable when there is no such database or it cannot be captured,
    IdentityMismatch, StoreUnusable, UsageError when the name is taken by another source, WrongKey.
    """
    source = parse_source(source_text, folder=folder)
    location = parse_archive(archive_text, folder=folder)
    config = folder / FILE_NAME
    values = {"source": source.location, "engine": source.engine, "archive": location}
    values |= {key: absolute(path, folder) for key, path in (keys or {}).items() if path}
    chosen = source.default_name if name is None else name
    settings = proposed_settings(config, chosen, values, environ=environ, cwd=folder)
    examined = examine(settings)
    identity = _usable(settings, examined)
    check_writable(config, chosen, values)
    store, key_file = make_archive_store(make_store(location), settings)
    known = find_object(store, IDENTITY_KEY) is not None
    made = create_or_adopt(store, engine=source.engine, identity=identity)
    write_source(config, chosen, values)
    return InitOutcome(
        chosen, config, source.location, store.location, made, known, examined.findings, key_file
    )


def _usable(settings: Settings, examined: Examination) -> dict[str, str]:
    """Return the identity of a source that can be captured. Raises SourceUnusable."""
    if examined.identity is None or examined.failures:
        raise SourceUnusable(
            f"{without_password(settings.needed_source().location)} cannot be captured",
            detail=" ".join(finding.detail for finding in examined.failures),
            hint=" ".join(finding.remedy for finding in examined.failures),
        )
    return examined.identity
