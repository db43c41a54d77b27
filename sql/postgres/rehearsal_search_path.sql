-- Look names up, in this transaction, where sessions of a role in this database do.
-- Parameters: role, its name.
-- Result: the search_path.
-- Versions: PostgreSQL 13 to 18.
SELECT set_config('search_path', replace(coalesce(
    (
        SELECT substr(setting, length('search_path=') + 1)
        FROM pg_db_role_setting
        JOIN pg_database ON datname = current_database()
        CROSS JOIN unnest(setconfig) AS setting
        WHERE setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = %(role)s))
            AND setdatabase IN (0, pg_database.oid) AND setting LIKE 'search_path=%%'
        ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC
        LIMIT 1
    ),
    '"$user", public'
), '"$user"', quote_ident(%(role)s)), true)
