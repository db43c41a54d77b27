"""Tell the transactions of one command from all others, by a stamp that their commits carry.

A commit record says whether its session asked standbys for their word that they applied it, which
is what synchronous_commit = remote_apply means. Without synchronous standbys nobody waits for that
word, so the setting costs no more than `on`: given to a command's sessions by PGOPTIONS, it marks
their commits in the WAL and changes nothing else. Source: XactLogCommitRecord in
src/backend/access/transam/xact.c, PostgreSQL 13 to 18.
"""

from __future__ import annotations

from collections.abc import Collection

from pitr.postgres.index.ends import TransactionEnd, ends_of
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.postgres.tables.session import statement_text
from pitr.postgres.wal import transaction
from pitr.postgres.wal.payload import decode_payload
from pitr.postgres.wal.reader import RecordReader
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn

OPTION = "-c synchronous_commit=remote_apply"


def why_unusable(connection: Connection) -> str | None:
    """Return why commits cannot be stamped on this server, as a full sentence; None: they can."""
    with server_faults("cannot ask for the server's settings"):
        row = connection.execute(statement_text("stamp_usable")).fetchone()
    assert row is not None
    has_standbys, is_default = row
    if has_standbys:
        return "The server has synchronous standbys, which the stamp would make commits wait for."
    if is_default:
        return (
            "Sessions of others commit with synchronous_commit = remote_apply, as the stamp does."
        )
    return None


def stamped_ends(
    index: WalIndex,
    wal: WalArchive,
    timeline: int,
    begin: Lsn,
    end: Lsn,
    wanted: Collection[int],
) -> list[TransactionEnd]:
    """Return the ends in (begin, end] that carry the stamp, of those transactions that are wanted.

    `wanted` are xids, also of sub-transactions. Of the WAL only their commit records are read.
    Raises ArchiveGap, CorruptObject, CorruptWal.
    """
    known = frozenset(wanted)
    return [
        item
        for part in index.parts(timeline, begin.value, end.value)
        for item in ends_of(index, part)
        if item.is_commit
        and not known.isdisjoint((item.xid, *item.subxids))
        and _is_stamped(wal, timeline, item)
    ]


def _is_stamped(wal: WalArchive, timeline: int, item: TransactionEnd) -> bool:
    def read(low: int, high: int) -> bytes:
        high = min(high, item.end)
        return wal.read(timeline, Lsn(low), Lsn(high)) if low < high else b""

    version = version_of_major(wal.major)
    records = RecordReader(
        read, item.lsn, version=version, segment_bytes=wal.segment_bytes, stop=item.end
    )
    found = [decode_payload(record, version) for record in records]
    return any(isinstance(one, transaction.TransactionEnd) and one.wants_apply for one in found)
