"""From the states of a row to its class, in SQL, by the one table of rules. Pure.

Import order inside the package: decision → sql.
"""
