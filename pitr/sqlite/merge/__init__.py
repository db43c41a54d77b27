"""From classified rows to a plan, its one transaction, and its undo. Rules: pitr/merge.

Import order inside the package:
    archived, foreign_keys, planned, scratch, triggers
    → blockers, earlier, closure, digests, estimate, rehearsal, script, writability
    → parents, writing → family, undo → plan → verification → apply
"""
