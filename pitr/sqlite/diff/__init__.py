"""Three states of one table side by side, and the class of every row. Rules: pitr/diff.

Import order inside the package:
    drift, row_key, span → chosen_columns, compare, lineage, removals, states → alignment
    → candidates, joining → classified → attribution
"""
