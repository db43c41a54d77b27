-- List the triggers of one relation that would fire for an ordinary session, and those that only
--   some of its partitions have.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row a trigger, by name, the internal ones of constraints left out: name, with the
--   partition if it is one of that alone, function as schema.name, timing (BEFORE, AFTER, INSTEAD OF), FOR EACH ROW, an array of INSERT, UPDATE,
--   DELETE, the columns of NEW that its PL/pgSQL text assigns to, whether that is on every row: it
--   is not of one partition alone, has no condition, and its text no branch.
-- Versions: 13 to 18.
with relations (oid, name) as (
  select %(oid)s::bigint::oid, null
  union all
  select p.relid, c.relname
  from pg_partition_tree(%(oid)s::bigint::oid) p join pg_class c on c.oid = p.relid
  where p.isleaf and p.level > 0
)
select
  t.tgname || coalesce(' of the partition ' || r.name, ''),
  n.nspname || '.' || p.proname,
  case when t.tgtype & 2 <> 0 then 'BEFORE' when t.tgtype & 64 <> 0 then 'INSTEAD OF'
    else 'AFTER' end,
  t.tgtype & 1 <> 0,
  array_remove(array[
    case when t.tgtype & 4 <> 0 then 'INSERT' end,
    case when t.tgtype & 16 <> 0 then 'UPDATE' end,
    case when t.tgtype & 8 <> 0 then 'DELETE' end
  ], null),
  array(
    select distinct case when m[1] like '"%%' then btrim(m[1], '"') else lower(m[1]) end
    from regexp_matches(
      p.prosrc, '(?:;|\mthen|\mbegin|\melse|\mloop)\s*new\.("[^"]+"|[\w$]+)\s*:?=', 'gi') as m
    order by 1
  ),
  r.name is null and t.tgqual is null and t.tgattr = ''::int2vector
    and p.prosrc !~* '\m(if|case|loop|while|for|foreach|exception|return\s+(old|null))\M'
from relations r
join pg_trigger t on t.tgrelid = r.oid
join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
where not t.tgisinternal and t.tgenabled in ('O', 'A') and (
  r.name is null
  or t.tgtype & 1 <> 0 and not exists (
    select from pg_trigger o join pg_partition_ancestors(r.oid) a on a.relid = o.tgrelid
    where a.relid <> r.oid and o.tgname = t.tgname
  )
)
order by r.name nulls first, t.tgname;
