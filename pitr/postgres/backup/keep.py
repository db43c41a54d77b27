"""The slot that keeps the WAL from before a base on, so that no gap follows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.errors import DatabaseRefused, PitrError
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.slot import create_slot, drop_slot, read_slot
from pitr.vocabulary.event import Event, Level, OnEvent


@contextmanager
def kept_wal(connection: Connection, slot: str, on_event: OnEvent) -> Iterator[None]:
    """Run a block while the slot keeps WAL, and let it go on doing so afterwards.

    A slot that was made here is dropped when the block fails: it would fill the server's disk for a
    base that does not exist. (Killed, a backup leaves it; the next one, or a capture, uses it.)
    Raises DatabaseRefused when no slot is free, PrivilegeMissing, SourceUnreachable.
    """
    found = read_slot(connection, slot)
    if found is not None and found.is_lost:
        on_event(
            Event(
                Level.WARNING,
                f"the slot {slot} is lost and is made anew",
                "The server removed WAL before it was archived: there is a gap before this base.",
            )
        )
        drop_slot(connection, slot)
        found = None
    is_ours = found is None and _is_made(connection, slot)
    try:
        yield
    except BaseException:
        if is_ours:
            with contextlib.suppress(PitrError):
                drop_slot(connection, slot)
        raise


def _is_made(connection: Connection, slot: str) -> bool:
    """Make the slot; return False when another backup made it at the same moment."""
    try:
        create_slot(connection, slot)
    except DatabaseRefused:
        if read_slot(connection, slot) is None:
            raise
        return False
    return True
