"""capture, status, mark, backup, verify, detach, debug: what they print and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from pitr.archive.lease import acquire, acquire_when_free
from pitr.archive.local import LocalStore
from pitr.errors import ArchiveHeld
from tests.cli.commands import (
    PITR,
    WAIT_SECONDS,
    capturing,
    environment,
    pitr,
    succeed,
    told,
    wait_until_current,
    write,
)
from tests.cli.conftest import ORDERS, Shop
from tests.processes import beside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a database that is configured and not captured yet."""
    write(tmp_path / "s.db", ORDERS, "INSERT INTO orders VALUES (1, 'lamp', 5)")
    succeed(tmp_path, "init", "s.db", "--archive", "archive")
    return tmp_path


# ---- capture -------------------------------------------------------------------------------------


def test_capture_once_archives_what_is_committed(folder: Path) -> None:
    """Text and JSON name the newest commit; a second run has nothing to do."""
    assert succeed(folder, "capture", "--once", "--json").json["position"] == "commit:1"
    assert succeed(folder, "capture", "--once").out == "archived up to commit:1\n"


def test_capture_as_json_tells_its_events_as_json(folder: Path) -> None:
    """Every line on stderr is a document with schema, time, level, message and detail."""
    lines = succeed(folder, "capture", "--once", "--json").err.splitlines()

    assert lines
    for line in lines:
        assert list(json.loads(line)) == ["schema", "time", "level", "message", "detail"]


def test_second_capture_is_refused_and_told_who_holds_the_archive(folder: Path) -> None:
    """Exit 3, with the process that holds it; the first one goes on."""
    with capturing(folder) as first:
        done = pitr(folder, "capture", "--once")
        holder = succeed(folder, "status", "--json").json["holder"]

        assert done.code == 3
        assert told(done.err)[0] == f"error: the archive is held by another capture: {holder}"
        assert holder.startswith(f"pid {first.pid} on ")


def test_capture_waits_for_a_short_command_that_holds_the_archive(folder: Path) -> None:
    """It says so, and begins when the archive is free; it waits so long."""
    store = LocalStore(folder / "archive")
    lease = acquire(store, brief=True)
    with pytest.raises(ArchiveHeld, match="that captures once"):
        acquire_when_free(store, Event(), lambda _: None, brief=True, wait_seconds=0)
    with beside(
        [*PITR, "capture"], cwd=folder, env=environment(), stderr=subprocess.PIPE
    ) as capture:
        assert capture.stderr is not None
        assert any("waiting for a command that holds" in line for line in capture.stderr)
        lease.release()
        wait_until_current(folder)
        capture.send_signal(signal.SIGTERM)
        assert capture.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_capture_that_is_stopped_archives_the_last_commit(
    folder: Path, number: signal.Signals
) -> None:
    """What was committed before the signal is archived when the process has ended, with 0."""
    process = subprocess.Popen(
        [*PITR, "capture", "--poll", "10s"],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until_current(folder)
    write(folder / "s.db", "INSERT INTO orders VALUES (2, 'chair', 7)")
    process.send_signal(number)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    words = ("sql", "--at", "latest", "SELECT count(*) FROM orders", "--json")

    assert process.returncode == 0, errors
    assert "info: stopping" in errors
    assert succeed(folder, *words).json["rows"] == [[2]]
    assert succeed(folder, "status", "--json").json["gaps"] == []


def test_capture_stopped_amid_a_large_base_leaves_nothing_half_done(tmp_path: Path) -> None:
    """SIGTERM while the base is taken: exit 0, and the next capture takes it whole."""
    filler = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
    write(tmp_path / "s.db", ORDERS,
          f"INSERT INTO orders {filler} SELECT i, hex(randomblob(300)), i FROM n")  # fmt: skip
    succeed(tmp_path, "init", "s.db", "--archive", "archive")
    with beside(
        [*PITR, "capture"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "takes a base" in line:
                break
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read()
        assert process.wait(WAIT_SECONDS) == 0, errors

    assert succeed(tmp_path, "verify", "--json").json["ok"]
    assert succeed(tmp_path, "capture", "--once").out.startswith("archived up to commit:1\n")
    assert succeed(tmp_path, "verify", "--json").json["ok"]


# ---- status --------------------------------------------------------------------------------------


def test_status_as_json_has_the_keys_that_scripts_rely_on(shop: Shop) -> None:
    """Window, lag, capturing, gaps, sizes and bases; times are UTC."""
    found = succeed(shop.folder, "status", "--json").json
    [base] = found["bases"][:1]

    assert found["window"].keys() == {"from", "to"}
    assert found["lag_seconds"] == 0
    assert found["capturing"] is False
    assert found["gaps"] == []
    assert found["archive_bytes"] > 0
    assert base.keys() == {"id", "time", "bytes"}
    assert base["id"] == "commit:1"
    assert found["granularity"] == "commit"
    assert [mark["name"] for mark in found["marks"]] == ["full"]


def test_status_as_text_says_the_same(shop: Shop) -> None:
    """A line each, by name."""
    lines = succeed(shop.folder, "status").out.splitlines()

    assert [line.split()[0] for line in lines[:7]] == [
        "window", "to", "positions", "captures", "capturing", "lag", "archive",
    ]  # fmt: skip
    assert lines[4] == "capturing  no"
    assert lines[5] == "lag        none"


def test_status_for_prometheus_is_labelled_with_the_source(shop: Shop) -> None:
    """Text exposition format: HELP, TYPE and one sample each."""
    lines = succeed(shop.folder, "status", "--prometheus").out.splitlines()

    assert 'pitr_capturing{source="shop"} 0' in lines
    assert 'pitr_lag_seconds{source="shop"} 0.0' in lines
    assert "# TYPE pitr_lag_seconds gauge" in lines
    assert pitr(shop.folder, "status", "--prometheus", "--json").code == 2


def test_status_shows_a_gap_and_its_length(folder: Path) -> None:
    """What was committed while nothing captured is one gap, between two known states."""
    succeed(folder, "capture", "--once")
    write(folder / "s.db", "DELETE FROM orders", "DROP TABLE orders")
    lag_seconds = succeed(folder, "status", "--json").json["lag_seconds"]
    succeed(folder, "capture", "--once")
    found = succeed(folder, "status", "--json").json
    [gap] = found["gaps"]

    assert 0 < lag_seconds < WAIT_SECONDS
    assert found["lag_seconds"] == 0
    assert (gap["kind"], gap["position"]) == ("gap", "commit:2")
    assert found["window"]["from"] < gap["from"] < gap["to"] <= found["window"]["to"]
    assert "\ngap  from (Europe/Paris) " in succeed(folder, "status").out


def test_status_of_an_idle_capture_reaches_up_to_now(folder: Path) -> None:
    """Nothing was committed for a while: no lag, and the window ends with the look at it."""
    with capturing(folder):
        first, _ = succeed(folder, "status", "--json").json, time.sleep(0.05)
        second = succeed(folder, "status", "--json").json

    assert first["lag_seconds"] == second["lag_seconds"] == 0
    assert first["capturing"] is second["capturing"] is True
    assert first["window"]["to"] < second["window"]["to"]


def test_status_of_a_rollback_journal_says_that_polls_are_captured(tmp_path: Path) -> None:
    """The coarser granularity is stated, in text and JSON."""
    write(tmp_path / "s.db", ORDERS, mode="DELETE")
    succeed(tmp_path, "init", "s.db", "--archive", "archive")
    succeed(tmp_path, "capture", "--once")

    assert succeed(tmp_path, "status", "--json").json["granularity"] == "poll"
    assert "between two polls count as one" in succeed(tmp_path, "status").out


def test_empty_archive_is_told_as_such(folder: Path) -> None:
    """Before the first capture: status has no window; whoever asks the past gets exit 4."""
    found = succeed(folder, "status", "--json").json
    done = pitr(folder, "restore", "-t", "orders", "--at", "latest")

    assert found["window"] == {"from": None, "to": None}
    assert found["lag_seconds"] > 0
    assert done.code == 4
    assert told(done.err) == [
        "error: nothing is archived yet",
        f"detail: The archive at {folder / 'archive'} holds no commit.",
        "hint: Run 'pitr capture --once' to take the first base.",
    ]


# ---- mark, backup, detach, verify, debug ---------------------------------------------------------


def test_mark_names_a_state_that_stays_named(shop: Shop) -> None:
    """A name is given once: the second time is a precondition that fails."""
    done = pitr(shop.folder, "mark", "full")

    assert done.code == 3
    assert told(done.err) == [
        "error: a mark of this name exists: full",
        "hint: Choose another name: a mark is never moved.",
    ]


def test_mark_and_backup_beside_a_capture_wait_for_it(folder: Path) -> None:
    """Both return when what was committed before them is archived; at once when nothing was."""
    with capturing(folder, PITR_POLL="20ms", PITR_FLUSH="20ms"):
        assert succeed(folder, "mark", "one", "--json").json["position"] == "commit:1"
        write(folder / "s.db", "INSERT INTO orders VALUES (2, 'chair', 7)")
        marked = succeed(folder, "mark", "two", "--json").json
        write(folder / "s.db", "INSERT INTO orders VALUES (3, 'vase', 7)")
        base = succeed(folder, "backup", "--json").json

    assert (marked["name"], marked["position"]) == ("two", "commit:2")
    assert base.keys() == {"schema", "id", "time", "bytes", "damaged"}
    assert base["damaged"] == []
    assert base["id"] == "commit:3"


def test_detach_needs_confirmation_and_no_capture(folder: Path) -> None:
    """Without --yes exit 2; beside a running capture exit 3; else the archive stays."""
    unconfirmed = pitr(folder, "detach")
    with capturing(folder):
        running = pitr(folder, "detach", "--yes")

    assert (unconfirmed.code, told(unconfirmed.err)[1]) == (2, "hint: Run 'pitr detach --yes'.")
    assert (running.code, told(running.err)[0]) == (3, "error: a capture is still running")
    assert succeed(folder, "detach", "--yes", "--json").json["detached"] is True
    assert (folder / "archive" / "pitr-archive").exists()


def test_verify_of_a_damaged_archive_ends_with_1_and_names_the_object(folder: Path) -> None:
    """One flipped bit: not ok, which object, and the last good commit; reading it is exit 5."""
    succeed(folder, "capture", "--once")
    assert succeed(folder, "verify", "--json").json.keys() >= {"ok", "objects", "bytes", "damaged"}
    [segment] = (folder / "archive" / "log").iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 1
    segment.write_bytes(data)
    done, text = pitr(folder, "verify", "--json"), pitr(folder, "verify")
    asked = pitr(folder, "sql", "--at", "latest", "SELECT * FROM orders", "--json")

    assert (done.code, text.code, done.json["ok"]) == (1, 1, False)
    assert done.json["damaged"][0]["object"] == f"log/{segment.name}"
    assert f"damaged: log/{segment.name}: " in text.out
    assert asked.code == 5
    assert asked.error["kind"] == "CorruptObject"


def test_damaged_lease_is_told_and_keeps_nobody_from_going_back(copied: Path) -> None:
    """The lease is no part of the history: rows can be had, status and verify name the damage."""
    for lease in (copied / "copy" / "lease").iterdir():
        lease.write_bytes(b"damaged")
    given = ("--archive", "copy", "--json")
    asked = ("sql", "--at", "name:full", "SELECT count(*) FROM orders")

    assert succeed(copied, *asked, *given).json["rows"] == [[3]]
    assert (
        "archive object is damaged: lease/" in succeed(copied, "status", *given).json["last_error"]
    )
    assert pitr(copied, "verify", *given).code == 1


def test_debug_object_shows_a_segment_and_refuses_a_stranger(shop: Shop) -> None:
    """An object of the archive is described; any other file is corrupt input."""
    segment = next((shop.folder / "archive" / "log").glob("*.base"))
    shown = succeed(shop.folder, "debug", "object", str(segment))
    found = succeed(shop.folder, "debug", "object", str(segment), "--json").json

    assert shown.out.splitlines() == found["lines"]
    assert shown.out.startswith("object       kind SEGM, version 1, ")
    assert "\nchain        matches the pages\n" in shown.out
    assert pitr(shop.folder, "debug", "object", "shop.db").code == 5
    assert pitr(shop.folder, "debug", "object", "nowhere").code == 2


def test_interrupted_command_ends_with_130(folder: Path) -> None:
    """Ctrl-C in a long query: one line on stderr, exit 130, no traceback."""
    succeed(folder, "capture", "--once")
    endless = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with beside(
        [*PITR, "sql", "--at", "latest", endless],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr
        assert process.stderr.readline().startswith("last included")
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT_SECONDS)

    assert (process.returncode, errors.splitlines()[-1]) == (130, "error: interrupted")


def test_interruption_during_a_late_import_does_not_end_by_a_signal(tmp_path: Path) -> None:
    """What was caught is over: the exit code is that of the outcome, of `python -m` as well."""
    (tmp_path / "interrupted.py").write_text(
        "from pitr.cli.main import main\n"
        "try:\n    exec('raise KeyboardInterrupt')\nexcept KeyboardInterrupt:\n    pass\n"
        "main(['--version'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=WAIT_SECONDS,
        check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout[:5], ended.stderr) == (0, "pitr,", "")
