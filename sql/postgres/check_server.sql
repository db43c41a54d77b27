-- Read what decides whether a cluster can be captured: identity, role, room, settings.
-- Parameters: %(settings)s, the names of the settings that are wanted.
-- Versions: 13 to 18.
-- Result: one row: system identifier, whether the server is a standby, its clock in microseconds
-- since 1970, the role, whether it is a superuser, whether it may replicate, whether it may make
-- restore points, WAL senders at work, replication slots, unlogged tables of this database, the
-- settings by name in their own units.
SELECT
    (SELECT system_identifier FROM pg_catalog.pg_control_system())::numeric
    + CASE WHEN (SELECT system_identifier FROM pg_catalog.pg_control_system()) < 0
        THEN 18446744073709551616 ELSE 0 END AS system_identifier,
    pg_catalog.pg_is_in_recovery() AS is_standby,
    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint AS clock_us,
    role.rolname::text AS role,
    role.rolsuper AS is_superuser,
    role.rolreplication AS may_replicate,
    pg_catalog.has_function_privilege('pg_catalog.pg_create_restore_point(text)', 'EXECUTE')
        AS may_make_points,
    (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders())::int AS senders,
    (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int AS slots,
    (
        SELECT count(*)
        FROM pg_catalog.pg_class
        WHERE relkind = 'r' AND relpersistence = 'u'
    )::int AS unlogged_tables,
    (
        SELECT pg_catalog.jsonb_object_agg(name, setting)
        FROM pg_catalog.pg_settings
        WHERE name = ANY (%(settings)s)
    ) AS settings
FROM pg_catalog.pg_roles AS role
WHERE role.rolname = current_user;
