-- List the tables that are not PostgreSQL's own, with the triggers that users put on them.
-- Parameters: none.
-- Versions: 13 to 18.
-- Result: one row a table: OID, schema, name, kind as in pg_class, names of its enabled triggers.
SELECT
    c.oid::bigint,
    n.nspname,
    c.relname,
    c.relkind,
    ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger t
          WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.tgname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%';
