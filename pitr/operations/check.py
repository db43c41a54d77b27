"""check: can this source be captured and recovered? Each failing point with its remedy."""

from __future__ import annotations

from collections.abc import Iterable

from pitr.archive.archive import open_archive, probe_conditional_put
from pitr.archive.location import open_store
from pitr.config import Settings
from pitr.errors import IdentityMismatch, PitrError
from pitr.sqlite.capture.capability import check_source
from pitr.vocabulary.finding import Finding, Level


def check(settings: Settings) -> list[Finding]:
    """Return the findings about the source, then about the archive; write nothing to either."""
    path = settings.needed_source().path
    return [*check_source(path), *_check_archive(settings)]


def _check_archive(settings: Settings) -> Iterable[Finding]:
    try:
        store = open_store(settings.needed_archive())
        identity = open_archive(store)
        probe_conditional_put(store)
        expected = settings.needed_source().location
        if identity.source != {"path": expected}:
            raise IdentityMismatch(
                f"the archive at {store.location} holds another source",
                detail=f"It holds {identity.source.get('path')}, not {expected}.",
                hint="Name another LOCATION: one archive holds one source.",
            )
    except PitrError as error:
        detail = f"{error.message}. {error.detail or ''}".strip()
        return [Finding(Level.FAIL, "archive", detail, error.hint or "")]
    return [Finding(Level.OK, "archive", f"{store.location} can be written and keeps leases.", "")]
