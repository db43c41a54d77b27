"""Where captured bytes rest: immutable, checksummed objects, blind to the engine that made them.

Import order inside the package:
    store, holder → object, local, cloud → document, location, sealing → encrypted → keys
    document, location → lease, archive, claim → outbox
"""
