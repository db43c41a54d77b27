-- List the sequences that give the columns of one relation their values.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row a sequence and column: OID, schema, name, column, increment, its
--   lowest and its highest value, whether the role may set it, whether it may read it.
-- Versions: 13 to 18.
select distinct
  s.oid::bigint, n.nspname, s.relname, a.attname, q.seqincrement, q.seqmin, q.seqmax,
  has_sequence_privilege(s.oid, 'UPDATE'), has_sequence_privilege(s.oid, 'SELECT')
from (
  select d.objid as seq, d.refobjid as rel, d.refobjsubid as num
  from pg_depend d
  where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
    and d.refobjid = %(oid)s::bigint::oid and d.deptype in ('a', 'i') and d.refobjsubid > 0
  union
  select d.refobjid, ad.adrelid, ad.adnum
  from pg_attrdef ad
  join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = ad.oid
    and d.refclassid = 'pg_class'::regclass
  where ad.adrelid = %(oid)s::bigint::oid
) u
join pg_class s on s.oid = u.seq and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace
join pg_sequence q on q.seqrelid = s.oid
join pg_attribute a on a.attrelid = u.rel and a.attnum = u.num
order by 1, 4;
