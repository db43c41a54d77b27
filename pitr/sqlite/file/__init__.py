"""The bytes of a database file: pages, b-trees, records. Decoders; only `pages` names a source.

Import order inside the package:
    page, pages → file_header, btree → tree → overflow
"""
