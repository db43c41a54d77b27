"""The archive of pages: every commit's page images, found by commit and page number.

Import order inside the package:
    segment → pagemap, catalog, images → history, verify → compaction, dump → pruning
"""
