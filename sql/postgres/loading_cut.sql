-- Statements that take off tables what leads out of them: triggers, rules, policies, foreign keys
-- to or from others, and their place among partitions or children of a table that is not chosen.
-- Parameters: tables, OIDs of the chosen ones; schema, unused here.
-- Result: statement.
-- Versions: PostgreSQL 13 to 18.
WITH RECURSIVE moved AS (
    SELECT unnest(%(tables)s::oid[]) AS oid
    UNION
    SELECT inhrelid FROM moved JOIN pg_inherits ON inhparent = moved.oid
)
SELECT format(
    CASE WHEN relispartition THEN 'ALTER TABLE %%s DETACH PARTITION %%s'
        ELSE 'ALTER TABLE %%2$s NO INHERIT %%1$s' END,
    inhparent::regclass, inhrelid::regclass
)
FROM moved
JOIN pg_inherits ON inhrelid = moved.oid AND inhparent NOT IN (SELECT oid FROM moved)
JOIN pg_class AS child ON child.oid = inhrelid AND relkind IN ('r', 'p', 'f')
UNION ALL
SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname)
FROM pg_constraint
WHERE contype = 'f' AND conparentid = 0
    AND (conrelid IN (SELECT oid FROM moved) OR confrelid IN (SELECT oid FROM moved))
    AND NOT (conrelid IN (SELECT oid FROM moved) AND confrelid IN (SELECT oid FROM moved))
UNION ALL
SELECT format('DROP TRIGGER %%I ON %%s', tgname, tgrelid::regclass)
FROM pg_trigger
WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM moved)
    AND tgname NOT IN (
        SELECT above.tgname FROM pg_inherits JOIN pg_trigger AS above ON above.tgrelid = inhparent
        WHERE inhrelid = pg_trigger.tgrelid AND inhparent IN (SELECT oid FROM moved)
    )
UNION ALL
SELECT format('DROP RULE %%I ON %%s', rulename, ev_class::regclass)
FROM pg_rewrite
WHERE rulename <> '_RETURN' AND ev_class IN (SELECT oid FROM moved)
UNION ALL
SELECT format('DROP POLICY %%I ON %%s', polname, polrelid::regclass)
FROM pg_policy
WHERE polrelid IN (SELECT oid FROM moved)
UNION ALL
SELECT format('ALTER TABLE %%s DISABLE ROW LEVEL SECURITY', oid::regclass)
FROM pg_class
WHERE relrowsecurity AND oid IN (SELECT oid FROM moved)
