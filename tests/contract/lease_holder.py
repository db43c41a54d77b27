"""A process that takes the lease of an archive and holds it, driven over its standard streams.

    python -m tests.contract.lease_holder LOCATION

Prints `ready`, waits for a line, tries, prints `held EPOCH` or `refused MESSAGE`; then waits for
another line and releases the lease. At the end of its input it ends without a release.
"""

from __future__ import annotations

import sys

from pitr.archive.lease import acquire
from pitr.archive.location import open_store
from pitr.errors import ArchiveHeld


def main(location: str) -> None:
    store = open_store(location)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lease = acquire(store)
    except ArchiveHeld as error:
        print("refused", error, flush=True)
        return
    print("held", lease.epoch, flush=True)
    if sys.stdin.readline():
        lease.release()


if __name__ == "__main__":
    main(sys.argv[1])
