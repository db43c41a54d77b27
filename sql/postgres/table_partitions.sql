-- List the partitions of a partitioned table, at every level, those above before those below.
-- Parameters: %(oid)s, the table's OID.
-- Result: schema and name of each.
-- Versions: 13 to 18.
select n.nspname, c.relname
from pg_partition_tree(%(oid)s::bigint::oid) t
join pg_class c on c.oid = t.relid
join pg_namespace n on n.oid = c.relnamespace
where t.level > 0
order by t.level, c.oid;
