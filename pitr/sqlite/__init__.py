"""The SQLite engine: capture, the page archive, and the roads back. The only importer of apsw.

Import order inside the package:
    wal → pages, segment → pagemap → catalog → images → history → page → everything else
"""
