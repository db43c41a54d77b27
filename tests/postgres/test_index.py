"""The index of WAL records against pg_waldump, and every way of asking it against each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from pitr.postgres.index.compaction import by_block, merge, replaced
from pitr.postgres.index.file import GROUP_ROWS_MAX
from pitr.postgres.index.name import IndexObject, cover
from pitr.postgres.index.rows import RowKind, join_rows, sort_by_lsn
from pitr.postgres.index.verification import verify_index
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal.versions import RM_XACT, rmgr_name
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import available
from tests.postgres.index_world import SETTINGS, IndexWorld
from tests.test_tidy import ROOT
from tools.postgres_servers import Server

RECORD = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: (\w+/\w+), prev \w+/\w+, "
)
BLOCK = re.compile(r"blkref #(\d+): rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)")
FORKS = {"": 0, "main": 0, "fsm": 1, "vm": 2, "init": 3}
WORK = """
CREATE TABLE kept (id int PRIMARY KEY, name text, body text);
INSERT INTO kept SELECT g, md5(g::text), repeat(md5(g::text), 80) FROM generate_series(1, 9000) g;
UPDATE kept SET name = name || 'x' WHERE id % 5 = 0;
DELETE FROM kept WHERE id % 7 = 0;
CREATE INDEX ON kept (name);
CHECKPOINT;
UPDATE kept SET name = 'y' WHERE id % 11 = 0;
CREATE TABLE gone AS SELECT * FROM kept;
BEGIN; SAVEPOINT a; INSERT INTO gone VALUES (1); SAVEPOINT b; DELETE FROM gone WHERE id < 9; COMMIT;
TRUNCATE gone;
VACUUM FULL kept;
DROP TABLE gone;
BEGIN; INSERT INTO kept VALUES (-1); PREPARE TRANSACTION 'one';
COMMIT PREPARED 'one';
VACUUM kept;
"""


@pytest.fixture(scope="module")
def world(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexWorld]:
    with Server(available(major), settings=SETTINGS, segment_megabytes=1) as server:
        world = IndexWorld(server, tmp_path_factory.mktemp("archive"))
        for statements in WORK.strip().splitlines():
            server.query(statements)
            world.refresh()
        world.complete()
        server.query("CREATE TABLE late AS SELECT generate_series(1, 99) AS id")
        yield world


def whole(world: IndexWorld) -> tuple[WalIndex, Lsn, Lsn]:
    """Return the index and the stretch that the archive holds."""
    index = world.index()
    return index, *world.written().ranges(1)[-1]


def test_index_holds_what_pg_waldump_prints(world: IndexWorld) -> None:
    """Every record and every block reference, and nothing else."""
    if not (world.server.bin / "pg_waldump").exists():
        pytest.skip("the server for tests of version 13 comes without pg_waldump")
    index, begin, end = whole(world)
    text = world.server.run(
        "pg_waldump", "-p", str(world.server.wal), "-s", str(begin), "-e", str(end)
    )
    expected: Counter[tuple[object, ...]] = Counter()
    for line in text.splitlines():
        record = RECORD.match(line)
        assert record, line
        name, length, xid, lsn = record.groups()
        head = (name, int(length), int(xid), Lsn.parse(lsn).value)
        blocks = [
            (int(number), *map(int, (space, database, file)), FORKS[fork], int(block))
            for number, space, database, file, fork, block in BLOCK.findall(line)
        ]
        expected.update((*head, *block) for block in blocks or [()])

    assert len(expected) > 5000
    assert found_rows(index, begin, end) == expected


def found_rows(
    index: WalIndex, begin: Lsn, end: Lsn, *, timeline: int = 1
) -> Counter[tuple[object, ...]]:
    """Return the rows as the test reads them in pg_waldump's text."""
    found: Counter[tuple[object, ...]] = Counter()
    head = ("rmgr", "length", "xid", "lsn", "info", "kind")
    block = ("reference", "tablespace", "database", "relation", "fork", "block")
    every = index.relation_rows(timeline, begin, end, None)
    for rows in [*index.system_rows(timeline, begin, end), *every]:
        for rmgr, length, xid, lsn, info, kind, *reference in rows.select(*head, *block):
            if kind in (RowKind.DROPPED, RowKind.SUBTRANSACTION):
                continue
            # Where a prepared transaction ends, pg_waldump prints the xid of the record's header.
            is_prepared = rmgr == RM_XACT and info & 0x70 in (0x30, 0x40)
            key = (rmgr_name(rmgr), length, 0 if is_prepared else xid, lsn)
            found[(*key, *reference) if kind == RowKind.BLOCK else key] += 1
    return found


def test_questions_by_relation_and_block_agree_with_all_rows(world: IndexWorld) -> None:
    """Asking for some files, blocks and stretches gives what filtering everything gives."""
    index, begin, end = whole(world)
    everything = [
        row
        for rows in index.relation_rows(1, begin, end, None)
        for row in rows.select(
            "lsn", "length", "kind", "tablespace", "database", "relation", "block"
        )
    ]
    files = Counter(RelationFile(*row[3:6]) for row in everything)
    wanted = {
        files.most_common()[0][0]: [(0, 3), (10, 20)],
        files.most_common()[3][0]: None,
        files.most_common()[-1][0]: None,
    }
    lsns = sorted({row[0] for row in everything})
    low, high = Lsn(lsns[len(lsns) // 3]), Lsn(lsns[len(lsns) * 2 // 3])
    expected = {
        row[0]: row[1]
        for row in everything
        if low.value <= row[0] < high.value and row[2] != RowKind.DROPPED
        for ranges in [wanted.get(RelationFile(*row[3:6]), [])]
        if ranges is None or row[2] != RowKind.BLOCK or any(b <= row[6] < e for b, e in ranges)
    }
    found = index.kept_records(1, low, high, wanted, lambda *_: False)

    assert 100 < len(expected) < len(lsns)
    assert {lsn: length for lsn, (length, _) in found.items()} == expected
    assert list(found) == sorted(found)


def test_index_and_scan_say_the_same_and_damage_is_passed_over(
    world: IndexWorld, tmp_path: Path
) -> None:
    """Without objects, with damaged ones and with missing ones the rows are the same."""
    index, begin, end = whole(world)
    expected = found_rows(index, begin, end)
    bare = WalIndex(IndexWorld(world.server, tmp_path).store, world.written())
    assert found_rows(bare, begin, end) == expected
    keys = [info.key for info in world.store.list("index/")]
    assert len(keys) > 5
    originals = {key: world.store.get(key) for key in keys}
    try:
        world.store.put(keys[1], originals[keys[1]][:-30])
        world.store.put(keys[2], bytes(reversed(originals[keys[2]])))
        broken = bytearray(originals[keys[3]])
        broken[20] ^= 1
        world.store.put(keys[3], bytes(broken))
        world.store.delete(keys[4])
        assert found_rows(world.index(), begin, end) == expected
    finally:
        for key, data in originals.items():
            world.store.put(key, data)


def test_index_made_twice_is_the_same_object(world: IndexWorld, tmp_path: Path) -> None:
    """Keys and bytes do not depend on who makes them, or when."""
    again = IndexWorld(world.server, tmp_path)
    again.complete()
    first = {info.key: world.store.get(info.key) for info in world.store.list("index/")}
    second = {info.key: again.store.get(info.key) for info in again.store.list("index/")}

    assert first.items() <= second.items()
    assert world.complete() == len(second) - len(first)


def test_query_in_the_format_document_runs(world: IndexWorld, tmp_path: Path) -> None:
    """The documented DuckDB query finds the DELETE."""
    text = (ROOT / "docs/formats/postgres-index.md").read_text()
    query = text.split("<!-- query -->")[1].split("```")[1].removeprefix("sql\n")
    xid, number = deleting_transaction(world)
    assert "16384" in query
    query = query.replace("'index/", f"'{world.folder}/index/").replace("16384", str(number))
    with duckdb.connect() as connection:
        rows = connection.execute(query).fetchall()

    assert [(row[1], row[2]) for row in rows] == [(xid, 9000 // 7)]


def deleting_transaction(world: IndexWorld) -> tuple[int, int]:
    """Return xid of the DELETE of a seventh of the rows, and the file number it worked on."""
    (found,) = [
        item for item in world.log("kept") if any(c.deleted == 9000 // 7 for c in item.tables)
    ]
    index, begin, end = whole(world)
    assert found.xid is not None
    for rows in index.relation_rows(1, begin, end, None):
        for xid, change, relation in rows.select("xid", "change", "relation"):
            if xid == found.xid and change == 3 and relation >= 16384:
                return found.xid, relation
    raise AssertionError("no row of the DELETE")


def test_names_tell_the_stretch_and_other_names_are_passed_over(world: IndexWorld) -> None:
    """A name is read back as it was written; anything else is no object of the index."""
    for info in world.store.list("index/"):
        item = IndexObject.of(info)
        assert item is not None
        assert item.key == info.key
        assert item.end - item.begin == 1 << 20


def test_compaction_changes_no_answer(world: IndexWorld, tmp_path: Path) -> None:
    """Merged in several rounds, cut by block, with and without the inputs still there."""
    index, begin, end = whole(world)
    expected = found_rows(index, begin, end)
    files = Counter(
        RelationFile(*row)
        for rows in index.relation_rows(1, begin, end, None)
        for row in rows.select("tablespace", "database", "relation")
    )
    wanted = {file: [(0, 2), (7, 9)] for file in list(files)[:5]}
    kept = index.kept_records(1, begin, end, wanted, lambda *_: False)
    store = IndexWorld(world.server, tmp_path).store
    for info in world.store.list("index/"):
        store.put_new(info.key, world.store.get(info.key))
    for size in (3, 2, 50):
        objects = list(filter(None, map(IndexObject.of, store.list("index/"))))
        tiles = [tile.object for tile in cover((item, 1 << 64) for item in objects)]
        for at in range(0, len(tiles), size):
            if len(tiles[at : at + size]) > 1:
                merge(store, tiles[at : at + size])
        compacted = WalIndex(store, world.written())
        assert found_rows(compacted, begin, end) == expected
        assert compacted.kept_records(1, begin, end, wanted, lambda *_: False) == kept
    objects = list(filter(None, map(IndexObject.of, store.list("index/"))))
    swept = replaced(objects, before_us=1 << 62)
    for item in swept:
        store.delete(item.key)
    assert len(objects) - len(swept) == 1
    assert found_rows(WalIndex(store, world.written()), begin, end) == expected


def test_rows_of_a_large_file_are_cut_by_block(world: IndexWorld) -> None:
    """Each piece has its own blocks, and its rows in the order of LSNs."""
    index, begin, end = whole(world)
    rows = max(index.relation_rows(1, begin, end, None), key=len)
    many = sort_by_lsn(join_rows([rows] * (2 * GROUP_ROWS_MAX // len(rows) + 1)))
    pieces = list(by_block(many))
    blocks = [sorted(set(piece["block"])) for piece in pieces]

    assert len(pieces) > 1
    assert sum(map(len, pieces)) == len(many)
    assert all(a[-1] <= b[0] for a, b in pairwise(blocks))
    assert all(list(piece["lsn"]) == sorted(piece["lsn"]) for piece in pieces)


def test_verification_finds_what_is_damaged_and_nothing_else(
    world: IndexWorld, tmp_path: Path
) -> None:
    """A whole index is sound; a changed page and a missing first record are named."""
    assert [item.fault for item in verify_index(world.store) if item.fault] == []
    store = IndexWorld(world.server, tmp_path).store
    infos = list(world.store.list("index/"))
    for info in infos:
        store.put_new(info.key, world.store.get(info.key))
    broken = bytearray(store.get(infos[1].key))
    broken[len(broken) // 3] ^= 4
    store.put(infos[1].key, bytes(broken))
    found = {item.object.key: item.fault for item in verify_index(store) if item.fault}

    assert list(found) == [infos[1].key]
    store.delete(infos[1].key)
    IndexWorld(world.server, tmp_path).complete()
    assert [item.fault for item in verify_index(store) if item.fault] == []
