"""Following a cluster's WAL into an archive, continuously or segment by segment.

Import order inside the package:
    cluster, gap, stream, watch, open_segment → alarm, progress, resume → attach → session
    → capture; open_segment → following;
    cluster → push
"""
