-- Make or mend the role that pitr captures with, with no right that capture can do without.
-- Run it with psql as a superuser, in the database that the source names:
--     psql -v role=pitr -f role.sql DATABASE
-- and give the role a password there, if pg_hba.conf asks for one: \password pitr
--
-- REPLICATION is what streaming, slots and base backups need. It cannot be had smaller: a base
-- backup is a copy of the whole cluster, so guard this role's password as you guard the data.
-- Restore points are for `pitr mark`; without that right a mark still works, and names a WAL
-- position only. Reading catalogs, settings and slots is everybody's right already. Nothing else is
-- given: no table can be read with it through SQL, and nothing written.
-- Parameters: the psql variable `role`, its name.
-- Versions: 13 to 18.
-- Result: none.
\set ON_ERROR_STOP on
SELECT pg_catalog.format('CREATE ROLE %I', :'role')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :'role')
\gexec
ALTER ROLE :"role" WITH LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
SELECT pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role')
\gexec
GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO :"role";
