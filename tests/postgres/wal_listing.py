"""Our records in the form in which tools/wal_workload.py reads pg_waldump's lines."""

from __future__ import annotations

from pitr.postgres.wal.operation import operation_name
from pitr.postgres.wal.record import BlockReference, Fork, Record
from pitr.postgres.wal.versions import WalVersion, rmgr_name
from tools.wal_workload import Listed


def listed(record: Record, version: WalVersion) -> Listed:
    """Return what pg_waldump would list of a record."""
    images = sum(len(block.image.data) for block in record.blocks if block.image)
    header = record.header
    return Listed(
        record.lsn,
        header.prev,
        rmgr_name(header.rmgr),
        operation_name(header, version),
        header.total_bytes,
        header.total_bytes - images,
        header.xid,
        tuple(map(_listed_block, record.blocks)),
    )


def _listed_block(block: BlockReference) -> tuple[int, int, int, int, str, int]:
    file, fork = block.file, Fork(block.fork).name.lower()
    return block.id, file.tablespace, file.database, file.number, fork, block.block
