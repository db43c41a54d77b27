"""check: what there is to say about a PostgreSQL cluster before it is captured."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.check import Examination
from pitr.postgres.live.capability import ClusterWish, check_cluster


def examine(settings: Settings) -> Examination:
    """Look at the cluster, and at what this machine has for it. Its identity is its own number."""
    wish = ClusterWish(
        place=settings.needed_source().location,
        database=settings.database,
        slot=settings.slot,
        pg_bindir=settings.pg_bindir,
        spool=settings.state / "spool",
        spool_bytes_max=settings.spool_limit_bytes,
    )
    report = check_cluster(wish)
    number = report.system_identifier
    identity = None if number is None else {"system_identifier": number}
    return Examination(report.findings, identity)
