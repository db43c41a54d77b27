-- List the foreign keys that relations have and those that refer to them.
-- Parameters: %(oids)s, an array of OIDs of relations.
-- Result: one row a foreign key, copies on partitions left out: name, OID, schema and name of the
--   child, its columns; the same of the parent; the operator of each pair as SQL, parent on the
--   left; what happens on update and on delete ('a', 'r', 'c', 'n', 'd'); match ('s', 'f').
-- Versions: 13 to 18.
select
  k.conname,
  k.conrelid::bigint, cn.nspname, cc.relname,
  array(select a.attname::text from unnest(k.conkey) with ordinality u (n, at)
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by at),
  k.confrelid::bigint, pn.nspname, pc.relname,
  array(select a.attname::text from unnest(k.confkey) with ordinality u (n, at)
    join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by at),
  array(select format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
    from unnest(k.conpfeqop) with ordinality u (op, at)
    join pg_operator o on o.oid = u.op join pg_namespace n on n.oid = o.oprnamespace order by at),
  k.confupdtype::text, k.confdeltype::text, k.confmatchtype::text
from pg_constraint k
join pg_class cc on cc.oid = k.conrelid join pg_namespace cn on cn.oid = cc.relnamespace
join pg_class pc on pc.oid = k.confrelid join pg_namespace pn on pn.oid = pc.relnamespace
where k.contype = 'f' and k.conparentid = 0
  and (k.conrelid = any (%(oids)s::bigint[]::oid[]) or k.confrelid = any (%(oids)s::bigint[]::oid[]))
order by cn.nspname, cc.relname, k.conname;
