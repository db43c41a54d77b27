-- List the views, and materialised ones, that read a relation itself, not through others.
-- Parameters: %(oid)s, the relation's OID.
-- Result: schema and name of each.
-- Versions: 13 to 18.
select distinct n.nspname, v.relname
from pg_depend d
join pg_rewrite r on r.oid = d.objid
join pg_class v on v.oid = r.ev_class
join pg_namespace n on n.oid = v.relnamespace
where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
  and d.refobjid = %(oid)s::bigint::oid and v.oid <> d.refobjid and v.relkind in ('v', 'm')
order by 1, 2;
