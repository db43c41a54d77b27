"""`log` over a history: order, limits, kinds of commits, what it reads, and damage."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pitr.errors import CorruptDatabase, TableUnknown
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.pagelog.compaction import compact
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitKind
from pitr.sqlite.past.schema import Schema
from pitr.sqlite.rows.log import transactions
from pitr.vocabulary.change import TableChange, Transaction
from tests.memory_store import MemoryStore
from tests.sqlite.builders import RemoteStore
from tests.sqlite.recorded import START_US, Recorder, reference


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """A writer with two tables of some hundred rows and an index."""
    made = a_recorder(tmp_path)
    yield made
    made.close()


def a_recorder(folder: Path, store: MemoryStore | None = None) -> Recorder:
    recorder = Recorder(folder / "log.db", page_size=1024, store=store)
    recorder.run(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)",
        "CREATE TABLE u(id INTEGER PRIMARY KEY, v TEXT)",
        "CREATE INDEX t_v ON t(v)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800)"
        " INSERT INTO t SELECT i, 'value ' || i FROM n",
        "INSERT INTO u SELECT * FROM t",
    )
    return recorder


def positions(found: list[Transaction]) -> list[str]:
    return [item.position for item in found]


def test_transactions_come_newest_last_with_their_times(recorder: Recorder) -> None:
    """The order is the order of the commits; time and width are the commit's own."""
    first = recorder.run("DELETE FROM t WHERE id = 1")
    last = recorder.run("DELETE FROM t WHERE id = 2")

    found = transactions(recorder.archive(), ["t"], first=first)
    assert positions(found) == [f"commit:{first}", f"commit:{last}"]
    assert found[1].time_us == START_US + last * 1_000_000
    assert found[1].time_width_us == 250_000
    assert found[1].xid is None
    assert found[1].kind == "commit"


def test_limit_gives_the_newest_and_reads_no_more(recorder: Recorder) -> None:
    """With a limit the older commits are not read."""
    for number in range(1, 201):
        recorder.run(f"UPDATE t SET v = 'new' WHERE id = {number}")
    archive = recorder.archive()
    found = transactions(archive, limit=3)
    read = archive.bytes_read

    newest = recorder.number
    assert positions(found) == [f"commit:{newest - 2}", f"commit:{newest - 1}", f"commit:{newest}"]
    everything = recorder.archive()
    assert len(transactions(everything)) > 200
    assert read < everything.bytes_read / 2


def test_tables_that_were_not_asked_for_are_left_out(recorder: Recorder) -> None:
    """A transaction on several tables shows those asked for; one on none of them is not listed."""
    both = recorder.transaction("DELETE FROM t WHERE id = 1", "DELETE FROM u WHERE id < 3")
    recorder.run("DELETE FROM t WHERE id = 2")

    found = transactions(recorder.archive(), ["U"], first=both)
    assert positions(found) == [f"commit:{both}"]
    assert found[0].tables == (TableChange(table="u", deleted=2),)


def test_unknown_table_is_refused_with_the_names_near_it(recorder: Recorder) -> None:
    """A mistyped table is no table without changes."""
    recorder.run("CREATE TABLE orders(id)")
    with pytest.raises(TableUnknown) as caught:
        transactions(recorder.archive(), ["ordes"])

    assert caught.value.hint == "Did you mean orders?"


def test_table_of_the_past_is_found_after_it_was_dropped(recorder: Recorder) -> None:
    """A table that is gone is known as long as a commit has it."""
    number = recorder.run("DROP TABLE u")

    found = transactions(recorder.archive(), ["u"])
    assert found[-1].position == f"commit:{number}"
    assert found[-1].tables == (TableChange(table="u", deleted=800, dropped=True),)
    assert found[-2].tables == (TableChange(table="u", inserted=800),)


def test_gap_is_listed_with_the_net_difference(recorder: Recorder) -> None:
    """What happened inside a gap is not known; what it came to is, and it is always listed."""
    recorder.connection.execute("DELETE FROM t WHERE id <= 10")
    recorder.connection.execute("INSERT INTO t SELECT id, 'again' FROM u WHERE id <= 4")
    recorder.connection.execute("VACUUM")
    gap = recorder.take(CommitKind.GAP)

    found = transactions(recorder.archive(), ["t"], first=gap)
    assert found[0].kind == "gap"
    change = found[0].tables[0]
    assert (change.inserted, change.updated, change.deleted) == (0, 4, 6)
    assert [item.kind for item in transactions(recorder.archive(), ["u"])].count("gap") == 1


def test_first_commit_is_the_base_and_has_no_changes(recorder: Recorder) -> None:
    """What was there when the archive began was not done by anybody."""
    found = transactions(recorder.archive())

    assert (found[0].position, found[0].kind, found[0].tables) == ("commit:1", "base", ())


def test_merged_commits_are_told_as_one(recorder: Recorder) -> None:
    """After compaction the commits that were folded together show what they came to together."""
    for number in range(1, 20):
        recorder.run(f"UPDATE t SET v = 'a' WHERE id = {number}")
    recorder.run("DELETE FROM t WHERE id < 5")
    before = {number: recorder.states[number] for number in range(1, recorder.number + 1)}
    recorder.archive()
    compact(recorder.store, now_us=1 << 60, grace_us=0)

    archive = PageArchive(recorder.store)
    records = archive.commits()
    assert any(record.kind is CommitKind.MERGED for record in records)
    found = {item.position: item for item in transactions(archive)}
    for previous, record in pairwise(records):
        expected = reference(before[previous.number], before[record.number])
        item = found.get(f"commit:{record.number}")
        assert {change.table: change for change in (item.tables if item else ())} == expected


def test_new_page_size_is_compared_across(recorder: Recorder) -> None:
    """A database laid out anew with another page size has the rows that it had."""
    number = recorder.lay_out_anew(4096)
    recorder.run("DELETE FROM t WHERE id = 7")

    found = transactions(recorder.archive(), first=number - 1)
    assert [item.kind for item in found[1:]] == ["base", "commit"]
    assert all(not (c.inserted or c.updated or c.deleted) for c in found[1].tables)
    assert found[2].tables == (TableChange(table="t", deleted=1),)


def test_remote_archive_is_asked_seldom(tmp_path: Path) -> None:
    """Requests to a remote store are merged over many commits."""
    store = RemoteStore()
    recorder = a_recorder(tmp_path, store)
    for number in range(1, 301):
        recorder.run(f"UPDATE t SET v = 'x' WHERE id = {number * 2}")
        if number % 100 == 0:
            recorder.archive()
    archive = recorder.archive()
    before = store.requests
    found = transactions(archive, ["t"])

    assert len(found) == 1 + 2 + 300
    assert store.requests - before < len(found) / 2


# --- damage --------------------------------------------------------------------------------------


def damaged(recorder: Recorder, page: int, at: int, data: bytes) -> int:
    """Archive one more commit in which bytes of a page are not what SQLite wrote."""
    recorder.connection.execute("UPDATE t SET v = v || 'x'")
    recorder.connection.execute("UPDATE u SET v = v || 'x'")
    number = recorder.number + 1
    state = bytearray(recorder.states[-1])
    recorder.take()
    begin = (page - 1) * recorder.page_size
    state[begin + at : begin + at + len(data)] = data
    assert recorder.append(bytes(state), [page], CommitKind.COMMIT) == number + 1
    return number


def root_of(recorder: Recorder, table: str) -> int:
    snapshot = Snapshot(recorder.archive().at(recorder.number))
    return Schema.read(snapshot).tables[table].root


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"\x00"),  # no b-tree page
        (0, b"\x0d"),  # a leaf with the cells of an interior page
        (3, b"\xff\xff"),  # more cells than fit
        (12, b"\x00\x01"),  # a cell inside the header
        (8, b"\x00\x00\x00\x00"),  # a child that is no page
        (8, b"\x7f\xff\xff\xff"),  # a child behind the end
        (8, b"\x00\x00\x00\x01"),  # the schema as a child
    ],
)
def test_damaged_tree_is_refused_with_page_and_commits(
    recorder: Recorder, at: int, data: bytes
) -> None:
    """A page that contradicts the format ends the walk with an error, never with wrong counts."""
    root = root_of(recorder, "t")
    number = damaged(recorder, root, at, data)

    with pytest.raises(CorruptDatabase) as caught:
        transactions(recorder.archive(), ["t"], first=number)
    assert "page" in caught.value.message


def test_tree_that_runs_in_a_circle_is_refused(recorder: Recorder) -> None:
    """An interior page that is its own child neither hangs nor is believed."""
    root = root_of(recorder, "t")
    damaged(recorder, root, 8, root.to_bytes(4, "big"))

    with pytest.raises(CorruptDatabase):
        transactions(recorder.archive(), ["t"])


def test_overflow_chain_that_runs_in_a_circle_is_refused(recorder: Recorder) -> None:
    """A chain of pages that leads back into itself is damage."""
    recorder.run("INSERT INTO t VALUES (5000, hex(zeroblob(4000)))")
    archive = recorder.archive()
    snapshot = Snapshot(archive.at(recorder.number))
    root = root_of(recorder, "t")
    cell = next(cell for cell, _ in snapshot.cells(root) if cell.overflow)
    second = snapshot.overflow_pages(cell)[1]
    state = bytearray(recorder.states[-1])
    state[(second - 1) * 1024 : (second - 1) * 1024 + 4] = cell.overflow.to_bytes(4, "big")
    recorder.append(bytes(state), [second], CommitKind.COMMIT)

    with pytest.raises(CorruptDatabase, match=f"page {cell.overflow} "):
        transactions(recorder.archive(), ["t"], first=recorder.number)
