"""From classes to what a merge does: actions, blockers, fingerprints. Pure, for both engines.

Import order inside the package: blocking, rules → fingerprint, aftermath.
"""
