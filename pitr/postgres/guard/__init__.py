"""What would this SQL destroy? Seen in its text, and followed through the catalog; nothing is run.

Import order inside the package:
    script → acts; cascade; acts, cascade → checking
    acts → touched; confining → session, tallying; touched, session, tallying → rehearsal
"""
