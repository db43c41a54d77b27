"""capture, mark, wal-push and detach as a user types them, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pitr.archive.lease import acquire
from pitr.archive.local import LocalStore
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn
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
    """A folder with a pitr.toml, whose source is a server and whose archive a folder."""

    def __init__(self, primary: Server, folder: Path) -> None:
        self.primary = primary
        self.folder = folder
        self.store = LocalStore(folder / "archive")
        self.store.make()
        identity_of(self.store, primary)
        text = f'[source.main]\nsource = "{primary.url()}"\narchive = "{folder / "archive"}"\n'
        (folder / "pitr.toml").write_text(text + f'state = "{folder / "state"}"\n')

    def command(self, *words: str) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "pitr", *words, "--config", str(self.folder / "pitr.toml")]

    def run(self, *words: str, code: int = 0) -> dict[str, object]:
        """Run a command with --json; return its document, or the error's."""
        done = subprocess.run(
            [*self.command(*words), "--json"], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        found: dict[str, object] = json.loads(done.stdout if code == 0 else done.stderr)
        return found


@pytest.fixture
def site(make_server: ServerMaker, tmp_path: Path) -> Site:
    return Site(make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1), tmp_path)


def slots(server: Server) -> list[str]:
    return [row[0] for row in server.query("SELECT slot_name FROM pg_replication_slots")]


def test_marks_are_archived_when_the_command_returns(site: Site) -> None:
    """Without a running capture the command captures itself; with one it waits for it.

    A capture that begins meanwhile waits in turn for such a command.
    """
    write(site.primary, 100)
    first = site.run("mark", "before the release")
    position = str(first["position"])
    assert position.startswith("lsn:")
    assert archived_end(site.store, 1) >= Lsn.parse(position[4:])
    assert flushed(site.primary) >= Lsn.parse(position[4:])
    # A restore point of this name ends where the mark is: what follows it begins there.
    wal = WalArchive(site.store)
    [(begin, _)] = wal.ranges(1)
    assert b"before the release\0" in wal.read(1, begin, Lsn.parse(position[4:]))
    assert site.run("mark", "before the release", code=3)["error"]

    lease = acquire(site.store, brief=True)
    process = subprocess.Popen(site.command("capture"), stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        begun = b""
        while b"waiting for a command" not in begun:
            begun += process.stderr.readline()
            assert process.poll() is None, begun
        lease.release()
        write(site.primary, 100)
        wait_until(lambda: archived_end(site.store, 1) >= flushed(site.primary), "the capture", 120)
        second = site.run("mark", "after")
        assert archived_end(site.store, 1) >= Lsn.parse(str(second["position"])[4:])
        assert site.run("detach", "--yes", code=3)["error"]
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert b"the archive has no base backup yet" in begun + said
    assert Lsn.parse(str(second["position"])[4:]) > Lsn.parse(position[4:])


def test_mark_of_a_role_that_may_make_no_restore_point(site: Site) -> None:
    """A role with REPLICATION and nothing else can mark all the same."""
    site.primary.query("CREATE ROLE keeper LOGIN REPLICATION")
    config = site.folder / "pitr.toml"
    config.write_text(config.read_text().replace("postgres@", "keeper@"))
    made = site.run("mark", "here")

    assert archived_end(site.store, 1) >= Lsn.parse(str(made["position"])[4:])


def test_detach_drops_the_slot_and_keeps_the_archive(site: Site) -> None:
    """Without --yes nothing is done; a second time there is nothing to do."""
    write(site.primary, 100)
    site.run("mark", "here")
    assert len(slots(site.primary)) == 1
    site.run("detach", code=2)
    assert len(slots(site.primary)) == 1
    assert "slot" in str(site.run("detach", "--yes")["removed"])
    assert slots(site.primary) == []
    assert site.run("detach", "--yes")["removed"] is None
    assert WalArchive(site.store).ranges(1)


def test_archive_command_archives_what_the_server_writes(site: Site) -> None:
    """PostgreSQL's archiver hands over a relative %p and believes the exit code alone.

    The server's user may not run this Python (it may lie in a home folder), so the archive_command
    asks the test through two pipes, and gets the exit code of wal-push.
    """
    ask, answer = site.primary.folder / "ask", site.primary.folder / "answer"
    for pipe in (ask, answer):
        os.mkfifo(pipe)
        pipe.chmod(0o666)
    command = f"echo %p > {ask} && read -r code < {answer} && exit $code"
    site.primary.configure({"archive_mode": True, "archive_command": command})
    site.primary.restart()
    codes: list[int] = []

    # Opened for both, as a pipe is that waits for nobody: the shell at its other end may be killed.
    asked, answered = ask.open("r+b", buffering=0), answer.open("r+b", buffering=0)

    def serve() -> None:
        while (path := asked.readline().decode().strip()) != "end":
            # The first try fails, as if the store was out: PostgreSQL must ask again.
            place = ["--archive", str(site.folder / "no-archive")] if not codes else []
            done = subprocess.run(
                [*site.command("wal-push", path), *place],
                cwd=site.primary.data,
                capture_output=True,
                check=False,
            )
            codes.append(done.returncode)
            answered.write(f"{done.returncode}\n".encode())

    server = threading.Thread(target=serve)
    server.start()
    write(site.primary, 3000)
    switch(site.primary)
    wait_until(
        lambda: site.primary.value("SELECT archived_count FROM pg_stat_archiver") >= 1,
        "the archiver",
        60,
    )
    site.primary.stop("immediate")
    asked.write(b"end\n")
    server.join(30)
    asked.close()
    answered.close()

    assert codes[0] == 3
    assert 0 in codes
    assert WalArchive(site.store).ranges(1)


def test_wal_push_of_something_else_fails(site: Site, tmp_path: Path) -> None:
    """No success for what is not archived."""
    path = tmp_path / "000000010000000000000001"
    path.write_bytes(b"not WAL" * 1000)

    assert site.run("wal-push", str(path), code=5)["error"]
    assert site.run("wal-push", str(tmp_path), code=3)["error"]
    (tmp_path / "other").write_text("x")
    assert site.run("wal-push", str(tmp_path / "other"), code=2)["error"]
    assert site.run("wal-push", str(tmp_path / "000000010000000000000009"), code=3)["error"]
