-- List the check constraints of one relation; what they hold of new rows is so also if NOT VALID.
-- Parameters: %(oid)s, the relation's OID.
-- Result: one row a constraint, by name: name, its condition as SQL over bare column names.
-- Versions: 13 to 18.
select k.conname, pg_get_expr(k.conbin, k.conrelid)
from pg_constraint k
where k.conrelid = %(oid)s::bigint::oid and k.contype = 'c'
  and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
order by k.conname;
