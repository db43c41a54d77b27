"""The SQLite WAL and wal-index formats: bytes in, values out, no I/O.

Specification: docs/formats/sqlite-wal.md. Import order inside the package:
    checksum, frame → header → index
"""
