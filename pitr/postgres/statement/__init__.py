"""SQL that a user hands us, taken apart by PostgreSQL's own parser (pglast). No I/O.

Import order inside the package:
    condition, pattern, reading → routine
"""
