-- List the columns of one relation in the order of their numbers, dropped ones left out.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row a column: number, name, type as `format_type` writes it with its modifier, the
--   same without one, OID of the type, OID of the base type under domains, typtype, whether a
--   cast to text may lose something, not null, default or generation expression as SQL or null, identity ('', 'a', 'd'),
--   generated ('', 's', 'v'), collation as SQL or null, whether values that are equal by it are
--   the same bytes, privileges as an array of words, labels of an enum or null.
-- Versions: 13 to 18.
with recursive base (attnum, oid, typtype, typbasetype) as (
  select a.attnum, t.oid, t.typtype, t.typbasetype
  from pg_attribute a join pg_type t on t.oid = a.atttypid
  where a.attrelid = %(oid)s::bigint::oid and a.attnum > 0 and not a.attisdropped
  union all
  select b.attnum, t.oid, t.typtype, t.typbasetype
  from base b join pg_type t on t.oid = b.typbasetype
  where b.typtype = 'd'
)
select
  a.attnum::int,
  a.attname,
  format_type(a.atttypid, a.atttypmod),
  format_type(a.atttypid, -1),
  a.atttypid::bigint,
  b.oid::bigint,
  t.typtype::text,
  -- Of character without a length the cast leaves blanks out that the value has.
  t.typtype = 'b' and (a.atttypid = 'bpchar'::regtype and a.atttypmod = -1 or exists (
    select from pg_cast k where k.castsource = a.atttypid
      and k.casttarget in ('text'::regtype, 'varchar'::regtype) and k.oid >= 16384
  )),
  a.attnotnull,
  -- A default names no column, and with the relation each would cost the cube of their number.
  pg_get_expr(d.adbin, case when a.attgenerated = '' then 0::oid else d.adrelid end),
  a.attidentity::text,
  a.attgenerated::text,
  case when a.attcollation <> 0 and a.attcollation <> t.typcollation
    then quote_ident(cn.nspname) || '.' || quote_ident(co.collname) end,
  coalesce(co.collisdeterministic, true)
    and not (a.atttypid = 'bpchar'::regtype and a.atttypmod = -1),
  array(
    select p from unnest(array['SELECT', 'INSERT', 'UPDATE']) p
    where has_column_privilege(a.attrelid, a.attnum, p)
  ),
  case when t.typtype = 'e'
    then array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.oid) end
from pg_attribute a
join pg_type t on t.oid = a.atttypid
join base b on b.attnum = a.attnum and b.typtype <> 'd'
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_collation co on co.oid = a.attcollation
left join pg_namespace cn on cn.oid = co.collnamespace
where a.attrelid = %(oid)s::bigint::oid and a.attnum > 0 and not a.attisdropped
order by a.attnum;
