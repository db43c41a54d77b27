"""status on PostgreSQL: what it says of window, lag, gaps and slot is so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.config import Settings, resolve_settings
from pitr.operations.capture import capture_once
from pitr.operations.status import Status, status
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import Event
from tests.postgres.capture_world import (
    archived_end,
    flushed,
    identity_of,
    switch,
    wait_until,
    write,
)
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server


class Site:
    """A server, its archive, and the settings that lead to both."""

    def __init__(self, primary: Server, folder: Path) -> None:
        self.primary = primary
        self.folder = folder
        self.store = LocalStore(folder / "archive")
        self.store.make()
        identity_of(self.store, primary)
        text = f'[source.main]\nsource = "{primary.url()}"\narchive = "{folder / "archive"}"\n'
        (folder / "pitr.toml").write_text(text + f'state = "{folder / "state"}"\n')
        self.events: list[Event] = []

    def capture(self) -> None:
        capture_once(self._settings(), self.events.append)

    def start_capture(self) -> subprocess.Popen[bytes]:
        """Start a capture in a process of its own."""
        command = [sys.executable, "-m", "tests.crash.wal_capture_run", self.primary.url()]
        command += [self.store.location, str(self.folder / "spool"), self._settings().slot]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def status(self) -> Status:
        return status(self._settings())

    def status_of_archive(self) -> Status:
        """Return what the archive alone says."""
        found = resolve_settings(
            config_path=None,
            source_name=None,
            flags={"archive": str(self.folder / "archive")},
            environ={},
            cwd=self.folder.parent,
        )
        return status(found)

    def _settings(self) -> Settings:
        return resolve_settings(
            config_path=self.folder / "pitr.toml",
            source_name=None,
            flags={},
            environ=os.environ,
            cwd=self.folder,
        )


@pytest.fixture
def site(make_server: ServerMaker, tmp_path: Path) -> Site:
    return Site(make_server(segment_megabytes=1), tmp_path)


def test_archive_before_its_first_capture(site: Site) -> None:
    """Nothing is there, and nothing is wrong."""
    found = site.status()

    assert (found.window, found.positions, found.timelines, found.gaps) == (None, None, (), ())
    assert found.slot
    assert (found.slot.status, found.capturing) == ("absent", False)


def test_lag_is_the_wal_that_is_not_archived(site: Site) -> None:
    """0 after a capture; grows with what is committed; in bytes exactly."""
    write(site.primary, 100)
    site.capture()
    current = site.status()
    assert (current.lag_us, current.lag_bytes) == (0, 0)
    before = site.primary.value("SELECT pg_current_wal_flush_lsn()")
    write(site.primary, 500)
    lagging = site.status()
    written = site.primary.value(f"SELECT pg_current_wal_flush_lsn() - '{before}'::pg_lsn")

    assert lagging.lag_bytes == int(written)
    assert lagging.lag_us > 0
    assert lagging.slot
    assert lagging.slot.kept_bytes >= int(written)
    assert lagging.slot.status == "reserved"
    site.capture()
    assert site.status().lag_us == 0
    site.primary.stop()
    gone = site.status()
    assert (gone.lag_bytes, gone.slot, gone.lag_us) == (None, None, 0)
    assert gone.timelines == site.status_of_archive().timelines


def test_lag_after_a_kill_counts_from_the_last_archived_commit(site: Site) -> None:
    """A killed capture has noted no proof for a minute: what it archived is known all the same."""
    process = site.start_capture()
    try:
        write(site.primary, 100)
        wait_until(lambda: archived_end(site.store, 1) >= flushed(site.primary), "WAL")
        time.sleep(1.0)  # in which the capture is known to be current, and notes nothing
        write(site.primary, 100)
        committed_us = site.primary.value("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
        wait_until(lambda: archived_end(site.store, 1) >= flushed(site.primary), "more WAL")
    finally:
        process.kill()
        process.wait()
    write(site.primary, 100)
    found = site.status()

    assert not found.capturing
    assert found.lag_us > 0
    # The commit came just before the question for the time.
    assert found.lag_us < time.time_ns() // 1000 - committed_us + 500_000


def test_gap_is_shown_with_its_bounds_and_times(site: Site) -> None:
    """A lost slot: from where to where, when, and where the state is known again."""
    write(site.primary, 100)
    site.capture()
    site.primary.query("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    for _ in range(3):
        write(site.primary, 6000)
        switch(site.primary)
    site.primary.query("CHECKPOINT")
    for path in sorted(site.primary.wal.glob("0000*"))[:2]:
        path.unlink(missing_ok=True)
    site.primary.query("CHECKPOINT")
    write(site.primary, 100)
    site.capture()
    found = site.status()

    (_, low), (high, last) = WalArchive(site.store).ranges(1)
    [gap] = found.gaps
    assert (gap.kind, gap.begin, gap.position) == ("missing", f"lsn:{low}", f"lsn:{high}")
    assert 0 < gap.from_us < gap.to_us
    assert [event for event in site.events if "WAL is missing" in event.message]
    [timeline] = found.timelines
    assert (timeline.last, timeline.first) == (f"lsn:{last}", None)
