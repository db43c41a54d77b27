-- Read one replication slot, and how much WAL the server keeps for it.
-- Parameters: %(name)s, the slot's name.
-- Versions: 13 to 18.
-- Result: one row, or none: name, kind, oldest kept WAL position or null, process that streams from
-- it or null, WAL status, bytes of WAL until it is lost or null, bytes of WAL kept.
SELECT
    slot.slot_name::text,
    slot.slot_type,
    slot.restart_lsn::text,
    slot.active_pid,
    slot.wal_status,
    slot.safe_wal_size,
    pg_catalog.pg_wal_lsn_diff(
        CASE
            WHEN pg_catalog.pg_is_in_recovery()
            THEN coalesce(
                pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()
            )
            ELSE pg_catalog.pg_current_wal_lsn()
        END,
        slot.restart_lsn
    )
FROM pg_catalog.pg_replication_slots AS slot
WHERE slot.slot_name = %(name)s;
