-- Read whether synchronous_commit = remote_apply tells one command's sessions from all others.
-- Parameters: none.
-- Versions: 13 to 18.
-- Result: one row: whether there are synchronous standbys, whether others commit with that setting.
SELECT
    (SELECT setting <> '' FROM pg_catalog.pg_settings WHERE name = 'synchronous_standby_names'),
    (SELECT reset_val = 'remote_apply' FROM pg_catalog.pg_settings
     WHERE name = 'synchronous_commit')
    OR EXISTS (SELECT FROM pg_catalog.pg_db_role_setting
               WHERE 'synchronous_commit=remote_apply' = ANY (setconfig));
