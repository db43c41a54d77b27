"""Taking a base backup of a running server into the archive.

Import order inside the package: keep, stream, torn, upload → chunks → intake → run.
"""
