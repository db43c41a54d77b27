"""Where captured bytes rest: immutable, checksummed objects, blind to the engine that made them.

Import order inside the package:
    store, holder → object, local, cloud → document, location, description, sealing
    sealing → encrypted → keys; document, location → lease, archive, verification, claim → outbox
"""
