-- What relations and functions lead to: the tables and functions that views read, the functions
-- behind aggregates and operators, and what SQL functions with a parsed body (14+) name.
-- Parameters: relations and functions, OIDs.
-- Result: class ('relation' or 'function') and oid of each, those given included.
-- Versions: PostgreSQL 13 to 18.
WITH RECURSIVE reached AS (
    SELECT 'pg_class'::regclass::oid AS class, unnest(%(relations)s::oid[]) AS oid
    UNION
    SELECT 'pg_proc'::regclass::oid, unnest(%(functions)s::oid[])
    UNION
    SELECT link.class, link.oid
    FROM reached
    CROSS JOIN LATERAL (
        SELECT refclassid AS class, refobjid AS oid
        FROM pg_rewrite
        JOIN pg_class AS view ON view.oid = ev_class AND view.relkind = 'v'
        JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE reached.class = 'pg_class'::regclass AND ev_class = reached.oid
        UNION ALL
        SELECT refclassid, refobjid
        FROM pg_depend
        WHERE reached.class = 'pg_proc'::regclass AND classid = reached.class
            AND objid = reached.oid
        UNION ALL
        SELECT 'pg_proc'::regclass, oprcode::oid
        FROM pg_operator
        WHERE reached.class = 'pg_operator'::regclass AND pg_operator.oid = reached.oid
    ) AS link
    WHERE link.class IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass)
)
SELECT CASE WHEN class = 'pg_class'::regclass THEN 'relation' ELSE 'function' END, oid
FROM reached
WHERE class <> 'pg_operator'::regclass AND oid >= 16384
