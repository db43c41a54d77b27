"""SQL text: cut into tokens and judged before SQLite reads it; a query that can only read.

Import order inside the package:
    faults, literal, pattern, tokens → readonly, restatement, virtual → expression
"""
