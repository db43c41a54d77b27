"""One module per verb: wires engine, archive and recovery, returns values, prints nothing.

A verb's module has the values that it takes and returns; the work is done in the module of the same
name in `sqlite/` or `postgres/`. Import order inside the package:
    clock, opening → engine → one module per verb → sqlite, postgres
"""
