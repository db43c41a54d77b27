-- List the files that hold the rows of a table: its own, or those of its leaf partitions.
-- Parameters: %(oid)s, the table's OID.
-- Result: OID, schema and name of each relation; OIDs of database and tablespace, and the number of
--   its file; its blocks; whether its rows are kept by the access method heap, and the role may read
--   them there with the columns of the system: rights on a partitioned table, or on every column of
--   one, are not enough.
-- Versions: 13 to 18.
select
  c.oid::bigint,
  n.nspname,
  c.relname,
  d.oid::bigint,
  coalesce(nullif(c.reltablespace, 0), d.dattablespace)::bigint,
  pg_relation_filenode(c.oid)::bigint,
  pg_relation_size(c.oid) / current_setting('block_size')::bigint,
  a.amname = 'heap' and has_schema_privilege(n.oid, 'USAGE')
    and has_table_privilege(c.oid, 'SELECT') and not row_security_active(c.oid)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_database d on d.datname = current_database()
left join pg_am a on a.oid = c.relam
where c.relkind in ('r', 'm') and (
  c.oid = %(oid)s::bigint::oid
  or c.oid in (select relid from pg_partition_tree(%(oid)s::bigint::oid))
);
