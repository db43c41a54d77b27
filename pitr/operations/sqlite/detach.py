"""detach on SQLite: a capture leaves nothing in the source."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.detach import Detached


def detach(settings: Settings) -> Detached:
    """Return that nothing was there."""
    return Detached(None)
