-- Relations that chosen tables need to be usable, themselves included: partitions and inheritance
-- children, TOAST tables, indexes, sequences owned or named by a default, and on request the tables
-- that foreign keys name, and those whose rows go, or forget, with the rows that they name. From 18 on all sequences, because its pg_dump asks each for its value.
-- Parameters: tables, OIDs of the chosen relations; with_parents and with_children, whether foreign
--   keys are followed upwards, and downwards.
-- Result: oid, schema, name, relkind, relpersistence, tablespace and file of each; those without a
--   file (partitioned tables and indexes) have none.
-- Versions: PostgreSQL 13 to 18.
WITH RECURSIVE needed AS (
    SELECT unnest(%(tables)s::oid[]) AS oid
    UNION
    SELECT oid FROM pg_class
    WHERE relkind = 'S' AND relpersistence = 'p'
        AND current_setting('server_version_num')::int >= 180000
    UNION
    SELECT link.needs
    FROM needed
    CROSS JOIN LATERAL (
        SELECT inhrelid AS needs FROM pg_inherits WHERE inhparent = needed.oid
        UNION ALL
        SELECT reltoastrelid FROM pg_class WHERE oid = needed.oid AND reltoastrelid <> 0
        UNION ALL
        SELECT indexrelid FROM pg_index WHERE indrelid = needed.oid
        UNION ALL
        SELECT sequence.oid
        FROM pg_depend
        JOIN pg_class AS sequence ON sequence.oid = objid AND sequence.relkind = 'S'
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
            AND refobjid = needed.oid AND deptype IN ('a', 'i')
        UNION ALL
        SELECT sequence.oid
        FROM pg_attrdef
        JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
            AND refclassid = 'pg_class'::regclass
        JOIN pg_class AS sequence ON sequence.oid = refobjid AND sequence.relkind = 'S'
        WHERE adrelid = needed.oid
        UNION ALL
        SELECT confrelid FROM pg_constraint
        WHERE %(with_parents)s AND conrelid = needed.oid AND contype = 'f'
        UNION ALL
        SELECT conrelid FROM pg_constraint
        WHERE %(with_children)s AND confrelid = needed.oid AND contype = 'f'
            AND confdeltype IN ('c', 'n', 'd')
    ) AS link
)
SELECT
    class.oid,
    nspname,
    relname,
    relkind::text,
    relpersistence::text,
    coalesce(nullif(class.reltablespace, 0), dattablespace),
    pg_relation_filenode(class.oid)
FROM needed
JOIN pg_class AS class ON class.oid = needed.oid
JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_database ON datname = current_database()
