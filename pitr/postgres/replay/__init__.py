"""Surgical replay: chosen tables as they were, recovered by PostgreSQL's own redo.

Import order inside the package:
    → statement_tables, loading; reader → replay; reader → whole
>>>>>>> 500aa29 (restore --to postgresql://…: recovered tables into a database of the user's, whole or not at all)
"""
