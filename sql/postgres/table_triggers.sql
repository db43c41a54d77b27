-- List the triggers of one relation that would fire for an ordinary session.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row a trigger, by name, the internal ones of constraints left out: name, function as
--   schema.name, timing (BEFORE, AFTER, INSTEAD OF), FOR EACH ROW, an array of INSERT, UPDATE,
--   DELETE, the columns of NEW that its PL/pgSQL text assigns to.
-- Versions: 13 to 18.
select
  t.tgname,
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
  )
from pg_trigger t
join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
where t.tgrelid = %(oid)s::bigint::oid and not t.tgisinternal and t.tgenabled in ('O', 'A')
order by t.tgname;
