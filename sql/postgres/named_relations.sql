-- Relations of this database that a user can name, system catalogs left out.
-- Parameters: none.
-- Result: oid, schema, name, relkind, relpersistence.
-- Versions: PostgreSQL 13 to 18.
SELECT class.oid, nspname, relname, relkind::text, relpersistence::text
FROM pg_class AS class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'm', 'S', 'f', 'v')
    AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND nspname NOT LIKE 'pg\_temp\_%%'
