"""Recoveries on disk: a folder each, with the sidecar, and what it was made from."""
