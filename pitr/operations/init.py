"""init: name a source and its archive, once; adopt an archive that is there already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pitr.archive.archive import Identity, create_or_adopt
from pitr.archive.location import make_store
from pitr.config import FILE_NAME, check_writable, write_source
from pitr.errors import SourceUnusable
from pitr.source_text import parse_archive, parse_source
from pitr.sqlite.capture.capability import check_source
from pitr.vocabulary.finding import Finding, Level


@dataclass(frozen=True, slots=True)
class InitOutcome:
    """What init came to. `adopted`: the archive was there already."""

    name: str
    config: Path
    location: str
    identity: Identity
    adopted: bool
    findings: tuple[Finding, ...]


def init(source_text: str, archive_text: str, *, name: str | None, folder: Path) -> InitOutcome:
    """Make or adopt the archive and write the source's table into `folder`/pitr.toml.

    Raises SourceUnusable when there is no such database, IdentityMismatch, StoreUnusable,
    UsageError when the name is taken by another source.
    """
    source = parse_source(source_text, folder=folder)
    findings = tuple(check_source(source.path))
    for finding in findings:
        if finding.level is Level.FAIL:
            raise SourceUnusable(
                f"{source.path} cannot be captured", detail=finding.detail, hint=finding.remedy
            )
    location = parse_archive(archive_text, folder=folder)
    config = folder / FILE_NAME
    values = {"source": source.location, "engine": source.engine, "archive": location}
    chosen = source.default_name if name is None else name
    check_writable(config, chosen, values)
    store = make_store(location)
    known = any(store.list("pitr-archive"))
    identity = create_or_adopt(store, engine=source.engine, identity={"path": source.location})
    write_source(config, chosen, values)
    return InitOutcome(chosen, config, store.location, identity, known, findings)
