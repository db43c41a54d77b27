-- List what the entries of the indexes of one relation are made of; of a partitioned table those
-- that each of its partitions has.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row an index: names of the columns in it, INCLUDE ones too; how many of its parts are
--   expressions; its size in bytes, 0 of a partitioned one.
-- Versions: 13 to 18.
select
  array(
    select a.attname::text from unnest(i.indkey::smallint[]) k
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k
  ),
  (select count(*) from unnest(i.indkey::smallint[]) k where k = 0),
  case when c.relkind = 'i' then pg_relation_size(c.oid) else 0 end
from pg_index i
join pg_class c on c.oid = i.indexrelid
where i.indrelid = %(oid)s::bigint::oid and i.indislive
order by c.relname;
