"""Surgical replay: chosen tables as they were, recovered by PostgreSQL's own redo.

Import order inside the package:
    definition_dump, heap_rows, server, target_tables
    → catalog_rest, datadir, reader, settled, sidecar_query → statement_tables
    reader → loading, replay
    reader → whole
"""
