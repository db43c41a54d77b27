-- Statements that move tables into a schema, with their partitions and children, the types that
-- their columns have and the sequences that their defaults name. What an extension made stays.
-- Parameters: tables, OIDs of the chosen ones; schema, its name.
-- Result: statement.
-- Versions: PostgreSQL 13 to 18.
WITH RECURSIVE moved AS (
    SELECT unnest(%(tables)s::oid[]) AS oid
    UNION
    SELECT inhrelid FROM moved JOIN pg_inherits ON inhparent = moved.oid
), typed AS (
    SELECT atttypid AS oid FROM moved JOIN pg_attribute ON attrelid = moved.oid
    WHERE NOT attisdropped
    UNION
    SELECT link.oid
    FROM typed
    JOIN pg_type AS own ON own.oid = typed.oid
    LEFT JOIN pg_range ON rngtypid = own.oid
    LEFT JOIN pg_attribute ON attrelid = own.typrelid AND own.typrelid <> 0 AND NOT attisdropped
    CROSS JOIN LATERAL (VALUES (own.typelem), (own.typbasetype), (rngsubtype), (atttypid))
        AS link (oid)
    WHERE link.oid IS NOT NULL AND link.oid >= 16384
), own_types AS (
    SELECT pg_type.oid FROM typed JOIN pg_type ON pg_type.oid = typed.oid
    LEFT JOIN pg_class ON pg_class.oid = typrelid
    WHERE pg_type.oid >= 16384 AND typtype IN ('e', 'd', 'c', 'r')
        AND (typrelid = 0 OR pg_class.relkind = 'c')
        AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_type'::regclass AND objid = pg_type.oid AND deptype = 'e'
        )
), sequences AS (
    SELECT DISTINCT sequence.oid
    FROM moved
    JOIN pg_attrdef ON adrelid = moved.oid
    JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
        AND refclassid = 'pg_class'::regclass
    JOIN pg_class AS sequence ON sequence.oid = refobjid AND sequence.relkind = 'S'
    WHERE NOT EXISTS (
        SELECT FROM pg_depend AS owning
        WHERE owning.classid = 'pg_class'::regclass AND owning.objid = sequence.oid
            AND owning.deptype IN ('a', 'i')
            AND owning.refobjid IN (SELECT oid FROM moved)
    )
)
SELECT format('ALTER TYPE %%s SET SCHEMA %%I', oid::regtype, %(schema)s::text) FROM own_types
UNION ALL
SELECT format('ALTER SEQUENCE %%s OWNED BY NONE; ALTER SEQUENCE %%1$s SET SCHEMA %%2$I',
    oid::regclass, %(schema)s::text)
FROM sequences
UNION ALL
SELECT format(
    CASE relkind WHEN 'm' THEN 'ALTER MATERIALIZED VIEW %%s SET SCHEMA %%I'
        WHEN 'S' THEN 'ALTER SEQUENCE %%s SET SCHEMA %%I' ELSE 'ALTER TABLE %%s SET SCHEMA %%I' END,
    pg_class.oid::regclass, %(schema)s::text
)
FROM moved JOIN pg_class USING (oid)
