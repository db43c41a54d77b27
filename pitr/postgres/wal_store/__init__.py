"""WAL wherever it lies, in an archive or in a plain folder: which there is, and reading any of it.

Import order inside the package:
    spans, object, text → archive, folder
"""
