"""The records that the wanted relations need, from the WAL itself or by its index; written blocks.

Import order inside the package:
    by_wal → by_index, written_blocks
"""
