-- List the unique indexes and exclusion constraints of one relation, and of a partitioned one also
--   those that only some of its partitions have.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row an index, by name: name, numbers of the key columns (0: an expression, or a
--   column of a partition), each key part as SQL over bare column names, the operator of each part
--   as SQL (schema-qualified), the predicate as SQL or null, primary, nulls not distinct, can be
--   deferred, whether it is an exclusion constraint (or a unique one WITHOUT OVERLAPS), whether it
--   is the replica identity, whether it compares a part by another collation than the column's.
-- Versions: 13 to 18.
with relations (oid, is_partition) as (
  select %(oid)s::bigint::oid, false
  union all
  select p.relid, true from pg_partition_tree(%(oid)s::bigint::oid) p
  where p.isleaf and p.level > 0
)
select
  c.relname,
  array(select case when r.is_partition then 0 else k::int end
    from unnest(i.indkey::smallint[]) with ordinality as u (k, at)
    where at <= i.indnkeyatts order by at),
  array(
    select pg_get_indexdef(i.indexrelid, at, false)
      || coalesce(' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(o.collname), '')
    from generate_series(1, i.indnkeyatts) at
    left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[at - 1]
    left join pg_collation o on o.oid = i.indcollation[at - 1]
      and o.oid <> coalesce(a.attcollation, 'pg_catalog.default'::regcollation)
    left join pg_namespace n on n.oid = o.collnamespace
    order by at
  ),
  array(
    select format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
    from generate_series(1, i.indnkeyatts) at
    join pg_operator o on o.oid = coalesce(x.conexclop[at], (
      select am.amopopr from pg_opclass oc
      join pg_amop am on am.amopfamily = oc.opcfamily and am.amoplefttype = oc.opcintype
        and am.amoprighttype = oc.opcintype and am.amopstrategy = 3
      where oc.oid = (i.indclass::oid[])[at - 1]
    ))
    join pg_namespace n on n.oid = o.oprnamespace
    order by at
  ),
  nullif(concat_ws(' AND ',
    case when r.is_partition then '(' || pg_get_partition_constraintdef(r.oid) || ')' end,
    '(' || pg_get_expr(i.indpred, i.indrelid) || ')'
  ), ''),
  i.indisprimary and not r.is_partition,
  coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
  not i.indimmediate,
  x.conexclop is not null,
  i.indisreplident and not r.is_partition,
  exists (
    select from generate_series(1, i.indnkeyatts) at
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[at - 1]
    where i.indcollation[at - 1] <> a.attcollation
  )
from relations r
join pg_index i on i.indrelid = r.oid
join pg_class c on c.oid = i.indexrelid
left join pg_constraint x on x.conindid = i.indexrelid and x.conrelid = i.indrelid
  and x.contype in ('p', 'u', 'x')
where i.indisvalid and (i.indisunique or i.indisexclusion)
  and not (r.is_partition and c.relispartition)
order by r.is_partition, c.relname;
