"""One module per verb: wires engine, archive and recovery, returns values, prints nothing.

Import order inside the package: clock → reading → one module per verb.
"""
