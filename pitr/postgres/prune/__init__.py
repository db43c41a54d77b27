"""What a policy no longer needs of an archive, and the order in which it goes.

Import order inside the package:
    note, needs → plan → run
"""
