"""merge marks: names for the states just before and just after a merge or an undo.

A merge that was committed stays what it is: whatever keeps it from being marked is told with it.
"""

from __future__ import annotations

from pitr.config import Settings
from pitr.errors import PitrError, PreconditionFailed
from pitr.operations.capture import is_captured
from pitr.operations.engine import wired
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.plan import CommitTrace, MergeMarks, Plan

# For how long a running capture is waited for; it usually takes its poll, its flush, and a little.
WAIT_SECONDS = 10.0

_WAITING = Event(
    Level.INFO,
    "the merge is made; its marks wait for the capture",
    "Ctrl-C ends the waiting, not the merge.",
)


def try_to_mark(
    settings: Settings, plan: Plan, merge_id: str, trace: CommitTrace, report: OnEvent
) -> tuple[MergeMarks, tuple[str, ...]]:
    """Return the marks of a merge that happened, and warnings; it never fails for them.

    No capture is started for it: without one, or without an archive, there are no marks. `report`
    is told that a capture is waited for, before it is.
    """
    try:
        if settings.archive is None:
            return MergeMarks(note="no archive is configured"), ()
        if not is_captured(settings):
            return MergeMarks(note="no capture is running"), ()
        report(_WAITING)
        return mark_merge(settings, plan, merge_id, trace), ()
    except (PitrError, OSError, KeyboardInterrupt) as error:
        return MergeMarks(), (_warning(error),)


def mark_merge(settings: Settings, plan: Plan, merge_id: str, trace: CommitTrace) -> MergeMarks:
    """Name the states around the commit of a merge, once a running capture has archived it.

    Raises IdentityMismatch when the archive is another source's, PreconditionFailed when the
    capture does not get on or ends, or a name is taken, and what reading the archive raises.
    """
    return wired(mark_merge, plan.engine)(settings, plan, merge_id, trace)


def mark_names(merge_id: str) -> tuple[str, str]:
    """Return the names for the states before and after a merge."""
    return f"{merge_id}-before", f"{merge_id}-after"


def capture_ended() -> PreconditionFailed:
    """Return the error for a capture that ended before it had archived a merge."""
    return PreconditionFailed("the capture ended before it had archived the merge")


def _warning(error: BaseException) -> str:
    if isinstance(error, PitrError):
        told = f"{error.message}. {error.detail}" if error.detail else error.message
    else:
        told = str(error) or "it was interrupted"
    return f"the merge was made, but the states around it have no marks: {told}"
