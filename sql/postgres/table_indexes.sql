-- List the unique indexes and exclusion constraints of one relation.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row an index, by name: name, numbers of the key columns (0: an expression), each
--   key part as SQL over bare column names, the operator of each part as SQL (schema-qualified),
--   the predicate as SQL or null, primary, nulls not distinct, can be deferred, whether it is an
--   exclusion constraint (or a unique one WITHOUT OVERLAPS), whether it is the replica identity.
-- Versions: 13 to 18.
select
  c.relname,
  array(select k::int from unnest(i.indkey::smallint[]) with ordinality as u (k, at)
    where at <= i.indnkeyatts order by at),
  array(select pg_get_indexdef(i.indexrelid, at, false) from generate_series(1, i.indnkeyatts) at),
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
  pg_get_expr(i.indpred, i.indrelid),
  i.indisprimary,
  coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
  not i.indimmediate,
  x.conexclop is not null,
  i.indisreplident
from pg_index i
join pg_class c on c.oid = i.indexrelid
left join pg_constraint x on x.conindid = i.indexrelid and x.conrelid = i.indrelid
  and x.contype in ('p', 'u', 'x')
where i.indrelid = %(oid)s::bigint::oid and i.indisvalid
  and (i.indisunique or i.indisexclusion)
order by c.relname;
