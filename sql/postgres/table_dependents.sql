-- List the materialised views that read one relation, directly or through views.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row a materialised view, by name: schema.name.
-- Versions: 13 to 18.
with recursive readers (oid, relkind) as (
  select %(oid)s::bigint::oid, 'r'::"char"
  union
  select c.oid, c.relkind
  from readers r
  join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid
    and d.classid = 'pg_rewrite'::regclass
  join pg_rewrite w on w.oid = d.objid
  join pg_class c on c.oid = w.ev_class and c.oid <> r.oid
)
select n.nspname || '.' || c.relname
from readers r join pg_class c on c.oid = r.oid join pg_namespace n on n.oid = c.relnamespace
where r.relkind = 'm'
order by 1;
