"""Row versions: when each began and ended, by the WAL alone; what they held, by replay.

Import order inside the package:
    versions → asking → when
"""
