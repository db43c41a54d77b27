-- Functions with what tells which tables they read.
-- Parameters: functions, OIDs.
-- Result: name, language, whether it keeps to the database, body, CREATE FUNCTION, and the
--   search_path that it sets, which may be NULL.
-- Versions: PostgreSQL 13 to 18.
SELECT
    pg_proc.oid::regproc::text,
    lanname,
    lanpltrusted OR lanname IN ('internal', 'c', 'sql'),
    prosrc,
    pg_get_functiondef(pg_proc.oid),
    (
        SELECT substr(setting, length('search_path=') + 1)
        FROM unnest(proconfig) AS setting
        WHERE setting LIKE 'search_path=%%'
    )
FROM pg_proc
JOIN pg_language ON pg_language.oid = prolang
WHERE pg_proc.oid = ANY (%(functions)s::oid[]) AND prokind IN ('f', 'w', 'p')
