"""The index object of one WAL segment: what capture and wal-push store beside the segment."""

from __future__ import annotations

from pitr.postgres.index.ends import commit_times
from pitr.postgres.index.file import Stretch, cut_groups, encode_index
from pitr.postgres.index.making import make_rows
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.versions import WalVersion


def index_segment(
    scan: Scan, *, timeline: int, begin: int, end: int, version: WalVersion, segment_bytes: int
) -> tuple[str, bytes]:
    """Return key and bytes of the index object of the WAL [begin, end) of a timeline.

    `scan` is that of exactly these bytes, begun from the state at which the scan of the segment
    before ended: a record that began there belongs here. From a fresh state that record would be
    missing; then store no object, for readers scan what has none. The same scan gives the same
    bytes, whoever makes them.
    """
    state = scan.state
    next_lsn = state.begin if state.carry else state.position
    rows = make_rows(scan, version, segment_bytes)
    return encode_index(
        Stretch(timeline, begin, end, next_lsn, segment_bytes),
        [*cut_groups(rows.system), *cut_groups(rows.relations)],
        commit_times(rows.system),
    )
