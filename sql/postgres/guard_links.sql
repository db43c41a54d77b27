-- List how tables hang together: foreign keys, inheritance and partitions.
-- Parameters: none.
-- Versions: 13 to 18.
-- Result: one row a link: OID of the table that depends, OID of the one it depends on, what happens
-- on DELETE as in pg_constraint.confdeltype, or 'inherits'.
SELECT conrelid::bigint, confrelid::bigint, confdeltype::text
FROM pg_catalog.pg_constraint WHERE contype = 'f'
UNION
SELECT inhrelid::bigint, inhparent::bigint, 'inherits' FROM pg_catalog.pg_inherits;
