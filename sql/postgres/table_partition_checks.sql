-- List what only some partitions of one relation ask of their rows: checks, and columns not null.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row each: what it is called, which rows the partition takes and what it asks of them,
--   as SQL over bare column names.
-- Versions: 13 to 18.
select k.what, pg_get_partition_constraintdef(p.relid), k.condition
from pg_partition_tree(%(oid)s::bigint::oid) p
join pg_class c on c.oid = p.relid
cross join lateral (
  select 'the constraint ' || x.conname || ' of the partition ' || c.relname,
    pg_get_expr(x.conbin, x.conrelid)
  from pg_constraint x
  where x.conrelid = p.relid and x.contype = 'c' and x.coninhcount = 0
    and coalesce((to_jsonb(x) ->> 'conenforced')::boolean, true)
  union all
  select format('%%I, which must not be null in the partition %%s,', a.attname, c.relname),
    format('%%I IS NOT NULL', a.attname)
  from pg_attribute a
  where a.attrelid = p.relid and a.attnum > 0 and a.attnotnull and not exists (
    select from pg_attribute r
    where r.attrelid = %(oid)s::bigint::oid and r.attname = a.attname and r.attnotnull
  )
) k (what, condition)
where p.level > 0
order by c.relname, k.what;
