"""Surgical replay: chosen tables as they were, recovered by PostgreSQL's own redo.

Import order inside the package:
    → statement_tables, loading; reader → replay; reader → whole
"""
