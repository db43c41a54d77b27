-- List the types of the user's that the columns of relations need, each behind those it needs.
-- Parameters: %(oids)s, an array of OIDs of relations.
-- Result: schema and name of each enum, domain, range or free-standing composite type; what an
--   extension made is left out.
-- Versions: 13 to 18.
with recursive needed (oid) as (
  select atttypid from pg_attribute
  where attrelid = any (%(oids)s::bigint[]::oid[]) and attnum > 0 and not attisdropped
  union
  select link.needs
  from needed
  cross join lateral (
    select typelem as needs from pg_type where oid = needed.oid and typelem <> 0
    union all
    select typbasetype from pg_type where oid = needed.oid and typbasetype <> 0
    union all
    select rngsubtype from pg_range where rngtypid = needed.oid
    union all
    select a.atttypid from pg_type t join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where t.oid = needed.oid
  ) link
)
select n.nspname, t.typname
from needed
join pg_type t on t.oid = needed.oid
join pg_namespace n on n.oid = t.typnamespace
where n.nspname not in ('pg_catalog', 'information_schema')
  and (t.typtype in ('e', 'd', 'r')
    or t.typtype = 'c' and exists (
      select from pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
  and not exists (
    select from pg_depend d
    where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
order by t.oid;
