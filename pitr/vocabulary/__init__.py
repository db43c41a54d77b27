"""Frozen values that both engines and every floor share. Standard library only.

Import order inside the package:
    quantity, position, row_class, event, finding, statement_finding, damage
    → diff_row, drift, estimate, lost_by, target → change, query, plan
"""
