"""The PostgreSQL engine: capture, base backups, and the roads back. The only importer of psycopg.

docs/ARCHITECTURE.md says what is in which room. Import order inside the package:
    wal → wal_store → base, index → selection → target, replay → live → tables, catalog
    → backup, capture, log, diff, guard, prune; diff → merge; log → rows; statement → replay
    prune, capture → verification
"""
