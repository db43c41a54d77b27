-- List the columns of all tables that are not PostgreSQL's own, dropped ones included.
-- Parameters: none.
-- Versions: 13 to 18.
-- Result: one row a column: OID of the table, schema, table, whether its file is known to be empty,
-- number of the column, its name, whether it is dropped, xid that wrote this row of pg_attribute.
SELECT
    c.oid::bigint,
    n.nspname,
    c.relname,
    c.relkind <> 'p' AND coalesce(pg_catalog.pg_relation_size(c.oid) = 0, false),
    a.attnum::int,
    a.attname,
    a.attisdropped,
    a.xmin::text::bigint
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%'
ORDER BY c.oid, a.attnum;
