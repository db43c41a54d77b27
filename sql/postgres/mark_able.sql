-- Read whether this is a primary, of which cluster, and whether a restore point can be made.
-- Parameters: none.
-- Versions: 13 to 18.
-- Result: one row: system identifier (signed), whether the server is a standby, whether this role
-- may make a restore point, bytes of a WAL segment, the server's clock in microseconds since 1970.
SELECT
    (SELECT system_identifier FROM pg_catalog.pg_control_system()),
    pg_catalog.pg_is_in_recovery(),
    pg_catalog.has_function_privilege('pg_catalog.pg_create_restore_point(text)', 'EXECUTE'),
    (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'),
    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint;
