"""The verbs on a PostgreSQL source, each reached through `pitr/operations/<verb>.py`.

A verb is a function of the same name and signature as there; what is not here yet is refused with
exit 3 before anything is done.
"""
