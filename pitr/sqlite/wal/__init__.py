"""The SQLite WAL and wal-index formats: bytes in, values out, no I/O."""
