-- Functions of users by their names, all of them that share one.
-- Parameters: names and schemas, arrays of the same length; a schema is NULL where none was given.
-- Result: oid.
-- Versions: PostgreSQL 13 to 18.
SELECT pg_proc.oid
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
JOIN pg_proc ON proname = wanted.name
JOIN pg_namespace ON pg_namespace.oid = pronamespace
WHERE pg_proc.oid >= 16384 AND nspname = coalesce(wanted.schema, nspname)
