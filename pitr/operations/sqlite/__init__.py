"""The verbs on a SQLite source, each reached through `pitr/operations/<verb>.py`.

Import order inside the package: maintenance, reading → comparing → one module per verb.
"""
