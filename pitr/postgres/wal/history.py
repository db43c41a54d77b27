"""Timeline history files: from which timelines a timeline comes, and where it left each.

One line for each ancestor, oldest first: timeline, the LSN at which it was left, a reason, between
blanks. Lines that begin with `#` say nothing. Source: src/backend/access/transam/timeline.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pitr.errors import CorruptWal
from pitr.postgres.wal.segment_name import history_name
from pitr.vocabulary.position import Lsn

_LINE = re.compile(r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s+(.*))?")


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An ancestor: its WAL from `switch` on belongs to another history."""

    timeline: int
    switch: Lsn
    reason: str = ""


def parse_history(timeline: int, data: bytes) -> tuple[HistoryEntry, ...]:
    """Return the ancestors that the history file of `timeline` names, oldest first.

    Raises CorruptWal for what is no such file, or names timelines in an order that cannot be.
    """
    entries: list[HistoryEntry] = []
    # Nothing says in which encoding the server has written the reason.
    for line in data.decode("utf-8", "replace").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _corrupt(timeline, f"A line of it is {line[:80]!r}.")
        entry = HistoryEntry(int(match[1]), Lsn.parse(match[2]), (match[3] or "").strip())
        before = entries[-1] if entries else HistoryEntry(0, Lsn(0))
        if not before.timeline < entry.timeline < timeline or entry.switch < before.switch:
            raise _corrupt(timeline, f"Timeline {entry.timeline} cannot come there.")
        entries.append(entry)
    return tuple(entries)


def format_history(entries: Iterable[HistoryEntry]) -> bytes:
    """Return the history file that names these ancestors, as PostgreSQL writes it."""
    lines = (f"{entry.timeline}\t{entry.switch}\t{entry.reason}\n" for entry in entries)
    return "".join(lines).encode()


def _corrupt(timeline: int, detail: str) -> CorruptWal:
    return CorruptWal(f"timeline history is damaged: {history_name(timeline)}", detail=detail)
