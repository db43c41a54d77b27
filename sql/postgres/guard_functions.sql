-- Read whether functions of a name can write: somebody's own, and not declared to be read-only.
-- Parameters: schema or null, name.
-- Versions: 13 to 18.
-- Result: one row: whether there is one that can, whether there is any.
SELECT
    coalesce(bool_or(p.provolatile = 'v' AND n.nspname <> 'pg_catalog'), false),
    count(*) > 0
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = %(name)s AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s);
