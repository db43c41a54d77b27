"""What became of each row: three databases side by side, classified where the live one is.

Import order inside the package:
    copying, drift → alignment → states → candidates → staging → classified
"""
