-- List the tables and columns that DROP … CASCADE of an object takes along, by pg_depend.
-- Parameters: class (a catalog's name), schema or null, name of the object.
-- Versions: 13 to 18.
-- Result: one row a table or column: schema, table, kind as in pg_class, column or null.
WITH RECURSIVE named(classid, objid) AS (
    SELECT 'pg_catalog.pg_class'::regclass::oid, c.oid
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE %(class)s = 'pg_class' AND c.relname = %(name)s
      AND (n.nspname = %(schema)s OR %(schema)s::text IS NULL AND n.nspname <> 'pg_catalog')
    UNION ALL
    SELECT 'pg_catalog.pg_type'::regclass::oid, t.oid
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE %(class)s = 'pg_type' AND t.typname = %(name)s
      AND (n.nspname = %(schema)s OR %(schema)s::text IS NULL AND n.nspname <> 'pg_catalog')
    UNION ALL
    SELECT 'pg_catalog.pg_namespace'::regclass::oid, oid
    FROM pg_catalog.pg_namespace WHERE %(class)s = 'pg_namespace' AND nspname = %(name)s
    UNION ALL
    SELECT 'pg_catalog.pg_extension'::regclass::oid, oid
    FROM pg_catalog.pg_extension WHERE %(class)s = 'pg_extension' AND extname = %(name)s
), gone(classid, objid, objsubid) AS (
    SELECT classid, objid, 0 FROM named
    UNION
    SELECT
        CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_catalog.pg_class'::regclass::oid END,
        coalesce(r.ev_class, d.objid),
        CASE WHEN r.oid IS NULL THEN d.objsubid ELSE 0 END
    FROM gone g
    JOIN pg_catalog.pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid
        AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)
    LEFT JOIN pg_catalog.pg_rewrite r
        ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
    WHERE d.deptype <> 'x'
)
SELECT DISTINCT n.nspname, c.relname, c.relkind, a.attname
FROM gone g
JOIN pg_catalog.pg_class c ON c.oid = g.objid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = g.objsubid
    AND g.objsubid > 0
WHERE g.classid = 'pg_catalog.pg_class'::regclass AND c.relkind IN ('r', 'p', 'm', 'f')
ORDER BY 1, 2, 4;
