"""The outbox without a capture: order, leftovers in the spool, and objects that contradict."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.archive.outbox import Outbox
from pitr.errors import CorruptObject
from pitr.vocabulary.event import Event
from tests.memory_store import FaultyStore


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


def test_object_that_contradicts_ours_stops_capture(store: FaultyStore, tmp_path: Path) -> None:
    """Somebody else writes under our lease: no more is written, and the object is named."""
    events: list[Event] = []
    store.put_new("log/x", b"theirs")
    outbox = Outbox(store, tmp_path, events.append)
    outbox.put("log/x", b"ours")
    outbox.close()
    with pytest.raises(CorruptObject, match="log/x"):
        outbox.check()


def test_spool_survives_being_cut_off_anywhere(store: FaultyStore, tmp_path: Path) -> None:
    """Leftovers of a half-written spool file are no objects; the order is that of the puts."""
    store.is_down = True
    outbox = Outbox(store, tmp_path, lambda _event: None)
    for number in range(12):
        outbox.put(f"log/{number}", b"%d" % number)
    outbox.close()
    folder = next(tmp_path.iterdir())
    (folder / ".pitr~1~0123456789abcdef~1").write_bytes(b"half")
    store.is_down = False
    second = Outbox(store, tmp_path, lambda _event: None)
    second.put("log/12", b"12")
    second.close()
    assert store.written == [f"log/{number}" for number in range(13)]
    assert store.get("log/11") == b"11"


def test_spools_of_two_archives_do_not_mix(tmp_path: Path) -> None:
    """One spool folder may serve several locations."""
    first, second = LocalStore(tmp_path / "first"), LocalStore(tmp_path / "second")
    (tmp_path / "first").write_text("in the way")
    outbox = Outbox(first, tmp_path / "spool", lambda _event: None)
    outbox.put("log/1", b"one")
    outbox.close()
    other = Outbox(second, tmp_path / "spool", lambda _event: None)
    other.put("log/2", b"two")
    other.close()
    assert [info.key for info in second.list("")] == ["log/2"]
    (tmp_path / "first").unlink()
    Outbox(first, tmp_path / "spool", lambda _event: None).close()
    assert first.get("log/1") == b"one"


def test_object_that_supersedes_others_takes_their_place(
    store: FaultyStore, tmp_path: Path
) -> None:
    """What is stored is deleted after it, what waits is not stored at all; nothing is unproven."""
    outbox = Outbox(store, tmp_path, lambda _event: None)
    outbox.put("a", b"1")
    outbox.note(head_commit=1, current_until_us=1)
    wait_for(lambda: outbox.stored_head == 1)
    store.is_down = True
    for number, key in enumerate("bcd", start=2):
        outbox.put(key, b"%d" % number)
        outbox.note(head_commit=number, current_until_us=number)
    wait_for(lambda: outbox.durable_head == 4)
    assert outbox.stored_head == 1
    outbox.put("whole", b"1234", supersedes=["a", "b", "c", "d"])
    # What had been safe on disk before its successor came is safe still.
    assert outbox.durable_head >= 4
    outbox.note(head_commit=5, current_until_us=5)
    assert outbox.stored_head == 1
    store.is_down = False
    wait_for(lambda: outbox.stored_head == 5)
    outbox.close()
    outbox.check()

    assert [info.key for info in store.list()] == ["whole"]
    assert store.written == ["a", "b", "whole"]
    assert not list(next(tmp_path.iterdir()).iterdir())


def test_object_in_memory_alone_is_not_durable(store: FaultyStore, tmp_path: Path) -> None:
    """A store that hangs has neither taken nor refused it."""
    outbox = Outbox(store, tmp_path, lambda _event: None)
    store.hang.clear()
    outbox.put("a", b"1")
    outbox.note(head_commit=1, current_until_us=1)
    assert (outbox.stored_head, outbox.durable_head) == (0, 0)
    store.hang.set()
    wait_for(lambda: outbox.stored_head == 1)
    outbox.close()
    assert outbox.durable_head == 1


def test_same_content_in_other_bytes_is_ours(store: FaultyStore, tmp_path: Path) -> None:
    """Whoever made it may say what counts as the same."""
    store.put_new("a", b"ONE")
    outbox = Outbox(
        store, tmp_path, lambda _event: None, is_same=lambda _, a, b: a.lower() == b.lower()
    )
    outbox.put("a", b"one")
    outbox.close()
    outbox.check()
    assert store.get("a") == b"ONE"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
