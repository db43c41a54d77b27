-- Say where in the WAL the server is.
-- Parameters: none.
-- Result: one row: the position up to which everything has been written or replayed, the timeline
--   (0 on a standby, which does not tell), the server's time.
-- Versions: 13 to 18.
SELECT
    CASE
        WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_insert_lsn()
    END::text,
    CASE
        WHEN pg_catalog.pg_is_in_recovery() THEN '0'
        ELSE substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)
    END,
    pg_catalog.clock_timestamp();
