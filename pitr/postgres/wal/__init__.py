"""PostgreSQL's WAL: bytes in, values out, no I/O (docs/formats/postgres-wal.md).

Order of the modules, lowest first: end, versions, checksum, segment_name, page, record, scan,
reader, payload, history, dump.

A position is a plain integer in this package, since it counts them by the million; `Lsn` is what
leaves it towards people. Everything is little-endian, as written by little-endian servers with
8 kB pages: any other WAL is refused by its page magic or its long header.
"""
