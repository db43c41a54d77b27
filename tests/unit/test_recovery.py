"""Recovery folders: whole or not there, private, and never outside their place."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pitr.errors import Corrupt, PreconditionFailed, UsageError
from pitr.recovery.folder import (
    NewRecovery,
    RecoveredTable,
    Recovery,
    drop_recovery,
    list_recoveries,
    new_recovery,
    read_recovery,
    recovery_folder,
    sweep,
)
from pitr.vocabulary.target import ResolvedTarget, TransactionAt

NOW_US = int(datetime(2026, 11, 22, 14, 2, 59, tzinfo=UTC).timestamp()) * 1_000_000 + 123_456


def about(new: NewRecovery, created_us: int = NOW_US) -> Recovery:
    return Recovery(
        id=new.id,
        engine="sqlite",
        source="/srv/orders.db",
        archive="s3://bucket/orders",
        created_us=created_us,
        target="10 minutes ago",
        resolved=ResolvedTarget(
            time_us=created_us - 600_000_000,
            position="commit:4711",
            last_included=TransactionAt("commit:4711", created_us - 700_000_000),
            first_excluded=None,
        ),
        sidecar=str(new.folder / "sidecar.db"),
        tables=(RecoveredTable("orders", 3), RecoveredTable("Bestellungen (früher)", 0)),
        where="id > 2",
        seconds=0.25,
        bytes_read=4096,
    )


def make(state: Path, label: str = "orders", now_us: int = NOW_US) -> Recovery:
    with new_recovery(state, label=label, now_us=now_us) as new:
        (new.folder / "sidecar.db").write_bytes(b"rows")
        recovery = about(new, now_us)
        new.finish(recovery)
    return recovery


def test_finished_recovery_reads_back(tmp_path: Path) -> None:
    """What was written is what is read, by id or as the newest, and alone in its folder."""
    recovery = make(tmp_path)
    assert recovery.id == "2026-11-22-140259-orders"
    assert read_recovery(tmp_path, recovery.id) == recovery
    assert read_recovery(tmp_path) == recovery
    assert list_recoveries(tmp_path) == [recovery]
    names = {path.name for path in recovery_folder(tmp_path, recovery.id).iterdir()}
    assert names == {"recovery.json", "sidecar.db"}


def test_recovery_made_before_until_existed_reads_back(tmp_path: Path) -> None:
    """What came later has a default: a restore, and nothing known of the state after the damage."""
    recovery = make(tmp_path)
    path = recovery_folder(tmp_path, recovery.id) / "recovery.json"
    document = json.loads(path.read_text())
    del document["kind"], document["until"]
    path.write_text(json.dumps(document))
    assert read_recovery(tmp_path, recovery.id) == recovery
    assert (recovery.kind, recovery.until) == ("restore", None)


def test_recovery_json_begins_with_its_schema(tmp_path: Path) -> None:
    """The file is JSON for scripts too: schema first, positions as texts."""
    recovery = make(tmp_path)
    text = (recovery_folder(tmp_path, recovery.id) / "recovery.json").read_text()
    document = json.loads(text)
    assert next(iter(document)) == "schema"
    assert document["schema"] == 1
    assert document["resolved"]["position"] == "commit:4711"
    assert document["tables"][0] == {"table": "orders", "rows": 3, "columns": None}


def test_folders_and_files_are_private(tmp_path: Path) -> None:
    """Recovered rows are as secret as the live ones: 0700 and 0600 whatever the umask."""
    recovery = make(tmp_path / "state")
    folder = recovery_folder(tmp_path / "state", recovery.id)
    for path in (folder, folder.parent, folder.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (folder / "recovery.json").stat().st_mode & 0o777 == 0o600


def test_same_second_and_label_get_numbers(tmp_path: Path) -> None:
    """Ids never collide, and the newest is told by its time, not by its name."""
    ids = [make(tmp_path, now_us=NOW_US + step).id for step in range(3)]
    stem = "2026-11-22-140259-orders"
    assert ids == [stem, f"{stem}-2", f"{stem}-3"]
    assert [recovery.id for recovery in list_recoveries(tmp_path)] == ids
    make(tmp_path, label="aaa", now_us=NOW_US + 5)
    assert read_recovery(tmp_path).id == "2026-11-22-140259-aaa"


def test_ids_taken_at_once_are_all_different(tmp_path: Path) -> None:
    """Eight makers in the same second get eight folders, and none sweeps another's."""
    ids: list[str] = []
    together = threading.Barrier(8)

    def run() -> None:
        together.wait()
        ids.append(make(tmp_path).id)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8
    assert {recovery.id for recovery in list_recoveries(tmp_path)} == set(ids)


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("Order Items", "Order-Items"),
        ("../../etc", "etc"),
        ("", "recovery"),
        ("ünïcode", "n-code"),
        ("***", "recovery"),
        ("x" * 200, "x" * 40),
        ("-orders-", "orders"),
    ],
)
def test_label_becomes_a_safe_word(tmp_path: Path, label: str, word: str) -> None:
    """A table's name may hold anything; an id is a plain folder name."""
    recovery = make(tmp_path, label=label)
    assert recovery.id == f"2026-11-22-140259-{word}"
    assert read_recovery(tmp_path, recovery.id) == recovery


def fail_after(state: Path, *, finishing: bool) -> None:
    """Begin a recovery whose id is the plain one, and fail in the middle of it."""
    with new_recovery(state, label="orders", now_us=NOW_US) as new:
        (new.folder / "sidecar.db").write_bytes(b"half")
        if finishing:
            new.finish(about(new))
        raise ZeroDivisionError


def test_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A recovery that was not finished is gone with everything in it."""
    with pytest.raises(ZeroDivisionError):
        fail_after(tmp_path, finishing=False)
    assert list((tmp_path / "recoveries").iterdir()) == []


def test_failure_after_finish_keeps_the_recovery(tmp_path: Path) -> None:
    """Once recovery.json is written the recovery stands."""
    with pytest.raises(ZeroDivisionError):
        fail_after(tmp_path, finishing=True)
    assert read_recovery(tmp_path).id == "2026-11-22-140259-orders"


def test_finish_with_another_id_is_a_bug(tmp_path: Path) -> None:
    """A recovery lies in the folder of its own id."""
    make(tmp_path)
    with new_recovery(tmp_path, label="other", now_us=NOW_US) as new, pytest.raises(ValueError):
        new.finish(read_recovery(tmp_path))


MAKER = """
import sys, time
from pathlib import Path
from pitr.recovery.folder import new_recovery
with new_recovery(Path(sys.argv[1]), label="killed", now_us=int(sys.argv[2])) as new:
    (new.folder / "sidecar.db").write_bytes(b"half")
    print(new.id, flush=True)
    time.sleep(60)
"""


@contextmanager
def maker(state: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process that is in the middle of making a recovery; yield it and the id."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(state), str(NOW_US)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_half_made_folder_is_swept_only_after_its_maker_died(tmp_path: Path) -> None:
    """While the maker lives its folder is left alone and is no recovery; killed, it is swept."""
    with maker(tmp_path) as (process, half_id):
        folder = tmp_path / "recoveries" / half_id
        assert (folder / "sidecar.db").exists()
        assert sweep(tmp_path) == []
        assert list_recoveries(tmp_path) == []
        other = make(tmp_path)  # making another one sweeps too
        assert folder.exists()

        process.send_signal(signal.SIGKILL)
        process.wait()
        assert sweep(tmp_path) == [half_id]
        assert not folder.exists()
        assert list_recoveries(tmp_path) == [other]


def test_new_recovery_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    """Leftovers do not pile up: the next recovery removes them."""
    with maker(tmp_path) as (process, half_id):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert make(tmp_path, label="killed").id == half_id
    assert len(list((tmp_path / "recoveries").iterdir())) == 1


def test_dropped_recovery_is_gone_and_an_outer_sidecar_stays(tmp_path: Path) -> None:
    """Dropping removes the folder; a file that --to put elsewhere belongs to the user."""
    outer = tmp_path / "mine.db"
    outer.write_bytes(b"rows")
    kept, dropped = make(tmp_path, "kept"), make(tmp_path, "dropped")
    drop_recovery(tmp_path, dropped.id)
    assert list_recoveries(tmp_path) == [kept]
    assert not (tmp_path / "recoveries" / dropped.id).exists()
    assert outer.exists()


def test_recovery_in_use_is_not_dropped(tmp_path: Path) -> None:
    """A lock that another process holds, inside or in a claimed folder, keeps all of it."""
    with new_recovery(tmp_path, label="used", now_us=0) as new:
        outside = tmp_path / "outside" / new.id
        new.claim(outside)
        places = [new.folder / "server" / "sidecar", outside / "sidecar"]
        for place in places:
            place.mkdir(parents=True)
            (place / "lock").touch()
        new.finish(about(new))
    for place in places:
        with (place / "lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(PreconditionFailed, match="is in use"):
                drop_recovery(tmp_path, new.id)
        assert place.exists()
    drop_recovery(tmp_path, new.id)
    assert not any(place.exists() for place in places)


@pytest.mark.parametrize(
    "bad_id",
    ["", ".", "..", "../precious", "a/b", "/etc", "2026\0", "no-such", "x" * 200, "-rf", ".hidden"],
)
def test_id_that_is_none_touches_nothing(tmp_path: Path, bad_id: str) -> None:
    """No text leads out of the folder of recoveries: it is a usage error."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "recovery.json").write_text("{}")
    make(tmp_path)
    for action in (drop_recovery, read_recovery, recovery_folder):
        with pytest.raises(UsageError) as caught:
            action(tmp_path, bad_id)
        assert "pitr recoveries" in (caught.value.hint or "")
    assert (precious / "recovery.json").exists()


def test_no_recovery_yet_is_said(tmp_path: Path) -> None:
    """Asking for the last recovery where there is none shows how to make one."""
    with pytest.raises(UsageError, match="no recovery yet") as caught:
        read_recovery(tmp_path / "absent")
    assert "pitr restore" in (caught.value.hint or "")
    assert list_recoveries(tmp_path / "absent") == []
    assert sweep(tmp_path / "absent") == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 0}', '{"schema": true}', "\xff"],
)
def test_damaged_recovery_is_named_and_can_be_dropped(tmp_path: Path, text: str) -> None:
    """A recovery.json that cannot be read is never passed over in silence."""
    recovery = make(tmp_path)
    path = recovery_folder(tmp_path, recovery.id) / "recovery.json"
    path.write_bytes(text.encode("latin-1"))
    for action in (list_recoveries, read_recovery):
        with pytest.raises(Corrupt, match=recovery.id) as caught:
            action(tmp_path)
        assert f"pitr recoveries drop {recovery.id}" in (caught.value.hint or "")
    drop_recovery(tmp_path, recovery.id)
    assert list_recoveries(tmp_path) == []


def test_recovery_of_another_id_is_damage(tmp_path: Path) -> None:
    """A folder that was copied under another name does not pass for a second recovery."""
    recovery = make(tmp_path)
    folder = recovery_folder(tmp_path, recovery.id)
    folder.rename(folder.with_name("copy"))
    with pytest.raises(Corrupt, match="copy"):
        list_recoveries(tmp_path)


def test_recovery_of_a_newer_schema_is_refused_and_unknown_keys_are_not(tmp_path: Path) -> None:
    """A later version may add keys; a later schema says that they matter."""
    recovery = make(tmp_path)
    path = recovery_folder(tmp_path, recovery.id) / "recovery.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "later": [1]}))
    assert read_recovery(tmp_path) == recovery
    path.write_text(json.dumps({**document, "schema": 2}))
    with pytest.raises(PreconditionFailed, match="newer pitr"):
        read_recovery(tmp_path)


def test_state_folder_that_cannot_be_used_is_a_precondition(tmp_path: Path) -> None:
    """A state folder that is a file is said with the path, not as a traceback."""
    (tmp_path / "state").write_text("a file")
    with pytest.raises(PreconditionFailed) as caught:
        make(tmp_path / "state")
    assert str(tmp_path / "state") in f"{caught.value.message} {caught.value.detail}"
    assert "PITR_STATE" in (caught.value.hint or "")
