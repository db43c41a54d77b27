"""The catalog map: which table a relation file belongs to, and belonged to at any position.

Import order inside the package:
    reading → catalog_map, watching → catalog_reader
"""
