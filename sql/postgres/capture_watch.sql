-- Read how far the server's WAL goes at a moment, and its settings that matter to a capture.
-- Parameters: none.
-- Versions: 13 to 18.
-- Result: one row: server's clock in microseconds since 1970, flushed WAL position (of a standby:
-- received and replayed), whether it is a standby, milliseconds until an asynchronous commit is
-- flushed at the latest, bytes of a WAL segment, bytes of WAL that slots may keep or null, system identifier (signed).
SELECT
    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint,
    CASE
        WHEN pg_catalog.pg_is_in_recovery()
        THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
        ELSE pg_catalog.pg_current_wal_flush_lsn()
    END::text,
    pg_catalog.pg_is_in_recovery(),
    3 * (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_writer_delay'),
    (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'),
    (
        SELECT nullif(setting::bigint, -1) * 1048576
        FROM pg_catalog.pg_settings
        WHERE name = 'max_slot_wal_keep_size'
    ),
    (SELECT system_identifier FROM pg_catalog.pg_control_system());
