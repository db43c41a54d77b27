"""Get exactly the lost rows back: selective point-in-time recovery for SQLite and PostgreSQL."""

__version__ = "0.1.0"
