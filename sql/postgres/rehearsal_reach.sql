-- Where statements on relations lead by themselves: foreign keys (up to the parents that are looked
-- up, down through what cascades), partitions and children, tables of indexes, rules, what a
-- materialized view reads, and the functions of triggers, defaults and constraints.
-- Parameters: relations, OIDs.
-- Result: class ('relation' or 'function') and oid of each, the relations given included.
-- Versions: PostgreSQL 13 to 18.
WITH RECURSIVE down AS (
    SELECT unnest(%(relations)s::oid[]) AS oid
    UNION
    SELECT link.oid
    FROM down
    CROSS JOIN LATERAL (
        SELECT conrelid AS oid FROM pg_constraint
        WHERE confrelid = down.oid AND contype = 'f' AND
            (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
        UNION ALL
        SELECT inhrelid FROM pg_inherits WHERE inhparent = down.oid
        UNION ALL
        SELECT indrelid FROM pg_index WHERE indexrelid = down.oid
        UNION ALL
        SELECT refobjid
        FROM pg_rewrite
        JOIN pg_class AS ruled ON ruled.oid = ev_class AND ruled.relkind IN ('r', 'p', 'm')
        JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE ev_class = down.oid AND refclassid = 'pg_class'::regclass
    ) AS link
), related AS (
    SELECT oid FROM down
    UNION
    SELECT confrelid FROM down JOIN pg_constraint ON conrelid = down.oid AND contype = 'f'
    UNION
    SELECT conrelid FROM down JOIN pg_constraint ON confrelid = down.oid AND contype = 'f'
)
SELECT 'relation', oid FROM related
UNION
SELECT 'function', tgfoid FROM down JOIN pg_trigger ON tgrelid = down.oid
WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgfoid >= 16384
UNION
SELECT 'function', refobjid
FROM down
JOIN pg_attrdef ON adrelid = down.oid
JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
    AND refclassid = 'pg_proc'::regclass
WHERE refobjid >= 16384
UNION
SELECT 'function', refobjid
FROM down
JOIN pg_constraint ON conrelid = down.oid
JOIN pg_depend ON classid = 'pg_constraint'::regclass AND objid = pg_constraint.oid
    AND refclassid = 'pg_proc'::regclass
WHERE refobjid >= 16384
