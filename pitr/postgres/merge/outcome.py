"""What became of the transaction of a merge: asked by its number, as long as that is its own.

The number of a running transaction is nowhere on disk until WAL that it, or a later transaction,
has written is there. A server that crashes before gives it away a second time, and then says
"committed" of the other one. So before the record of a merge names its number, another session
commits a later transaction and waits for its WAL: whoever replays that much goes on above.
The record says where that is, the `HeldNumber`.

Sources: PostgreSQL's access/transam/varsup.c and xact.c (RecordTransactionCommit waits for the disk
when WAL was written and synchronous_commit is not off), xlogrecovery.c (redo brings the next number
past that of every record), 13 to 18 alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psycopg
from psycopg import errors

from pitr.errors import PitrError, SourceUnusable
from pitr.merge.aftermath import judge
from pitr.postgres.live.connection import connect_replication
from pitr.postgres.live.replication import timeline_history
from pitr.postgres.merge.undo import classify_merged
from pitr.postgres.tables.session import Connection, begin, is_open, rows_of, run, value_of
from pitr.postgres.wal.history import parse_history
from pitr.recovery.merges import HeldNumber
from pitr.vocabulary.plan import MergeOutcome
from pitr.vocabulary.position import Lsn
from pitr.vocabulary.row_class import RowClass

_HOLD_SECONDS = 10
# The name of a WAL file begins with the timeline that the server writes.
_WHERE = (
    "SELECT system_identifier::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),"
    " pg_current_wal_flush_lsn()::text FROM pg_control_system()"
)


def hold_number(xid: str, reconnect: Callable[[], Connection]) -> HeldNumber | None:
    """Make sure that no crash of the server gives the number of a running transaction away again.

    By a second session, which makes a temporary table and commits. Returns where the WAL is that
    vouches for it; None when that could not be done: then the number proves nothing later on.
    """
    with suppress(psycopg.Error, PitrError), closing(reconnect()) as other:
        run(other, "BEGIN")
        run(other, "SET LOCAL synchronous_commit = local")
        run(other, f"SET LOCAL statement_timeout = '{_HOLD_SECONDS}s'")
        # Written to the catalog: a commit that wrote nothing would not wait for the disk.
        run(other, "CREATE TEMP TABLE pitr_number () ON COMMIT DROP")
        later = int(value_of(other, "SELECT pg_current_xact_id()::text"))
        run(other, "COMMIT")
        held = _where(other)
        return held if later > int(xid) else None
    return None


def _where(live: Connection) -> HeldNumber:
    ((system, timeline, flushed),) = rows_of(live, _WHERE)
    return HeldNumber(system_identifier=system, timeline=int(timeline, 16), lsn=flushed)


def merge_outcome(
    live: Connection, folder: Path, *, xid: str, held: HeldNumber | None, place: str
) -> MergeOutcome | None:
    """Return what became of the merge with this folder; None while its transaction is running.

    `aborted`, and a number that the server has not reached, say that it did not happen, whosever
    the number is. `committed` says that it happened in a history that goes through the place of
    the held number. Where it does not, as after a failover to a standby that had not got so far,
    and where the server has forgotten the number, the rows of the merge decide.

    Raises SourceUnusable when the server is a standby, which does not know yet; psycopg.Error.
    Not guaranteed: a data directory put back to an older copy without archive recovery goes on in
    the same timeline, and once it has passed the place again its word is taken.
    """
    if value_of(live, "SELECT pg_is_in_recovery()"):
        raise SourceUnusable(
            "the server is a standby",
            detail="What became of a transaction is only known for certain by the primary.",
            hint="Name the primary as the source.",
        )
    try:
        found = value_of(live, "SELECT pg_catalog.pg_xact_status(%s::pg_catalog.xid8)", (xid,))
    except errors.InvalidParameterValue:  # it lies in the future
        return MergeOutcome.DID_NOT_HAPPEN
    if found == "in progress":
        return None
    if found == "aborted":
        return MergeOutcome.DID_NOT_HAPPEN
    if found == "committed" and held is not None and _goes_through(live, held, place):
        return MergeOutcome.HAPPENED
    return outcome_by_rows(live, folder)


def outcome_by_rows(live: Connection, folder: Path) -> MergeOutcome:
    """Return what became of a merge by the rows that it wrote. Raises Corrupt, psycopg.Error.

    Rows that are as before it speak against it, rows that are as it left them speak for it.
    """
    counts = Counter[RowClass]()
    begin(live)
    try:
        for table in classify_merged(live, folder):
            counts.update(table.counts)
    finally:
        if is_open(live):
            run(live, "ROLLBACK")
    return judge(counts)


def _goes_through(live: Connection, held: HeldNumber, place: str) -> bool:
    """Return whether the WAL of the server contains the place of a held number."""
    now, lsn = _where(live), Lsn.parse(held.lsn)
    if now.system_identifier != held.system_identifier:
        return False
    if now.timeline == held.timeline:
        return Lsn.parse(now.lsn) >= lsn
    # A role that may not replicate cannot ask where the timelines parted.
    with suppress(PitrError), closing(connect_replication(place)) as sender:
        _, text = timeline_history(sender, now.timeline)
        ancestors = parse_history(now.timeline, text)
        return any(one.timeline == held.timeline and one.switch >= lsn for one in ancestors)
    return False
