"""From the live database into the archive, commit by commit. Nothing here writes to the source.

Import order inside the package:
    seen, source, capability, live → recorder, wal_reader → difference → handover, rollback
    → session → capture
"""
