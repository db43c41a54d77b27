"""The selection by the index is the selection by reading the WAL, record for record."""

from __future__ import annotations

import os
import random
from bisect import bisect_right

import pytest

from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.replay.catalog_rest import CatalogsAtRest
from pitr.postgres.replay.replay import ReplaySource
from pitr.postgres.selection.by_index import IndexedWindow, select_by_index
from pitr.postgres.selection.by_wal import WalWindow, scans, select_records
from pitr.postgres.wal.payload import StorageCreated, StorageTruncated, decode_payload
from pitr.postgres.wal.record import decode_record
from pitr.postgres.wal.select import Selection
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal.wanted import WantedFiles
from tests.memory_store import MemoryStore
from tests.postgres.random_workload import DATABASE
from tests.postgres.replay_world import recorded

SEED = int(os.environ.get("PITR_TEST_SEED", "1"))


def test_selection_by_index_equals_selection_by_reading(major: int) -> None:
    """For random stops, also inside records, and random relations, with catalogs and without."""
    if major == 13:
        pytest.skip("the programs of 13 that are to be had here lack pg_basebackup")
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    with recorded(SEED, major, segment_megabytes=1) as world:
        source = world.source()
        rest = CatalogsAtRest.of_base(source.base)
        oid = rest.databases()[DATABASE]
        files = sorted(
            (1663, int(path.split("/")[2]))
            for path in source.base.files()
            if path.startswith(f"base/{oid}/") and path.split("/")[2].isdigit()
        )
        positions = world.positions()
        for _ in range(6):
            stop = chance.choice(positions) + chance.choice((0, 0, 8))
            window = WalWindow(
                source.wal, 1, source.label.redo.value, stop, source.control.next_xid
            )
            chosen = frozenset(chance.sample(files, chance.choice((0, 1, 30))))
            wanted = WantedFiles(oid, chosen, has_catalogs=chance.random() < 0.5)
            index = WalIndex(MemoryStore(), source.wal)
            found = select_by_index(IndexedWindow(window, index), wanted, source.base.files())
            expected = select_records(window, wanted)

            assert kept(window, found) <= kept(window, expected)
            missing = kept(window, expected) - kept(window, found)
            assert not missing - unmapped(window, source, found.shared_mapped)
            assert (found.stop, found.backup_end) == (expected.stop, expected.backup_end)
            assert sorted(found.redo_points) == sorted(expected.redo_points)
            assert (found.mapped, found.shared_mapped) == (expected.mapped, expected.shared_mapped)
            assert found.kept_records == len(kept(window, found)) > 0


def kept(window: WalWindow, selection: Selection) -> set[int]:
    """Return where the records begin that a selection keeps."""
    begins = [run.begin for run in selection.runs]
    return {
        lsn
        for found in scans(window)
        for lsn in found.records.lsn
        if (at := bisect_right(begins, lsn)) and lsn <= selection.runs[at - 1].last
    }


def unmapped(window: WalWindow, source: ReplaySource, mapped: set[int]) -> set[int]:
    """Return where records begin that only concern shared files which no map has by the stop.

    Such a file was made by a transaction that had not ended, or came to nothing. Reading the WAL
    keeps what any shared file needs; the index is asked for those that have a name.
    """
    known = mapped | {
        int(path.split("/")[1])
        for path in source.base.files()
        if path.startswith("global/") and path.split("/")[1].isdigit()
    }
    version = version_of_major(source.wal.major)
    found = set()
    for scan in scans(window):
        blocks, lsns = scan.blocks, scan.records.lsn
        places = zip(blocks.record, blocks.tablespace, blocks.relation, strict=True)
        found |= {
            lsns[row] for row, space, number in places if space == 1664 and number not in known
        }
        for row, data in scan.kept():
            payload = decode_payload(decode_record(lsns[row], data, version), version)
            if isinstance(payload, StorageCreated | StorageTruncated):
                file = payload.file
                if file.tablespace == 1664 and file.number not in known:
                    found.add(lsns[row])
    return found
