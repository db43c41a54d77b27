"""Taking a base backup of a running server into the archive.

Import order inside the package: keep, known, stream, torn, upload → chunks → intake → run.
"""
