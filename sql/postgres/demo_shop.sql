-- Make the shop of `pitr demo --postgres`: what a small application has, and 20,000 orders.
-- Parameters: none.
-- Result: none.
-- Versions: 13 to 18.
create table customers (id int generated always as identity primary key, name text not null);
create table orders (
  id int generated always as identity primary key,
  customer int not null references customers,
  item text not null,
  cents int not null check (cents > 0),
  status text not null default 'open'
);
create table order_lines (
  "order" int not null references orders on delete cascade,
  sku text not null,
  primary key ("order", sku)
);
create table visits (id int generated always as identity primary key, customer int, page text);
insert into customers (name) select 'Customer ' || n from generate_series(1, 500) as n;
insert into orders (customer, item, cents)
select 1 + n % 500, (array['teapot', 'lamp', 'chair', 'notebook', 'umbrella', 'kettle'])[1 + n % 6],
  100 + n
from generate_series(1, 20000) as n;
insert into order_lines select n, 'sku-' || n % 997 from generate_series(1, 20000) as n;
