"""Commit segments: what is written is read back, and the chain covers what it says."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pitr.archive.object import ObjectReader
from pitr.errors import CorruptObject, PreconditionFailed
from pitr.sqlite.pagelog import segment
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import (
    CommitKind,
    Note,
    SegmentIndex,
    SegmentWriter,
    WalMark,
    page_digest,
)
from pitr.sqlite.pagelog.verify import check_chain, verify_archive
from tests.sqlite.builders import (
    ArchiveBuilder,
    a_base,
    a_commit,
    an_image,
    keys,
    read_state,
    snapshot,
)

_FIELDS = {
    "kind": CommitKind.COMMIT,
    "fork": 2,
    "time_begin_us": 10,
    "time_end_us": 20,
    "page_count": 3,
    "wal": WalMark(1, 2, 3, 4, 5),
    "change_counter": 77,
}


def written(bytes_max: int = 1 << 20) -> tuple[SegmentWriter, dict[str, bytes]]:
    objects: dict[str, bytes] = {}
    writer = SegmentWriter(objects.__setitem__, page_size=512, lease=7, bytes_max=bytes_max)
    return writer, objects


def index_of(key: str, data: bytes) -> SegmentIndex:
    index = SegmentIndex(ObjectReader.of_bytes(key, data, segment.KIND))
    index.check_key()
    return index


def test_record_read_back_has_every_field() -> None:
    """A record in the archive is the record that the writer returned."""
    writer, objects = written()
    writer.begin(number=5, **_FIELDS)
    writer.page(2, an_image("two"), page_digest(an_image("two")))
    record = writer.end()
    writer.flush()

    [(key, data)] = objects.items()
    assert index_of(key, data).records == [record]
    assert (record.number, record.first_covered, record.wal) == (5, 5, WalMark(1, 2, 3, 4, 5))
    assert (record.change_counter, record.fork, record.page_count) == (77, 2, 3)


def test_commit_without_wal_mark_stays_without() -> None:
    """A rollback-journal database has no place in a WAL, which is not the place 0."""
    writer, objects = written()
    writer.begin(number=5, **{**_FIELDS, "wal": None})
    writer.page(1, an_image("one"), 1)
    writer.end()
    writer.flush()

    assert index_of(*objects.popitem()).records[0].wal is None


def test_flush_without_commits_emits_nothing() -> None:
    """An idle database costs no object."""
    writer, objects = written()

    writer.flush()

    assert not objects


def test_large_commit_becomes_parts_and_nothing_before_the_last_is_a_commit() -> None:
    """Only the last part has the record, so that a torn commit does not exist."""
    writer, objects = written(bytes_max=200)
    writer.begin(number=1, **{**_FIELDS, "page_count": 40})
    rng = random.Random(1)
    for page in range(1, 41):
        image = rng.randbytes(512)
        writer.page(page, image, page_digest(image))
    before = dict(objects)
    writer.end()

    assert len(objects) == 40
    assert all("+" in key and not index_of(key, data).records for key, data in before.items())
    last = index_of(*list(objects.items())[-1])
    assert [record.number for record in last.records] == [1]
    check_chain([index_of(key, data) for key, data in objects.items()])


def test_complete_commits_before_a_large_one_are_emitted_apart() -> None:
    """A large commit begins with an object of its own; small ones before it are not held up."""
    builder = ArchiveBuilder(bytes_max=2000)
    rng = random.Random(1)
    large = {page: rng.randbytes(512) for page in range(1, 9)}
    small = a_commit(2, {1: "a"}), a_commit(3, {1: "b"})
    builder.write(a_base(), *small, a_commit(4, large, page_count=8)).flush()

    commits = [key.split("/")[1].split(".")[0] for key in keys(builder.store)]
    assert commits[1] == f"{2:016d}-{3:016d}"
    assert all(part.startswith(f"{4:016d}") for part in commits[2:])


@pytest.mark.parametrize("kind", [CommitKind.BASE, CommitKind.GAP, CommitKind.FORK])
@pytest.mark.parametrize("bytes_max", [1 << 20, 200])
def test_special_commit_has_objects_of_its_own_that_say_so(
    kind: CommitKind, bytes_max: int
) -> None:
    """A base, gap or fork is found by its name, also when it is cut into parts."""
    builder = ArchiveBuilder(bytes_max=bytes_max)
    rng = random.Random(1)
    pages = {page: rng.randbytes(512) for page in range(1, 5)}
    builder.write(a_base(), a_commit(2, {1: "a"}), a_commit(3, pages, kind=kind))
    builder.write(a_commit(4, {1: "b"})).flush()

    note = f".{kind.name.lower()}"
    third = [key for key in keys(builder.store) if f"-{3:016d}." in key]
    assert len(third) == (1 if bytes_max > 512 else 4)
    assert all(f"/{3:016d}-{3:016d}." in key and key.endswith(note) for key in third)
    assert [key for key in keys(builder.store, f"log/{4:016d}") if "." not in key[-17:]]
    for key, data in snapshot(builder.store).items():
        index_of(key, data)


@pytest.mark.parametrize("note", [Note.NONE, Note.COARSE, Note.GAP])
def test_special_commit_under_another_note_is_refused(
    note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who trusts the names to show every base must not be deceived by a writer that forgot."""
    with monkeypatch.context() as patch:
        patch.setitem(segment._SPECIAL, CommitKind.BASE, note)
        builder = ArchiveBuilder().write(a_base()).flush()

    with pytest.raises(CorruptObject, match="damaged"):
        index_of(*snapshot(builder.store).popitem())


def test_chain_depends_on_every_page_and_on_the_commits_before() -> None:
    """No page, no number and no earlier commit can change without changing the chain."""

    def chain(*commits: dict[int, str], kind: CommitKind = CommitKind.COMMIT) -> bytes:
        builder = ArchiveBuilder()
        for number, pages in enumerate(commits, start=1):
            builder.write(a_commit(number, pages, kind=kind))
        return builder.records[-1].chain

    chains = [
        chain({1: "a"}, {2: "b"}),
        chain({1: "A"}, {2: "b"}),
        chain({1: "a"}, {2: "B"}),
        chain({1: "a"}, {3: "b"}),
        chain({1: "a"}, {2: "b"}, kind=CommitKind.GAP),
        chain({2: "b"}),
    ]
    assert len(set(chains)) == len(chains)


def test_parts_leave_the_chain_as_it_is() -> None:
    """How a commit is cut into objects does not change its chain."""
    chains = {
        ArchiveBuilder(bytes_max=size).write(a_base(50)).records[-1].chain for size in (60, 1 << 20)
    }
    assert len(chains) == 1


def test_object_under_another_key_is_refused() -> None:
    """A segment knows its own name."""
    builder = ArchiveBuilder().write(a_base()).flush()
    [(key, data)] = snapshot(builder.store).items()

    index = SegmentIndex(ObjectReader.of_bytes(key.replace("1.0000", "2.0000"), data, b"SEGM"))
    with pytest.raises(CorruptObject, match="damaged"):
        index.check_key()


def test_newer_format_is_refused_by_name_of_the_remedy() -> None:
    """An archive of a newer pitr is not read by guessing."""
    builder = ArchiveBuilder().write(a_base()).flush()
    [(key, data)] = snapshot(builder.store).items()
    newer = data[:12] + (2).to_bytes(2, "little") + data[14:]

    with pytest.raises(PreconditionFailed, match="newer version"):
        SegmentIndex(ObjectReader.of_bytes(key, newer, segment.KIND))


def test_find_page_in_commit_without_it_gives_nothing() -> None:
    """A page is found in the commits that wrote it and in no other."""
    builder = ArchiveBuilder().write(a_base(), a_commit(2, {3: "x"}), a_commit(3, {1: "y"}))
    index = index_of(*snapshot(builder.flush().store).popitem())

    assert index.find(2, 3) == 0
    assert index.find(2, 1) is None
    assert index.find(3, 3) is None
    assert [index.commit_of(entry) for entry in range(2)] == [2, 3]


def test_object_in_the_document_is_what_the_document_says() -> None:
    """The hexdump in docs/formats/archive.md is an object that this version reads.

    It must be readable for ever: a change of the format needs another version, not another dump.
    """
    document = (Path(__file__).parents[2] / "docs/formats/archive.md").read_text()
    rows = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ){0,15}[0-9a-f]{2})\b", document, re.M)
    data = b""
    for offset, row in rows:
        assert int(offset, 16) == len(data)
        data += bytes.fromhex(row)
    [key] = re.findall(r"^Key: `(log/.*)`$", document, re.M)
    base = a_commit(1, {1: "one", 2: "two"}, page_count=2, time_us=1_700_000_000_000_000)

    store = ArchiveBuilder().write(base).flush().store
    store.put_new(key, data)
    archive = PageArchive(store)
    assert read_state(archive, 2) == [an_image("one"), an_image("deux")]
    assert read_state(archive, 3) == [an_image("uno"), an_image("dos")]
    assert archive.last_commit().wal == WalMark(0x11111111, 0x22222222, 5, 0x77777777, 0x88888888)
    assert verify_archive(store).ok
