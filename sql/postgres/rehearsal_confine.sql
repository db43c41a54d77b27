-- Take from a recovered cluster what leads out of it, and from its superusers what only they may do.
-- Who was a superuser keeps what it owns, the rights of all other roles, and BYPASSRLS. Only for a
-- sidecar that is thrown away: rows of the catalogs are changed by hand.
-- Parameters: keeper, the role that stays a superuser, and role, the one that will run statements,
-- are settings of the session, pitr.keeper and pitr.role; pitr.libraries, an array of the libraries
-- whose functions keep to the database.
-- Result: none.
-- Versions: PostgreSQL 13 to 18.
DO $confine$
DECLARE
    keeper oid := (SELECT oid FROM pg_authid WHERE rolname = current_setting('pitr.keeper'));
    first name := (SELECT rolname FROM pg_authid WHERE oid = 10);
    former oid[] := ARRAY(SELECT oid FROM pg_authid WHERE rolsuper AND oid <> keeper);
    one record;
BEGIN
    UPDATE pg_authid SET rolsuper = false, rolbypassrls = true, rolcreaterole = true,
        rolcreatedb = true, rolreplication = false
    WHERE oid = ANY (former);
    UPDATE pg_authid SET rolcanlogin = true, rolconnlimit = -1, rolvaliduntil = NULL
    WHERE rolname = current_setting('pitr.role');
    -- Roles of PostgreSQL's own that reach files, programs, other sessions or other servers.
    DELETE FROM pg_auth_members WHERE roleid IN (
        SELECT oid FROM pg_authid WHERE rolname IN ('pg_execute_server_program',
            'pg_write_server_files', 'pg_read_server_files', 'pg_signal_backend',
            'pg_create_subscription', 'pg_signal_autovacuum_worker', 'pg_checkpoint'));
    FOR one IN SELECT rolname FROM pg_roles
        WHERE oid <> ALL (former || keeper) AND rolname !~ '^pg_'
            AND NOT pg_has_role(oid, 10, 'MEMBER')
    LOOP
        EXECUTE format('GRANT %I TO %I', one.rolname, first);
    END LOOP;
    FOR one IN SELECT rolname FROM pg_roles
        WHERE oid = ANY (former) AND oid <> 10 AND NOT pg_has_role(oid, 10, 'MEMBER')
            AND NOT pg_has_role(10, oid, 'MEMBER')
    LOOP
        EXECUTE format('GRANT %I TO %I', first, one.rolname);
    END LOOP;
    -- Functions of PostgreSQL's own that not everybody may call: files, other sessions, the server.
    UPDATE pg_proc SET proowner = keeper,
        proacl = ARRAY[makeaclitem(keeper, keeper, 'EXECUTE', false)]
    WHERE oid < 16384 AND proacl IS NOT NULL;
    UPDATE pg_foreign_data_wrapper SET fdwhandler = 0;
    UPDATE pg_subscription SET subenabled = false, subslotname = NULL, subconninfo = '';
    UPDATE pg_proc SET probin = '$libdir/pitr-does-not-load-' || regexp_replace(probin, '.*/', '')
    WHERE oid >= 16384 AND probin IS NOT NULL AND (
        regexp_replace(regexp_replace(probin, '.*/', ''), '(-[0-9.]+)?(\.so)?$', '')
            <> ALL (current_setting('pitr.libraries')::text[])
        OR oid IN (SELECT lanplcallfoid FROM pg_language
            WHERE NOT lanpltrusted AND lanname NOT IN ('c', 'internal')));
    -- What sessions load is not for whoever is no superuser to set.
    UPDATE pg_db_role_setting SET setconfig = ARRAY(
        SELECT setting FROM unnest(setconfig) AS setting
        WHERE setting NOT LIKE '%preload_libraries=%');
    DELETE FROM pg_db_role_setting WHERE setconfig = '{}';
    UPDATE pg_database SET datconnlimit = -1 WHERE datname = current_database();
    IF current_setting('server_version_num')::int >= 150000 THEN
        -- Granted to the first role alone it would be what is so by default, and not be noted.
        FOR one IN SELECT rolname FROM pg_roles WHERE oid = ANY (former || keeper) LOOP
            EXECUTE format('GRANT SET ON PARAMETER session_replication_role TO %I', one.rolname);
        END LOOP;
    END IF;
END
$confine$
