"""The transactions of an archive and what they did to tables, from the index and the catalog map.

Import order inside the package:
    tables → succession, collecting → verdict → log
    stamp
"""
