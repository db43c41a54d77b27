"""What is said of blockers, alike for both engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pitr.vocabulary.plan import Blocker, BlockerKind

KEYS_SHOWN = 20
CONFLICTS = {
    BlockerKind.KEY_REUSED: "another row has taken the key",
    BlockerKind.TOUCHED_SINCE: "a column that was changed has been written again since",
    BlockerKind.BOGUS_TOUCHED: "the row was put in, and has been written again since",
}


def combined(blockers: Sequence[Blocker]) -> tuple[Blocker, ...]:
    """Return the blockers, those of the same thing as one."""
    found: dict[tuple[BlockerKind, str, str], Blocker] = {}
    for one in blockers:
        place = (one.kind, one.table, one.detail)
        known = found.get(place)
        if known is not None:
            one = replace(
                one,
                rows=known.rows + one.rows,
                keys=(known.keys + one.keys)[:KEYS_SHOWN],
                held_by=(known.held_by + one.held_by)[:KEYS_SHOWN],
            )
        found[place] = one
    return tuple(found.values())
