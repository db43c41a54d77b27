"""The running server: connections, slots, the replication protocol, and what it allows.

Import order inside the package:
    role → faults → connection → replication, slot, flushed → mark → capability
"""
