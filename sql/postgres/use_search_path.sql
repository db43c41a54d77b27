-- Look names up, in this transaction, where sessions of an application in this database do.
-- Parameters: none.
-- Result: the search_path; what a role sets for itself is not known here.
-- Versions: PostgreSQL 13 to 18.
SELECT set_config('search_path', coalesce(
    (
        SELECT substr(setting, length('search_path=') + 1)
        FROM pg_db_role_setting
        JOIN pg_database ON datname = current_database()
        CROSS JOIN unnest(setconfig) AS setting
        WHERE setrole = 0 AND setdatabase IN (0, pg_database.oid) AND setting LIKE 'search_path=%'
        ORDER BY setdatabase DESC
        LIMIT 1
    ),
    '"$user", public'
), true)
