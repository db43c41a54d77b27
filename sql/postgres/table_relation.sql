-- Describe one relation, with what the current role may do to it.
-- Parameters: %(oid)s, its OID, or null; %(schema)s and %(name)s, used when the OID is null.
-- Result: one row, or none: OID, schema, name, relkind, relpersistence, replica identity, whether
--   it has child tables by plain inheritance, whether row security would filter what the role
--   reads, whether row security is on at all, leaf partitions, estimated rows, size in bytes,
--   privileges as an array of words (USAGE of the schema included), owner, rules, the names of
--   publications that publish updates or deletes of it, and of those that publish inserts.
-- Versions: 13 to 18.
select
  c.oid::bigint,
  n.nspname,
  c.relname,
  c.relkind::text,
  c.relpersistence::text,
  c.relreplident::text,
  c.relkind = 'r' and exists (select from pg_inherits i where i.inhparent = c.oid),
  c.relrowsecurity and row_security_active(c.oid),
  c.relrowsecurity,
  case when c.relkind = 'p'
    then (select count(*) from pg_partition_tree(c.oid) p where p.isleaf) else 0 end,
  greatest(c.reltuples, 0)::bigint,
  case when c.relkind = 'p'
    then (select coalesce(sum(pg_table_size(p.relid)), 0) from pg_partition_tree(c.oid) p)
    else pg_table_size(c.oid) end::bigint,
  array(
    select p from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
    where has_table_privilege(c.oid, p)
  ) || case when has_schema_privilege(n.oid, 'USAGE') then array['USAGE'] else '{}' end,
  pg_get_userbyid(c.relowner),
  array(select r.rulename::text from pg_rewrite r
    where r.ev_class = c.oid and r.ev_enabled <> 'D' order by 1),
  array(
    select p.pubname::text from pg_publication p
    where (p.pubupdate or p.pubdelete) and exists (
      select from pg_publication_tables t
      where t.pubname = p.pubname and (t.schemaname, t.tablename) in (
        select n2.nspname, c2.relname from pg_class c2 join pg_namespace n2
          on n2.oid = c2.relnamespace
        where c2.oid = c.oid or c2.oid in (select relid from pg_partition_tree(c.oid))
      )
    ) order by 1
  ),
  array(
    select p.pubname::text from pg_publication p
    where p.pubinsert and exists (
      select from pg_publication_tables t
      where t.pubname = p.pubname and (t.schemaname, t.tablename) in (
        select n2.nspname, c2.relname from pg_class c2 join pg_namespace n2
          on n2.oid = c2.relnamespace
        where c2.oid = c.oid or c2.oid in (select relid from pg_partition_tree(c.oid))
      )
    ) order by 1
  )
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.oid = %(oid)s::bigint::oid
  or (%(oid)s::bigint is null and n.nspname = %(schema)s and c.relname = %(name)s);
