"""PostgreSQL's WAL: bytes in, values out, no I/O (docs/formats/postgres-wal.md).

Import order inside the package:
    end, versions, segment_name, checksum → page → record → scan_reference → scan → reader → dump;
    record → fields → transaction → payload → dump; record → operation → dump; record → heap;
    history → dump; page → geometry → distill; checksum → distill
    wanted, payload, scan, distill → select

A position is a plain integer in this package, since it counts them by the million; `Lsn` is what
leaves it towards people. Everything is little-endian, as written by little-endian servers with
8 kB pages: any other WAL is refused by its page magic or its long header.
"""
