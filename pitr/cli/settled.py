"""Say what became of merges that were cut off, before a command goes on."""

from __future__ import annotations

from pitr.cli.render import note
from pitr.config import Settings
from pitr.operations.undo import settle
from pitr.vocabulary.plan import MergeOutcome

_OUTCOMES = {
    MergeOutcome.HAPPENED: "was cut off, and has happened: 'pitr undo {merge}' takes it back",
    MergeOutcome.DID_NOT_HAPPEN: "was cut off, and did not happen: nothing was changed",
    MergeOutcome.CANNOT_BE_TOLD: "was cut off, and whether it happened cannot be told: its rows "
    "have been changed since",
}


def report_settled(settings: Settings) -> None:
    """Find out what became of them, and print it on stderr."""
    for found in settle(settings):
        if found.outcome is None:
            note(f"warning: what became of the merge {found.merge} is not known: {found.error}")
        else:
            said = _OUTCOMES[found.outcome].format(merge=found.merge)
            note(f"the merge {found.merge} {said}")
