-- List the relations of the database connected to, with the files that hold them.
-- Parameters: none.
-- Result: one row a relation that has rows or holds partitions: its OID, file number (0: none),
--   tablespace, whether it is shared by all databases, schema, name, kind and persistence as in
--   pg_class, the table whose TOAST table or index it is (0: none), the partitioned table or index
--   of which it is a partition (0: none). Temporary relations are left out: no WAL has their rows.
-- Versions: 13 to 18. The file number of a mapped catalog is not in pg_class but in the relation
--   map, which only the function reads.
SELECT
    c.oid,
    CASE
        WHEN c.relfilenode <> 0 THEN c.relfilenode
        WHEN c.relkind IN ('p', 'I') THEN 0
        ELSE coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)
    END,
    CASE c.reltablespace WHEN 0 THEN d.dattablespace ELSE c.reltablespace END,
    c.relisshared,
    n.nspname,
    c.relname,
    c.relkind,
    c.relpersistence,
    coalesce(i.indrelid, t.oid, 0),
    coalesce(h.inhparent, 0)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_class AS t ON c.relkind = 't' AND t.reltoastrelid = c.oid
LEFT JOIN pg_catalog.pg_inherits AS h ON c.relispartition AND h.inhrelid = c.oid
WHERE c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'm', 't', 'i', 'I', 'S');
