"""What became of each row: three databases side by side, classified where the live one is.

Import order inside the package:
    chosen_columns
    copying, drift → alignment → wide → states → candidates, row_versions → narrowing → staging
    → classified → attribution
"""
