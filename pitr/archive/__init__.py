"""Where captured bytes rest: immutable, checksummed objects, blind to the engine that made them.

Import order inside the package:
    store, holder → object, local, cloud → document, location, description
    → lease, archive, verification → outbox
"""
