-- List the foreign keys of every table of one schema, column by column.
-- Parameters: {schema}, the schema's name, is put in as text.
-- Result: one row a column, in the order of tables, keys and columns: child table, number of the
-- key in it, parent table, child column, parent column (NULL: the primary key's), what a change of
-- the parent's key does to the child, what its deletion does.
select child.name, key.id, key."table", key."from", key."to", key.on_update, key.on_delete
from {schema}.sqlite_schema as child
join pragma_foreign_key_list(child.name, '{schema}') as key
where child.type = 'table'
order by child.name, key.id, key.seq;
