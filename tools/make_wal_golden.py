"""Write tests/golden/wal-MAJOR.zst: WAL of tools/wal_workload.py and pg_waldump's list of it.

    python -m tools.make_wal_golden [MAJOR …]

One zstd frame with a JSON line (version, first LSN, segment size, where the WAL ends in the file),
the WAL itself from the segment on in which the workload begins, and the list: one line a record,
tab-separated as `format_listed` says. Run it again only for a new major version or a new kind of
record: the test needs no server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import zstandard

from tools.postgres_servers import Server
from tools.wal_workload import SETTINGS, Listed, listing, run, waldump

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
# 16 differs from 15 in no part that the scan reads; live servers test it too.
MAJORS = (14, 15, 17, 18)
SEGMENT_BYTES = 1 << 20


def main(majors: Iterable[int]) -> None:
    """Make the golden files of these versions."""
    for major in majors:
        path = GOLDEN / f"wal-{major}.zst"
        path.write_bytes(make(major))
        print(f"{path.name}: {path.stat().st_size} bytes")


def make(major: int) -> bytes:
    """Run the workload on a server of this version and return its golden file."""
    settings = {**SETTINGS, "full_page_writes": False}
    with Server(major, settings=settings, segment_megabytes=1) as server:
        server.query("SELECT pg_switch_wal()")
        name = str(server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
        run(server, is_small=True)
        server.stop()
        files = sorted(file for file in server.wal.iterdir() if len(file.name) == 24)
        number = int(name[8:16], 16) * 0x1000 + int(name[16:], 16)
        start = number * SEGMENT_BYTES
        lines = list(listing(waldump(server, name, f"{start >> 32:X}/{start & 0xFFFFFFFF:X}")))
        end = lines[-1].lsn + lines[-1].length + 40
        wal = b"".join(file.read_bytes() for file in files if file.name >= name)
        wal = wal[: -(-(end - start) // 8192) * 8192]
    head = {"major": major, "begin": start, "segment_bytes": SEGMENT_BYTES, "wal_bytes": len(wal)}
    text = "".join(f"{format_listed(line)}\n" for line in lines)
    content = json.dumps(head).encode() + b"\n" + wal + text.encode()
    return zstandard.ZstdCompressor(level=22).compress(content)


def format_listed(line: Listed) -> str:
    """Return LSN, prev, rmgr, operation, lengths, xid and blocks as one line."""
    blocks = " ".join("/".join(map(str, block)) for block in line.blocks)
    return (
        f"{line.lsn:X}\t{line.prev:X}\t{line.rmgr}\t{line.operation}\t{line.length}"
        f"\t{line.length_without_images}\t{line.xid}\t{blocks}"
    )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or MAJORS)
