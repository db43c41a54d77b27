"""What both guards say of an archive that they cannot prove current."""

from __future__ import annotations

from pitr.errors import Interrupted, PitrError, PreconditionFailed, UsageError


def not_current(error: PitrError, undone: str) -> PitrError:
    """Return the error for an archive that could not be brought up to now; `undone` says what then.

    A wrong call and Ctrl-C say nothing of the archive: they stay what they are.
    """
    if isinstance(error, UsageError | Interrupted):
        return error
    return PreconditionFailed(
        f"the archive is not proven current, so {undone}: {error.message}",
        detail=error.detail,
        hint=error.hint or "Run 'pitr status' to see how the archive stands.",
    )
