"""The SQLite engine: capture, the page archive, and the roads back. The only importer of apsw.

docs/ARCHITECTURE.md says what is in which room. Import order inside the package:
    statement, wal, pagelog → file → capture, past → rows → diff → merge; rows → guard
"""
