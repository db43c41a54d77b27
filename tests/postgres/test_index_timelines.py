"""The index across a failover: a timeline goes on from its ancestor in the middle of a segment."""

from __future__ import annotations

from pathlib import Path

from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.log.log import LogStretch, transactions
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import ServerMaker
from tests.postgres.index_world import SETTINGS, IndexWorld, WrittenWal
from tests.postgres.test_index import found_rows


def test_log_and_index_go_on_across_a_failover(make_server: ServerMaker, tmp_path: Path) -> None:
    """By objects of both timelines, by scanning, and without what the old primary wrote alone."""
    primary = make_server(settings=SETTINGS, segment_megabytes=1)
    primary.query("CREATE TABLE t (id int, body text)")
    fill = "INSERT INTO t SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 1500) g"
    with primary.standby(settings=SETTINGS) as standby:
        primary.query(fill)
        primary.query("DELETE FROM t WHERE id <= 7")
        primary.stop()
        standby.promote()
        standby.query("DELETE FROM t WHERE id <= 20")
        standby.query(fill)
        world = IndexWorld(standby, tmp_path)
        world.refresh()
        world.complete()
        wal = WrittenWal(world.wal, world.position())
        begin, end = wal.ranges(2)[-1]
        index = WalIndex(world.store, wal)
        bare = WalIndex(IndexWorld(standby, tmp_path / "none").store, wal)
        rows = found_rows(index, begin, end, timeline=2)
        scanned = found_rows(bare, begin, end, timeline=2)
        found = transactions(
            index,
            world.catalog(),
            LogStretch(2, begin, begin, end, end),
            ["t"],
            default_database="postgres",
        )

    assert {tile.object.timeline for tile in index.tiles(2)} == {1, 2}
    assert len(rows) > 3000
    assert rows == scanned
    # The standby's own WAL begins after CREATE TABLE, or before it.
    changes = [(c.inserted, c.deleted) for item in found for c in item.tables if not c.created]
    assert changes == [(1500, 0), (0, 7), (0, 13), (1500, 0)]
    positions = [Lsn.parse(item.position.removeprefix("lsn:")) for item in found]
    assert positions == sorted(positions)
