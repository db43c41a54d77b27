"""Estimate what an archive of a PostgreSQL cluster is made of, and where it breaks, by its size.

    python -m tools.scaling                       the table of docs/scaling.md
    python -m tools.scaling --wal 5MB --database 1TB --window 30 --segment 16MB

Counts follow from the formats, whose limits are imported from the code. Ratios and seconds of
processor time are those of docs/benchmarks.md: a factor of two either way is nothing. Sizes are
powers of 1024, in text as pitr takes them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pitr.archive.lease import RENEW_SECONDS
from pitr.postgres.backup.chunks import PACK_BYTES
from pitr.postgres.base.contents import CHUNK_BYTES
from pitr.postgres.index.compaction import OBJECT_BYTES_MAX
from pitr.postgres.wal_store.object import BLOCK_BYTES

MB, GB, TB = 1 << 20, 1 << 30, 1 << 40
UNITS = {"KB": 1 << 10, "MB": MB, "GB": GB, "TB": TB}
DAY_SECONDS = 86_400

# Measured, and in docs/benchmarks.md as they stand here.
WAL_RATIO = 819 / 57
INDEX_SHARE = 0.137  # of the compressed WAL, segments of small records: the most that was measured
CAPTURE_CPU_SECONDS = (4.42 - 0.3) / (819 * MB)  # a byte of WAL; 0.3 s are the start of Python
BACKUP_CPU_SECONDS = 3.1 / (444 * MB)  # a byte of the cluster
CHANGED_SHARE = 0.5  # of a base's chunks, stored anew after scattered updates
KNOWN_CHUNK_BYTES = 35  # of memory, while a backup runs
RECORDS_A_SEGMENT = 37_806  # of 16 MB, pgbench with page images
# By the format: a place and a digest for each chunk.
MANIFEST_CHUNK_BYTES = 28
# Of the stores, not of ours: keys a page of a listing, what one PUT may carry, and 0.1 s a page.
LISTED_KEYS = 1000
PUT_BYTES_MAX = 5 * GB
PAGE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster is: bytes of WAL a second, bytes of data, and what is kept of it.

    `window_days` are kept, with a base every `base_days`; `data_ratio` is how well its files
    compress, which no benchmark of ours tells.
    """

    wal_bytes_per_second: float
    database_bytes: float
    window_days: float = 30
    segment_bytes: int = 16 * MB
    base_days: float = 7
    data_ratio: float = 3

    @property
    def segments_per_day(self) -> float:
        """Return how many segments are archived a day; one at least each day."""
        return max(1.0, self.wal_bytes_per_second * DAY_SECONDS / self.segment_bytes)

    @property
    def stored_wal_per_day(self) -> float:
        """Return the bytes of WAL that a day adds to the archive."""
        return self.wal_bytes_per_second * DAY_SECONDS / WAL_RATIO

    @property
    def index_per_day(self) -> float:
        """Return the bytes of index that a day adds."""
        return self.stored_wal_per_day * INDEX_SHARE

    @property
    def chunks(self) -> float:
        """Return the chunks of one base."""
        return self.database_bytes / CHUNK_BYTES

    @property
    def bases(self) -> int:
        """Return how many bases the window needs: one lies before it."""
        return math.ceil(self.window_days / self.base_days) + 1


def wal_objects(cluster: Cluster) -> float:
    """Return the WAL objects of the window: one a segment. Pieces go away."""
    return cluster.segments_per_day * cluster.window_days


def index_objects_of_day(cluster: Cluster) -> float:
    """Return the index objects that are left of a day: full ones, one an hour at most otherwise."""
    return max(1.0, cluster.index_per_day / OBJECT_BYTES_MAX)


def opened_objects(cluster: Cluster) -> float:
    """Return the index objects that a question over a month opens, today's hour not compacted."""
    hour = cluster.segments_per_day / 24
    return 30 * index_objects_of_day(cluster) + 24 + hour


def listing_pages(cluster: Cluster) -> float:
    """Return the requests that list the WAL, as each question and each restore does."""
    return math.ceil(wal_objects(cluster) / LISTED_KEYS)


def pieces_per_day(cluster: Cluster) -> float:
    """Return the pieces of open segments a day: one a second, none for a segment a second."""
    seconds = DAY_SECONDS / cluster.segments_per_day
    return cluster.segments_per_day * max(0.0, min(seconds, DAY_SECONDS) - 1)


def requests_per_day(cluster: Cluster) -> float:
    """Return PUTs and DELETEs a day: WAL, index, pieces, compaction, packs, lease."""
    packs = cluster.chunks * CHANGED_SHARE * chunk_stored(cluster) / PACK_BYTES / cluster.base_days
    compacted = index_objects_of_day(cluster) + 24
    return (
        2 * cluster.segments_per_day  # WAL and index
        + 2 * pieces_per_day(cluster)  # put, and deleted
        + cluster.segments_per_day + compacted  # index of segments deleted, larger ones written
        + packs
        + DAY_SECONDS / RENEW_SECONDS
    )  # fmt: skip


def chunk_stored(cluster: Cluster) -> float:
    """Return the bytes that a chunk takes in a pack."""
    return CHUNK_BYTES / cluster.data_ratio


def base_bytes(cluster: Cluster) -> float:
    """Return the bytes of all bases of the window: the first whole, others what changed."""
    first = cluster.database_bytes / cluster.data_ratio
    return first * (1 + CHANGED_SHARE * (cluster.bases - 1))


def archive_bytes(cluster: Cluster) -> float:
    """Return the bytes of the archive: WAL from the base before the window on, index, bases."""
    days = cluster.window_days + cluster.base_days
    return base_bytes(cluster) + days * (cluster.stored_wal_per_day + cluster.index_per_day)


def manifest_bytes(cluster: Cluster) -> float:
    """Return the bytes of a base's manifest, which is one object and made in memory."""
    return cluster.chunks * MANIFEST_CHUNK_BYTES


def known_bytes(cluster: Cluster) -> float:
    """Return the memory that a backup needs to know all chunks of the window."""
    kept = cluster.chunks * (1 + CHANGED_SHARE * (cluster.bases - 1))
    return kept * KNOWN_CHUNK_BYTES


def capture_cores(cluster: Cluster) -> float:
    """Return the cores that capture keeps busy."""
    return cluster.wal_bytes_per_second * CAPTURE_CPU_SECONDS


def backup_hours(cluster: Cluster) -> float:
    """Return the hours of a core that a base backup takes."""
    return cluster.database_bytes * BACKUP_CPU_SECONDS / 3600


def restore_bytes(cluster: Cluster, share: float = 0.001) -> float:
    """Return the bytes fetched to restore a table that is this share of data and of WAL records.

    Half the distance of two bases is replayed. A block of WAL is fetched when it holds a record of
    the table; that records lie scattered is the worst case.
    """
    records = RECORDS_A_SEGMENT * BLOCK_BYTES / (16 * MB)
    hit = 1 - math.pow(1 - share, records)
    wal = cluster.stored_wal_per_day * cluster.base_days / 2 * hit
    return cluster.database_bytes * share / cluster.data_ratio + wal


CLUSTERS: tuple[tuple[str, Cluster], ...] = (
    ("10 GB, 0.1 MB/s", Cluster(0.1 * MB, 10 * GB)),
    ("1 TB, 5 MB/s", Cluster(5 * MB, TB)),
    ("10 TB, 50 MB/s", Cluster(50 * MB, 10 * TB)),
    ("10 TB, 50 MB/s, segments of 64 MB", Cluster(50 * MB, 10 * TB, segment_bytes=64 * MB)),
    ("100 TB, 1 GB/s", Cluster(GB, 100 * TB)),
    ("100 TB, 1 GB/s, segments of 1 GB", Cluster(GB, 100 * TB, segment_bytes=GB)),
)


def count_text(value: float) -> str:
    """Return a count with two or three digits that mean something."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def bytes_text(value: float) -> str:
    """Return a size."""
    for limit, unit in ((TB, "TB"), (GB, "GB"), (MB, "MB")):
        if value >= limit:
            return (
                f"{value / limit:.3g} {unit}"
                if value < 1000 * limit
                else f"{value / limit:.0f} {unit}"
            )
    return f"{value / 1024:.3g} KB"


ROWS: tuple[tuple[str, Callable[[Cluster], str]], ...] = (
    ("WAL objects in the window", lambda c: count_text(wal_objects(c))),
    ("requests to list them", lambda c: count_text(listing_pages(c))),
    ("… at 0.1 s each", lambda c: f"{count_text(listing_pages(c) * PAGE_SECONDS)} s"),
    ("index a day", lambda c: bytes_text(c.index_per_day)),
    ("index objects opened for a month", lambda c: count_text(opened_objects(c))),
    ("PUT and DELETE requests a day", lambda c: count_text(requests_per_day(c))),
    ("stored WAL a day", lambda c: bytes_text(c.stored_wal_per_day)),
    ("archive", lambda c: bytes_text(archive_bytes(c))),
    ("manifest of a base", lambda c: bytes_text(manifest_bytes(c))),
    ("memory for known chunks", lambda c: bytes_text(known_bytes(c))),
    ("cores for capture", lambda c: count_text(capture_cores(c))),
    ("core hours of a base backup", lambda c: count_text(backup_hours(c))),
    ("fetched for a table of 0.1 %", lambda c: bytes_text(restore_bytes(c))),
)


def table(clusters: Sequence[tuple[str, Cluster]]) -> str:
    """Return the estimates as a table in Markdown, a column for each cluster."""
    lines = [["a cluster of", *(name for name, _ in clusters)], ["---"] + ["---:"] * len(clusters)]
    lines += [[name, *(figure(cluster) for _, cluster in clusters)] for name, figure in ROWS]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def size_of(text: str) -> float:
    """Read a size such as '16MB'. Raises ValueError."""
    number, unit = text.strip()[:-2], text.strip()[-2:].upper()
    if unit not in UNITS:
        raise ValueError(f"a size is a number and one of {', '.join(UNITS)}: {text!r}")
    return float(number) * UNITS[unit]


def main() -> None:
    """Print the table of the document, or a column for the cluster that the options describe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--wal", type=size_of, help="WAL a second, as in 5MB")
    parser.add_argument("--database", type=size_of, help="size of the cluster, as in 1TB")
    parser.add_argument("--window", type=float, default=30, help="days that are kept")
    parser.add_argument("--base", type=float, default=7, help="days between two base backups")
    parser.add_argument("--segment", type=size_of, default=16 * MB, help="size of a WAL segment")
    parser.add_argument("--ratio", type=float, default=3, help="how well the files compress")
    given = parser.parse_args()
    if (given.wal is None) != (given.database is None):
        parser.error("give --wal and --database, or neither")
    if given.wal is None:
        print(table(CLUSTERS), end="")
        return
    cluster = Cluster(
        given.wal, given.database, given.window, int(given.segment), given.base, given.ratio
    )
    print(table([("yours", cluster)]), end="")


if __name__ == "__main__":
    main()
