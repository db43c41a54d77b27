"""What would this SQL destroy? Asked of SQLite itself, on an empty copy of the schema in memory.

Import order inside the package: script → checking; schema; columns, script → rehearsal
"""
