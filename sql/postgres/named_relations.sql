-- Relations of this database that a user can name, system catalogs left out.
-- Parameters: none.
-- Result: oid, schema, name, relkind, relpersistence, and the table that it is a partition of.
-- Versions: PostgreSQL 13 to 18.
SELECT
    class.oid,
    nspname,
    relname,
    relkind::text,
    relpersistence::text,
    (SELECT inhparent FROM pg_inherits WHERE inhrelid = class.oid AND relispartition)
FROM pg_class AS class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'm', 'S', 'f', 'v')
    AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND nspname NOT LIKE 'pg\_temp\_%%'
