"""Which rows a commit changed, from the pages that it changed: `log` and `when`.

Import order inside the package:
    pairing, rowdiff → evaluation, rtree, watch → changes → log → when
"""
