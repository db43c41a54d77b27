-- List the tables whose rows a rehearsal counts.
-- Parameters: none.
-- Result: one row a table, partitioned ones included: OID, schema, name, kind as in pg_class,
-- persistence, and the table that it is a partition of or null.
-- Versions: PostgreSQL 13 to 18.
SELECT
    class.oid::bigint,
    nspname,
    relname,
    relkind::text,
    relpersistence::text,
    (SELECT inhparent::bigint FROM pg_catalog.pg_inherits
     WHERE inhrelid = class.oid AND relispartition)
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'm') AND relpersistence <> 't'
    AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\_toast%%'
ORDER BY class.oid
