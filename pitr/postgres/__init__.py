"""The PostgreSQL engine: capture, base backups, and the roads back. The only importer of psycopg.

Import order inside the package:
    wal → faults → connection → replication, slot → everything else
"""
