"""Take one base backup in a process of its own: `python -m tests.crash.backup_run URL ARCHIVE`.

Packs are small, so that there are many steps to be killed at. PITR_CRASH_AT says at which one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pitr.archive.archive import open_archive
from pitr.archive.local import LocalStore
from pitr.postgres.backup import chunks
from pitr.postgres.backup.run import BackupOptions, back_up
from pitr.postgres.live.connection import connect


def main(place: str, archive: str, rate_kb: str) -> None:
    """Back up the server at `place` into an archive that exists."""
    chunks.PACK_BYTES = 256 << 10
    store = LocalStore(Path(archive))
    options = BackupOptions(fast=True, rate_kb=int(rate_kb) or None)
    with connect(place) as connection:
        identity = open_archive(store)
        back_up(store, identity, connection, place, options, lambda _: None, slot="pitr_test")


if __name__ == "__main__":
    main(*sys.argv[1:])
