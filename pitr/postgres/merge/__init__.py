"""From classified rows to rows that are back: planned, written in one transaction, taken back.

Import order inside the package:
    dumped → creation → kin, plan, apply
    planned → as_staged, blockers, digests, parents, rehearsal, writability → estimate, script
    → plan, writing
    writing → images → verification → undo → outcome, waiting → apply
"""
