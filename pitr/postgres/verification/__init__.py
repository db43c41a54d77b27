"""Every object of an archive read again and held against its checksums and its neighbours.

Import order inside the package:
    findings → wal, base, documents → loss → run; description
"""
