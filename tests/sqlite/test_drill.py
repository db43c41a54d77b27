"""`pitr verify --drill` of SQLite: what is as it was passes, and what is not fails."""

from __future__ import annotations

from pathlib import Path

from pitr.archive.local import LocalStore
from pitr.archive.object import ObjectReader
from pitr.operations.drill import rotated
from pitr.sqlite.pagelog import segment
from pitr.sqlite.pagelog.images import checked_image
from pitr.sqlite.pagelog.segment import SegmentIndex, SegmentWriter, page_digest
from tests.cli.commands import pitr, succeed, write

TABLES = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)",
    'CREATE TABLE "od.d ""x" (a, b UNIQUE)',
    "CREATE TABLE items (name TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE notes (t)",
    "INSERT INTO orders (item) VALUES ('lamp'), ('chair'), ('kettle')",
    "INSERT INTO items VALUES ('lamp'), ('chair')",
)


def captured(folder: Path) -> None:
    """Make a database and an archive of it, in two runs of capture."""
    write(folder / "shop.db", *TABLES)
    succeed(folder, "init", "shop.db", "--archive", "archive")
    succeed(folder, "capture", "--once")
    write(folder / "shop.db", "UPDATE orders SET item = 'table' WHERE id = 2")
    succeed(folder, "capture", "--once")


def test_tables_are_compared_with_the_whole_database_and_with_live(tmp_path: Path) -> None:
    """Three tables a drill, the next ones the next time; nothing stays behind."""
    captured(tmp_path)
    first = succeed(tmp_path, "verify", "--drill", "--json", "--seed", "5").json
    second = succeed(tmp_path, "verify", "--drill", "--json", "--whole-up-to", "0").json

    assert first["seed"] == 5
    assert all(item["equal"] for item in (*first["drill"], *second["drill"]))
    assert {item["method"] for item in first["drill"]} == {"whole", "live"}
    assert {item["method"] for item in second["drill"]} == {"past", "live"}
    names = [{item["table"] for item in found["drill"]} for found in (first, second)]
    assert [len(tables) for tables in names] == [3, 3]
    assert len(names[0] | names[1]) == 4
    assert [path for path in (tmp_path / ".pitr/drill").rglob("*") if path.is_file()] == []
    shown = succeed(tmp_path, "status", "--json").json
    assert shown["drilled"]["ok"] is True
    assert shown["verified"]["ok"] is True
    assert pitr(tmp_path, "verify", "--seed", "1").code == 2
    assert pitr(tmp_path, "verify", "--drill", "-t", "nothing").code == 2


def test_drill_fails_on_an_archive_that_is_whole_and_wrong(tmp_path: Path) -> None:
    """A row was altered, with every checksum made anew: verify is content, the drill is not."""
    captured(tmp_path)
    forge_last(LocalStore(tmp_path / "archive"), b"chair", b"chain", b"table", b"cable")
    done = pitr(tmp_path, "verify", "--drill", "--json", "-t", "orders")
    found = done.json

    assert (done.code, found["ok"], found["damaged"], found["holes"]) == (1, False, [], [])
    [differing] = [item for item in found["drill"] if not item["equal"]]
    assert (differing["method"], differing["table"]) == ("live", "orders")
    assert "1 with other values" in differing["detail"]
    figures = succeed(tmp_path, "status", "--prometheus").out
    assert 'pitr_drill_ok{source="shop"} 0\n' in figures
    assert 'pitr_verify_ok{source="shop"} 1\n' in figures


def test_drill_fails_on_a_damaged_archive(tmp_path: Path) -> None:
    """What keeps a table from coming back is the verdict on it, not an error."""
    captured(tmp_path)
    for path in (tmp_path / "archive/log").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[20] ^= 1
            path.write_bytes(data)
    done = pitr(tmp_path, "verify", "--drill", "--json", "-t", "orders")

    assert done.code == 1
    assert "damaged" in done.json["drill"][0]["detail"]


def test_sample_goes_round() -> None:
    """Behind the last of the drill before, also when that one is gone."""
    names = ["c", "a", "d", "b"]

    assert rotated(names, None) == ["a", "b", "c", "d"]
    assert rotated(names, "b") == ["c", "d", "a", "b"]
    assert rotated(names, "bb") == ["c", "d", "a", "b"]
    assert rotated(names, "z") == ["a", "b", "c", "d"]


def forge_last(store: LocalStore, *texts: bytes) -> None:
    """Replace texts in the pages of the last commits, checksums and chain made anew."""
    info = list(store.list("log/"))[-1]
    index = SegmentIndex(ObjectReader(store, info.key, info.size, segment.KIND))
    writer = SegmentWriter(
        store.put_new, page_size=index.page_size, lease=index.lease, chain=index.chain_before
    )
    for ordinal, record in enumerate(index.records):
        writer.begin(
            number=record.number,
            kind=record.kind,
            fork=record.fork,
            time_begin_us=record.time_begin_us,
            time_end_us=record.time_end_us,
            page_count=record.page_count,
            wal=record.wal,
            change_counter=record.change_counter,
        )
        for entry in index.entries_of(ordinal):
            (frame,) = store.get_ranges(info.key, [index.extent(entry)])
            image = checked_image(index, entry, frame)
            for old, new in zip(texts[::2], texts[1::2], strict=True):
                image = image.replace(old, new)
            writer.page(index.numbers[entry], image, page_digest(image))
        writer.end()
    writer.flush()
    store.delete(info.key)
    for made in list(store.list("map/")):
        store.delete(made.key)
