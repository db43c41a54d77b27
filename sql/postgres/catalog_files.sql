-- Files of the system catalogs of this database, their TOAST tables and indexes; VACUUM FULL gives
-- them new ones. Without those of large objects, which may be most of a database.
-- Parameters: none.
-- Result: tablespace and file number of each.
-- Versions: PostgreSQL 13 to 18.
SELECT
    coalesce(nullif(reltablespace, 0), dattablespace),
    pg_relation_filenode(class.oid)
FROM pg_class AS class
JOIN pg_database ON datname = current_database()
WHERE class.oid < 16384
    AND class.oid NOT IN (2613, 2683)
    AND NOT relisshared
    AND pg_relation_filenode(class.oid) IS NOT NULL
