"""Benchmarks beside plain SQLite and a peer, in real processes: `python -m bench`.

Modules: world (files and processes) → writer (the application) → capture, restore, reading,
history (one benchmark each) → page (tables and figure) → __main__.
"""
