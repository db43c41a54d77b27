"""The SQLite WAL and wal-index formats: bytes in, values out, no I/O.

Import order: checksum → header, frame, index. Specification: docs/formats/sqlite-wal.md.
"""
