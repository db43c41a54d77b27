"""The outbox without a capture: order, leftovers in the spool, and objects that contradict."""

from __future__ import annotations

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
