"""check: can this source be captured and recovered? Each failing point with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pitr.archive.archive import open_archive, probe_conditional_put, require_source
from pitr.config import Settings
from pitr.errors import PitrError
from pitr.operations.engine import engine_of_source, wired
from pitr.operations.opening import open_archive_store
from pitr.vocabulary.finding import Finding, Level


@dataclass(frozen=True, slots=True)
class Examination:
    """What an engine found out about a source.

    `identity` tells the source from every other source of its engine, as an archive records it;
    None when it could not be asked for it.
    """

    findings: tuple[Finding, ...]
    identity: dict[str, str] | None

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Return the findings that keep the source from being captured."""
        return tuple(finding for finding in self.findings if finding.level is Level.FAIL)


def check(settings: Settings) -> list[Finding]:
    """Return the findings about the source, then about the archive; write nothing to either."""
    examined = examine(settings)
    return [*examined.findings, *_check_archive(settings, examined.identity)]


def examine(settings: Settings) -> Examination:
    """Look at the source alone. What is wrong with it is a finding, never an error."""
    return wired(examine, engine_of_source(settings))(settings)


def _check_archive(settings: Settings, identity: dict[str, str] | None) -> Iterator[Finding]:
    try:
        store = open_archive_store(settings)
        found = open_archive(store)
        probe_conditional_put(store)
        if identity is not None:
            require_source(store, found, engine=engine_of_source(settings), identity=identity)
    except PitrError as error:
        detail = error.sentence
        yield Finding(Level.FAIL, "archive", detail, error.advice or "")
        return
    yield Finding(Level.OK, "archive", f"{store.location} can be written and keeps leases.")
