"""The index of WAL records: which record touches what, in Parquet (docs/formats/postgres-index.md).

Import order inside the package:
    name, thrift → packing → parquet → rows → fingerprint, file → reading → making → scanning
    → wal_index → ends → segment → upkeep, compaction, verification
"""
