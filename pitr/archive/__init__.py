"""Where captured bytes rest: immutable, checksummed objects, blind to the engine that made them.

Import order inside the package: store → local, cloud → location;
store → object → document, holder → lease, archive.
"""
