"""A commit of the archive opened as a database: its tables, their schema, and the sidecar.

Import order inside the package:
    replay, tables, target → creation, live_reading, scans → definition, sidecar → schema → absence
"""
