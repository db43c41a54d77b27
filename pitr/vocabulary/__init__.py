"""Frozen values that both engines and every floor share. Standard library only.

Import order inside the package:
    quantity, position, row_class, event, finding → change, diff_row, target → plan
"""
