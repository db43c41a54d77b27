"""backup on SQLite: a page map, which makes one state readable without those before it."""

from __future__ import annotations

from pitr.archive.store import ObjectExists
from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.backup import BackupOutcome, BackupWish
from pitr.operations.sqlite.capture import bring_up_to_now
from pitr.sqlite.pagelog.pagemap import encode_map
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.position import CommitNumber


def backup(
    settings: Settings, wish: BackupWish, on_event: OnEvent, *, wait_seconds: float = 60
) -> BackupOutcome:
    """Write a base of the present state: a page map, which refers to the images already stored."""
    if wish != BackupWish():
        raise UsageError(
            "a SQLite source has no checkpoint to choose and no rate to bound",
            hint="Run 'pitr backup' without --checkpoint and --max-rate.",
        )
    store, pages = bring_up_to_now(settings, on_event, wait_seconds=wait_seconds)
    record = pages.last_commit()
    key, data = encode_map(pages.current_pages())
    try:
        store.put_new(key, data)
    except ObjectExists:
        data = b""
    return BackupOutcome(str(CommitNumber(record.number)), record.time_end_us, len(data))
