"""WAL that several tests read."""

from __future__ import annotations

from tests.unit.postgres.wal_builder import Block, WalBuilder

BTREE = 11
SIZES = [0, 1, 200, 300, 8000, 20000, 3, 8100, 8160, 70, 40000, 9] * 2


def mixed_wal(sizes: list[int], **changed: int) -> WalBuilder:
    """Build records with so many bytes of main data; two of three refer to one or two blocks."""
    wal = WalBuilder(**changed)  # type: ignore[arg-type]
    for number, size in enumerate(sizes):
        blocks = (
            Block(0, block=number, data=b"x" * (size % 7)),
            Block(1, same_relation=True, fork=2, block=7),
        )
        wal.add(BTREE, 0x10, xid=number, blocks=blocks[: number % 3], main=bytes(size))
    return wal
