"""The position in the WAL that a target means: found by the index, or in the WAL itself.

Import order inside the package:
    by_index, by_wal
"""
