"""The SQL statements, one file each; read with importlib.resources.files("pitr.sql")."""
