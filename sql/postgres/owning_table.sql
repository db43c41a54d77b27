-- The table that a file of a relation belongs to: a table's own, that of its TOAST data or an index.
-- Parameters: tablespace, 0 for the database's own; number, of the file.
-- Result: oid, schema, name, relkind, relpersistence.
-- Versions: PostgreSQL 13 to 18.
WITH found AS (
    SELECT pg_filenode_relation(%(tablespace)s::oid, %(number)s::oid)::oid AS oid
), heap AS (
    SELECT coalesce(indrelid, found.oid) AS oid
    FROM found LEFT JOIN pg_index ON indexrelid = found.oid
)
SELECT class.oid, nspname, relname, relkind::text, relpersistence::text
FROM heap
JOIN pg_class AS class
    ON class.oid = coalesce((SELECT oid FROM pg_class WHERE reltoastrelid = heap.oid), heap.oid)
JOIN pg_namespace ON pg_namespace.oid = relnamespace
